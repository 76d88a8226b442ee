"""The plan in a model's answer: VLABench's own strict reading, and a lenient one that names what it mended."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import Any, Literal, NamedTuple

from leap.vlabench import typography

Mode = Literal["official", "lenient"]
LONGEST_READ = 50_000  # characters of a response in which a plan or a verdict is searched for, thoughts left out
_LONGEST_GUESSED = 10_000  # characters that json-repair is given: brackets of four times as many take it minutes

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
_STRINGS = re.compile(_STRING, re.DOTALL)
_STRING_OR_TRAILING_COMMA = re.compile(rf"({_STRING})|,(?=\s*[\]}}])", re.DOTALL)
_BETWEEN_STEPS = re.compile(r"\s*,?\s*")
_FOLDED_STARTS = 4  # places that may begin a plan: between them stands prose, whose quotes need not be paired
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
    readers = _READERS if len(answer) <= _LONGEST_GUESSED else _READERS[:-1]
    for blocks in (list(_fenced(answer)), [_Block(answer, ("bare_json",))]):
        for read in readers:
            for block in blocks:
                steps = read(block.text)
                if steps is not None:
                    steps = _with_ascii_ids(steps)
                    repairs = removed + unread + block.repairs + steps.repairs
                    # Nothing named yet: only a backtick or a blank unknown to JSON at the plan's end was in the way.
                    return ParsedPlan(steps.plan, repairs=repairs or ("surrounding_text",))
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


def _with_ascii_ids(steps: _Steps) -> _Steps:
    """Ids in full-width digits as the numbered image has them."""
    plan = [
        step | {"params": {key: typography.fold_number(value) for key, value in step["params"].items()}}
        if isinstance(step.get("params"), dict)
        else step
        for step in steps.plan
    ]
    return steps if plan == steps.plan else _Steps(plan, tuple(dict.fromkeys((*steps.repairs, "typographic_signs"))))


def _read_whole(text: str) -> _Steps | None:
    try:
        return _steps(json.loads(text))
    except _NOT_JSON:
        return None


def _read_embedded(text: str) -> _Steps | None:
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


def _read_without_trailing_commas(text: str) -> _Steps | None:
    mended = _STRING_OR_TRAILING_COMMA.sub(lambda match: match[1] or "", text)
    steps = _read_embedded(mended)
    return _Steps(steps.plan, (*steps.repairs, "trailing_commas")) if steps else None


def _read_truncated(text: str) -> _Steps | None:
    """The complete steps of a list that breaks off with the text; None if the rest is anything but a step cut off."""
    start = _PLAN_START.search(text)
    opening = text.find("[", start.start()) if start else -1
    if not start or opening < 0:
        return None
    plan: list[Any] = []
    position = opening + 1
    while True:
        gap = _BETWEEN_STEPS.match(text, position)
        assert gap  # it may be empty
        try:
            step, position = _DECODER.raw_decode(text, gap.end())
        except _NOT_JSON:
            break
        plan.append(step)
    if not plan or not _is_cut_off(text[gap.end() :]):
        return None
    repairs = ["surrounding_text"] if text[: start.start()].strip() else []
    return _steps(plan if start[0][0] == "[" else {"skill_sequence": plan}, *repairs, "truncated_list")


def _is_cut_off(rest: str) -> bool:
    """Whether `rest`, what follows a list's last complete step, is nothing or one object that is open to the end."""
    depth = 0
    for sign in _STRINGS.sub("", rest):
        depth += (sign in "[{") - (sign in "]}")
        if depth <= 0:
            return False
    return True


def _read_folded(text: str) -> _Steps | None:
    if not typography.SIGNS.search(text):
        return None
    for start in islice(typography.PLAN_START.finditer(text), _FOLDED_STARTS):
        written = text[start.start() :]
        foldings = dict.fromkeys(typography.fold_json(written, mixed) for mixed in (False, True))
        tried = product([folded for folded in foldings if folded != written], _READERS_OF_JSON)
        if steps := next((steps for folded, read in tried if (steps := read(folded))), None):
            before = ["surrounding_text"] if text[: start.start()].strip() else []
            return _Steps(steps.plan, tuple(dict.fromkeys([*before, *steps.repairs, "typographic_signs"])))
    return None


def _read_with_json_repair(text: str) -> _Steps | None:
    start = typography.PLAN_START.search(text)
    if not start:
        return None
    import json_repair

    written = text[start.start() :]
    folded = typography.fold_json(written)
    try:
        value = json_repair.loads(folded, skip_json_loads=True)
    except _NOT_JSON:
        return None
    repairs = ["surrounding_text"] if text[: start.start()].strip() else []
    repairs += ["typographic_signs"] if folded != written else []
    steps = _steps(value, *repairs, "json_repair")
    return steps if steps and steps.plan else None


# From certain to guessed. Every block is read in one way before any is read in the next: a block that is whole goes
# before an earlier one that needs mending.
_READERS_OF_JSON: tuple[Callable[[str], _Steps | None], ...] = (
    _read_whole,
    _read_embedded,
    _read_without_trailing_commas,
    _read_truncated,
)
_READERS = (*_READERS_OF_JSON, _read_folded, _read_with_json_repair)
