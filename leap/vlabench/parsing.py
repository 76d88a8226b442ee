"""The plan in a model's answer: VLABench's own strict reading, and a lenient one that names what it mended."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any, Literal, NamedTuple

from leap.vlabench import typography

Mode = Literal["official", "lenient"]
LONGEST_READ = 50_000  # characters of a response in which a plan or a verdict is searched for, thoughts left out
_LONGEST_GUESSED = 10_000  # characters that json-repair is given: brackets of four times as many take it minutes
_DEEPEST_GUESSED = 8  # brackets around a value; a plan has four

REPAIRS = (
    "thinking_removed",  # <think> blocks and the like, or all before a lone </think>, left out
    "untagged_fence",  # ``` without a tag
    "fence_tag",  # a tag other than json: another language, capitals, a blank before it
    "later_fence",  # not the first ```json fence
    "unclosed_fence",  # the closing ``` is missing
    "bare_json",  # no fence, or none that holds a plan
    "surrounding_text",  # words before or after the plan left out
    "wrapper_removed",  # {"skill_sequence": [...]} instead of the list
    "trailing_commas",  # a comma before a closing bracket
    "typographic_signs",  # Chinese quotes, full-width colons, commas, brackets or digits around the values
    "truncated_list",  # the answer was cut off: the complete steps before the cut are kept
    "json_repair",  # guessed by the json-repair library: the last resort, for responses of up to 10,000 characters
    "end_unread",  # what stands behind the first 50,000 characters is not looked at
)
"""Every name that `ParsedPlan.repairs` can hold."""

# The tags of the models that show their thoughts: most <think>, also with attributes, Kimi ◁think▷, Mistral [THINK],
# Seed <seed:think>, OpenThinker <|begin_of_thought|>, Cohere <|START_THINKING|>, gpt-oss its channel of analysis.
_NAMES = r"(?:(?:seed:)?think(?:ing)?|thoughts?|reasoning|reflection|analysis|scratchpad|思考)"
_OPEN, _CLOSE = r"(?:<\|?|＜|&lt;)", r"(?:\|?>|＞|&gt;)"
_THOUGHT_START = (
    rf"{_OPEN}\s*{_NAMES}(?:\s[^<>]{{0,200}})?(?<!/)\s*{_CLOSE}|◁\s*{_NAMES}\s*▷|\[\s*THINK\s*\]"
    r"|<\|(?:begin_of_thought|START_THINKING)\|>|<\|channel\|>\s*(?:analysis|commentary)[^<>]{0,200}<\|message\|>"
)
_THOUGHT_END = (
    rf"{_OPEN}\s*/\s*{_NAMES}\s*{_CLOSE}|◁\s*/\s*{_NAMES}\s*▷|\[\s*/\s*THINK\s*\]"
    r"|<\|(?:end_of_thought|END_THINKING)\|>|<\|channel\|>\s*final\b[^<>]{0,200}<\|message\|>"
)
_THOUGHTS = re.compile(
    rf"(?:{_THOUGHT_START}).*?(?:{_THOUGHT_END}|\Z)|(?P<lone_end>{_THOUGHT_END})",
    re.DOTALL | re.IGNORECASE,
)
_FENCE = re.compile(r"`{3,}(?P<tag>[ \t]*[\w.+-]*)(?P<body>.*?)(?P<close>`{3,}|\Z)", re.DOTALL)
_PLAN_START = re.compile(r"""\[\s*\{|\{\s*["']skill_sequence["']""")
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)'  # an unclosed string reaches to the end, which keeps matching linear
_STRING_OR_TRAILING_COMMA = re.compile(rf"({_STRING})|,(?=\s*[\]}}])", re.DOTALL)
_STRING_OR_BRACKET = re.compile(rf"{_STRING}|[\[\]{{}}]", re.DOTALL)
_CLOSED_LIST = re.compile(r"\}\s*,?\s*\]\s*\}?[^\[\]{}]*\Z")
_STARTS_MENDED = 4  # places that may begin a plan: between them stands prose, whose quotes need not be paired
_DECODER = json.JSONDecoder()
_NOT_JSON = (ValueError, RecursionError)  # malformed or a number of too many digits; nested too deep


@dataclass(frozen=True)
class ParsedPlan:
    """One answer, parsed. `error` says why there is no plan, or is None.

    Ask `ok`, not whether `plan` is None: upstream's parser takes any JSON value for a plan, so for an answer of null
    both `plan` and `error` are None. (Such a plan scores five zeros.)
    `repairs` names what the lenient mode mended (see `REPAIRS`); it is empty for what upstream accepts.
    """

    plan: Any | None
    error: str | None = None
    repairs: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.error is None


class _Block(NamedTuple):
    """A piece of an answer that may hold the plan, and what is overlooked by taking it."""

    text: str
    repairs: tuple[str, ...]


class _Steps(NamedTuple):
    """A list of steps, and what was mended to read it."""

    plan: list[dict[str, Any]]
    repairs: tuple[str, ...]


def parse_plan(text: Any, mode: Mode = "official") -> ParsedPlan:
    """The plan in `text`, a model's answer. No text raises; what is not a string is a format error.

    official: the JSON between the first "```json" and the next "```", whatever value it is
    (OpenMOSS/VLABench 47b04bf, evaluation/model/vlm/gpt4.py; its Claude and Gemini adapters do the same).
    lenient: the same where that succeeds, unless this fence stands among the model's thoughts: a draft is no answer.
    Else the first list of steps that can be made out of what is no thought, fences before loose text, in its first
    LONGEST_READ characters: searching for JSON takes time by the square of what is searched.
    """
    if mode not in ("official", "lenient"):
        raise ValueError(f'unknown mode {mode!r}: use "official" or "lenient"')
    if not isinstance(text, str):
        return ParsedPlan(None, f"the answer is not text but {type(text).__name__}")
    official = _parse_official(text)
    if mode == "official":
        return official
    thoughts = _thoughts(text)
    fence = text.find("```json")
    if official.ok and not any(start <= fence < end for start, end in thoughts):
        return official
    problem = "no plan after the thoughts" if official.ok else official.error
    answer = _without(text, thoughts)
    if len(answer) > LONGEST_READ:
        problem = f"{problem}; no plan in the first {LONGEST_READ} characters, and more are not searched"
    return _parse_lenient(answer, ("thinking_removed",) if thoughts else ()) or ParsedPlan(None, problem)


def _thoughts(text: str) -> list[tuple[int, int]]:
    """(start, end) of a response's thoughts. Some chat templates open them, so that only their end is in the text."""
    spans: list[tuple[int, int]] = []
    for match in _THOUGHTS.finditer(text):
        if match["lone_end"]:
            spans.clear()
        spans.append((0, match.end()) if match["lone_end"] else match.span())
    return spans


def without_thoughts(text: str) -> str:
    """A response without what its model only thought: drafts are no answers."""
    return _without(text, _thoughts(text))


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    starts, ends = [0, *(end for _, end in spans)], [*(start for start, _ in spans), len(text)]
    return "".join(text[start:end] for start, end in zip(starts, ends, strict=True))


def _parse_official(text: str) -> ParsedPlan:
    _, opening, rest = text.partition("```json")
    if not opening:
        return ParsedPlan(None, "no ```json fence")
    # Cut at a second "```json" before looking for the end: the two overlap in "```json[]````json", and only this order
    # keeps the odd backtick on which upstream's parser fails there.
    body = rest.partition("```json")[0].partition("```")[0]
    try:
        return ParsedPlan(json.loads(body))
    except _NOT_JSON as error:
        return ParsedPlan(None, f"no valid JSON in the ```json fence: {error}")


def _parse_lenient(answer: str, removed: tuple[str, ...]) -> ParsedPlan | None:
    if removed and (official := _parse_official(answer)).ok:
        return ParsedPlan(official.plan, repairs=removed)
    unread = ("end_unread",) if len(answer) > LONGEST_READ else ()
    answer = answer[:LONGEST_READ]
    for blocks in (list(_fenced(answer)), [_Block(answer, ("bare_json",))]):
        # From certain to guessed, and every block in one way before any in the next: a block that is whole goes before
        # an earlier one that needs mending.
        for read in (_read_whole, _read_list, _read_mended, _read_with_json_repair):
            for block in blocks:
                if found := read(block.text):
                    plan = _with_ascii_ids(found.plan)
                    folded = ("typographic_signs",) if plan != found.plan else ()
                    repairs = dict.fromkeys(removed + unread + block.repairs + found.repairs + folded)
                    # Nothing named yet: only a backtick or a blank unknown to JSON at the plan's end was in the way.
                    return ParsedPlan(plan, repairs=tuple(repairs) or ("surrounding_text",))
    return None


def _fenced(answer: str) -> Iterator[_Block]:
    official_tag = answer.find("```json") + len("```")
    for fence in _FENCE.finditer(answer):
        repairs: tuple[str, ...] = ()
        if not fence["tag"].strip():
            repairs = ("untagged_fence",)
        elif fence["tag"] != "json":
            repairs = ("fence_tag",)
        elif fence.start("tag") != official_tag:
            repairs = ("later_fence",)
        yield _Block(fence["body"], repairs if fence["close"] else (*repairs, "unclosed_fence"))


def _steps(value: Any, *repairs: str) -> _Steps | None:
    """`value` as a list of named steps, out of its wrapper if it has one; None for any other JSON value."""
    if isinstance(value, dict) and "skill_sequence" in value:
        value, repairs = value["skill_sequence"], (*repairs, "wrapper_removed")
    if isinstance(value, list) and all(isinstance(step, dict) and step.get("name") for step in value):
        return _Steps(value, repairs)
    return None


def _with_ascii_ids(plan: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ids in full-width digits as the numbered image has them."""
    return [
        step | {"params": {key: typography.fold_number(value) for key, value in step["params"].items()}}
        if isinstance(step.get("params"), dict)
        else step
        for step in plan
    ]


def _read_whole(text: str) -> _Steps | None:
    try:
        return _steps(json.loads(text))
    except _NOT_JSON:
        return None


def _read_list(text: str) -> _Steps | None:
    """The first plan among other words."""
    for start in _PLAN_START.finditer(text):
        try:
            value, end = _DECODER.raw_decode(text, start.start())
        except ValueError:
            continue
        except RecursionError:  # each of the nested starts that follow would take as long to fail
            return None
        around = text[: start.start()] + text[end:]
        if steps := _steps(value, *(["surrounding_text"] if around.strip() else [])):
            return steps
    return None


def _read_mended(text: str) -> _Steps | None:
    """A plan in typographic signs, with trailing commas, or broken off with the text."""
    for start in islice(typography.PLAN_START.finditer(text), _STARTS_MENDED):
        written = text[start.start() :]
        before = ["surrounding_text"] if text[: start.start()].strip() else []
        for folded in (written, *typography.foldings(written)):
            signs = ["typographic_signs"] if folded != written else []
            for mended, mends in ((folded, []), _whole_steps(folded)):
                if steps := _read_list(mended):
                    return _Steps(steps.plan, (*before, *mends, *steps.repairs, *signs))
    return None


def _read_with_json_repair(text: str) -> _Steps | None:
    """Guessed, but no step that breaks off: json-repair would complete it, and invent an id or a skill."""
    start = typography.PLAN_START.search(text)
    if not start or len(text) > _LONGEST_GUESSED:
        return None
    written = text[start.start() :]
    folded = typography.fold_json(written)
    whole, mends = _whole_steps(folded)
    if _deepest(whole) > _DEEPEST_GUESSED:
        return None
    import json_repair

    try:
        value = json_repair.loads(whole, skip_json_loads=True)
    except _NOT_JSON:
        return None
    before = ["surrounding_text"] if text[: start.start()].strip() else []
    signs = ["typographic_signs"] if folded != written else []
    steps = _steps(value, *before, *signs, *mends, "json_repair")
    return steps if steps and steps.plan else None


def _whole_steps(text: str) -> tuple[str, list[str]]:
    """A plan without trailing commas, up to the last closed step where its list is not closed; what was mended."""
    mended = _STRING_OR_TRAILING_COMMA.sub(lambda match: match[1] or "", text)
    mends = ["trailing_commas"] if mended != text else []
    if _CLOSED_LIST.search(mended):  # whatever its brackets are: no step is cut off
        return mended, mends
    of_list = 2 if mended.startswith("{") else 1
    depth = end = 0
    for sign in _STRING_OR_BRACKET.finditer(mended):
        depth += (sign[0] in "[{") - (sign[0] in "]}")
        if depth < of_list and sign[0] == "]":
            return mended, mends
        if depth == of_list and sign[0] == "}":
            end = sign.end()
    return mended[:end] + "]}"[:of_list], [*mends, "truncated_list"]


def _deepest(text: str) -> int:
    depths = accumulate(1 if sign in "[{" else -1 for sign in re.findall(r"[\[\]{}]", text))
    return max(depths, default=0)
