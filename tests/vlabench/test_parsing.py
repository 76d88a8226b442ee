"""The parser of answers: upstream's rule to the letter, and the lenient mode's promises."""

import json
import re
from typing import Any

import pytest
from conftest import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st

from leap.vlabench.golden import load_golden
from leap.vlabench.parsing import LONGEST_READ, REPAIRS, ParsedPlan, parse_plan

PROPERTY = settings(derandomize=True, max_examples=200)
PLAN = [
    {"name": "pick", "params": {"target_entity_name": 3}},
    {"name": "place", "params": {"target_container_name": 7}},
]
TEXT = json.dumps(PLAN)
CUT = TEXT[: TEXT.index("place")]
FENCE = "```"
DRAFT = f'<think>First idea:\n{FENCE}json\n[{{"name": "lift", "params": {{}}}}]\n{FENCE}\nNo.</think>\n\n'
FOLDED = ["bare_json", "typographic_signs"]
FULL_WIDTH = str.maketrans('[]{}:,"0123456789', "［］｛｝：，＂０１２３４５６７８９")

PIECES = st.sampled_from(
    [
        *(
            "```json",
            "```",
            "````",
            "``",
            "`",
            "```python\n",
            "``` json",
            "~~~",
            "\n",
            " ",
            ",",
            "[",
            "]",
            "{",
            "}",
            '"',
            "\\",
        ),
        *(
            "<think>",
            "</think>",
            "“name”：",
            "［｛",
            "，",
            "３",
            '"skill_sequence":',
            "'name':",
            '{"name": "pick"}',
            "null",
            "NaN",
            "1e999",
            "é",
            "\ud800",
        ),
        *(TEXT, TEXT[:-1] + ",]", CUT, TEXT.replace('"', "'"), json.dumps({"skill_sequence": PLAN}), "As in [1], "),
    ]
)
ANSWERS = st.one_of(st.text(), st.lists(PIECES, max_size=12).map("".join))


def test_golden_vectors() -> None:
    failures = []
    for case in load_golden(GOLDEN / "parse_public.jsonl"):
        parsed, expected = parse_plan(case["text"]), case["expected"]
        if "format_error" in expected:
            agrees = not parsed.ok and parsed.plan is None
        else:  # compared as JSON text, which tells 1, 1.0 and true apart
            agrees = parsed.ok and json.dumps(parsed.plan) == json.dumps(expected["skill_sequence"])
        if not agrees or parsed.repairs:
            failures.append(case["id"])
    assert failures == []


@PROPERTY
@given(ANSWERS)
def test_official_is_two_cuts_and_a_json_value(text: str) -> None:
    parsed = parse_plan(text)
    parts = text.split("```json")
    if len(parts) == 1:
        assert parsed.error == "no ```json fence"
        return
    body = parts[1].split("```")[0]
    try:
        value = json.loads(body)
    except ValueError:
        assert not parsed.ok
    else:
        assert parsed.ok
        assert json.dumps(parsed.plan) == json.dumps(value)


@PROPERTY
@given(ANSWERS)
def test_lenient_never_raises_and_keeps_what_official_accepts(text: str) -> None:
    official, lenient = parse_plan(text), parse_plan(text, "lenient")
    if official.ok and "think>" not in text:
        assert json.dumps(lenient.plan) == json.dumps(official.plan)
        assert lenient.repairs == ()
    elif lenient.ok:
        assert lenient.repairs or official.ok
        assert set(lenient.repairs) <= set(REPAIRS)
    elif not official.ok:
        assert lenient == official
        assert lenient.plan is None


@pytest.mark.parametrize(
    ("text", "plan", "repairs"),
    [
        (f"{FENCE}\n{TEXT}\n{FENCE}", PLAN, ["untagged_fence"]),
        (f"{FENCE}python\n{TEXT}\n{FENCE}", PLAN, ["fence_tag"]),
        (f"{FENCE}JSON\n{TEXT}\n{FENCE}", PLAN, ["fence_tag"]),
        (f"{FENCE}json\n{FENCE}\n{FENCE}json\n{TEXT}\n{FENCE}", PLAN, ["later_fence"]),
        (f"{FENCE}\n{TEXT}", PLAN, ["untagged_fence", "unclosed_fence"]),
        (f"{FENCE}python\nplan = {TEXT}\n{FENCE}", PLAN, ["fence_tag", "surrounding_text"]),
        (TEXT, PLAN, ["bare_json"]),
        ("[]", [], ["bare_json"]),
        (f"As in [1], the plan is {TEXT}. Done.", PLAN, ["bare_json", "surrounding_text"]),
        (f'Objects: [{{"object": 3}}]. Plan: {TEXT}', PLAN, ["bare_json", "surrounding_text"]),
        (json.dumps({"skill_sequence": PLAN}), PLAN, ["bare_json", "wrapper_removed"]),
        (f"<think>{CUT}</think>{FENCE}json\n{TEXT}\n{FENCE}", PLAN, None),
        (f"{TEXT[:9]}</think>{TEXT}", PLAN, ["thinking_removed", "bare_json"]),
        (f"<think>{FENCE}json\n[?]\n{FENCE}</think>{FENCE}json\n{TEXT}\n{FENCE}", PLAN, ["thinking_removed"]),
        (f"{FENCE}json\n{TEXT[:-1]}, ]\n{FENCE}", PLAN, ["trailing_commas"]),
        (f"{FENCE}json\n{CUT}", PLAN[:1], ["unclosed_fence", "truncated_list"]),
        (CUT, PLAN[:1], ["bare_json", "truncated_list"]),
        (TEXT[:-1], PLAN, ["bare_json", "truncated_list"]),
        ('{"skill_sequence": ' + CUT, PLAN[:1], ["bare_json", "truncated_list", "wrapper_removed"]),
        (f"{FENCE}json{TEXT}\u2028{FENCE}", PLAN, ["surrounding_text"]),
        (f"{FENCE}json{TEXT}`{FENCE}json", PLAN, ["surrounding_text"]),
        (TEXT.replace('"', "'"), PLAN, ["bare_json", "json_repair"]),
        (
            '[{"name": "pick"}, {"name": lift}',
            [{"name": "pick"}, {"name": "lift"}],
            ["bare_json", "truncated_list", "json_repair"],
        ),
        (f"{FENCE}json\n{TEXT.replace('}, {', '} {')}\n{FENCE}", PLAN, ["json_repair"]),
        (f"{DRAFT}{FENCE}json\n{TEXT}\n{FENCE}", PLAN, ["thinking_removed"]),
        (f"{DRAFT}{TEXT}", PLAN, ["thinking_removed", "bare_json"]),
        (f"{DRAFT.removeprefix('<think>')}{FENCE}json\n{TEXT}\n{FENCE}", PLAN, ["thinking_removed"]),
        (f"{DRAFT}Wait.\n{DRAFT}{FENCE}json\n{TEXT}\n{FENCE}", PLAN, ["thinking_removed"]),
        (f"{FENCE}json\n{TEXT}\n{FENCE}\n{DRAFT}", PLAN, []),
        (TEXT.translate(FULL_WIDTH), PLAN, FOLDED),
        (f"{FENCE}json\n{TEXT.translate(FULL_WIDTH)}\n{FENCE}", PLAN, ["typographic_signs"]),
        (f"计划“如下”：{TEXT.translate(FULL_WIDTH)}。", PLAN, ["bare_json", "surrounding_text", "typographic_signs"]),
        (TEXT.replace('"', "“"), PLAN, FOLDED),
        (CUT.translate(FULL_WIDTH), PLAN[:1], ["bare_json", "truncated_list", "typographic_signs"]),
        (f"{TEXT[:-1]}，]", PLAN, ["bare_json", "trailing_commas", "typographic_signs"]),
        ('[{"name”：“pick"}]', [{"name": "pick"}], FOLDED),
        (TEXT.replace("3", '"１２"'), [{"name": "pick", "params": {"target_entity_name": "12"}}, PLAN[1]], FOLDED),
        (
            '[{"name"："pick"，"why"：“the "red" one：the “３” one”，"id"：３}]',
            [{"name": "pick", "why": 'the "red" one：the “３” one', "id": 3}],
            FOLDED,
        ),
        (
            '[{"name": "pick", "id": ３}, // 拿起“３”，然后：\n {"name": "lift"}]',
            [{"name": "pick", "id": 3}, {"name": "lift"}],
            ["bare_json", "typographic_signs", "json_repair"],
        ),
    ],
)
def test_lenient_repairs_and_names_them(text: str, plan: Any, repairs: list[str] | None) -> None:
    parsed = parse_plan(text, "lenient")
    assert parsed.plan == plan
    assert parsed.error is None
    assert list(parsed.repairs) == (repairs or [])


@PROPERTY
@given(
    st.lists(st.sampled_from([*PLAN, {"name": "lift", "params": {}}]), min_size=1, max_size=4),
    st.sampled_from(
        [json.dumps, lambda plan: json.dumps(plan, indent=2), lambda plan: json.dumps({"skill_sequence": plan})]
    ),
    st.sampled_from([{}, {'"': "'"}, {'"': "“"}, FULL_WIDTH, {'"': ""}]),
    st.floats(0, 1),
)
def test_a_step_that_breaks_off_is_never_completed(plan: Any, dump: Any, written: Any, where: float) -> None:
    """Wherever the response ends: what would stand for the last step's id or skill would be invented."""
    text = dump(plan).translate(str.maketrans(written))
    cut = parse_plan(text[: int(where * len(text))], "lenient").plan
    assert cut is None or cut == plan[: len(cut)]


def test_a_broken_step_amid_a_closed_list_is_mended_and_the_others_stay() -> None:
    for broken in (TEXT.replace("}}, {", "}, {"), TEXT.replace('"name": "place', '"name: "place')):
        parsed = parse_plan(broken, "lenient")
        assert (parsed.plan, parsed.repairs) == (PLAN, ("bare_json", "json_repair"))


@pytest.mark.parametrize(
    ("opening", "end"),
    [
        ("<think>", "</think>"),
        ("<Thinking>", "</Thinking>"),
        ("<thought>", "</thought>"),
        ("◁think▷", "◁/think▷"),
        ("[THINK]", "[/THINK]"),
        ("<seed:think>", "</seed:think>"),
        ('<think level="high">', "</think>"),
        ("<scratchpad>", "</scratchpad>"),
        ("<|think|>", "<|/think|>"),
        ("&lt;think&gt;", "&lt;/think&gt;"),
        ("＜思考＞", "＜/思考＞"),
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ],
)
def test_a_draft_among_the_thoughts_is_scored_officially_and_is_no_answer_to_lenient(opening: str, end: str) -> None:
    draft = f"{opening}{FENCE}json\n[]\n{FENCE}"
    assert parse_plan(f"{draft}{end}{TEXT}").plan == []
    assert parse_plan(f"{draft}{end}{TEXT}", "lenient").plan == PLAN
    for unfinished in (draft, f"{draft}{end}", f"{draft}{end}I cannot do it."):
        assert parse_plan(unfinished).plan == []
        assert parse_plan(unfinished, "lenient").error == "no plan after the thoughts"


def test_an_empty_thought_hides_nothing() -> None:
    assert parse_plan(f"<think/>{TEXT}", "lenient").plan == PLAN


SIGNS = {
    "[": "［【",
    "]": "］】",
    "{": "｛",
    "}": "｝",
    ":": "：",
    ",": "，、",
    **{str(number): chr(0xFF10 + number) for number in range(10)},
}
WORDS = st.text(alphabet="ab杯子：，（）“”2２ ", min_size=1, max_size=6).map(lambda word: f"x{word}x")


@PROPERTY
@given(st.lists(st.tuples(WORDS, st.integers(0, 99), WORDS), min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_typographic_signs_are_read_as_json_has_them(steps: list[tuple[str, int, str]], rng: Any) -> None:
    """Around the values any mixture of signs; within a string everything stays."""
    plan = [{"name": name, "params": {"target_entity_name": number, "why": why}} for name, number, why in steps]
    written = "".join(
        piece if piece[0] == '"' else "".join(rng.choice([sign, *SIGNS.get(sign, "")]) for sign in piece)
        for piece in re.findall(r'"[^"]*"|[^"]+', json.dumps(plan, ensure_ascii=False))
    )
    assert parse_plan(written, "lenient").plan == plan


def test_a_comment_is_no_reason_to_lose_a_plan() -> None:
    for comment in ("// the red one", "# 红色的"):
        text = f'{FENCE}json\n[{{"name": "pick"}}, {comment}\n {{"name": "lift"}}]\n{FENCE}'
        assert parse_plan(text, "lenient").plan == [{"name": "pick"}, {"name": "lift"}]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pick 3, then place 7",
        "[1, 2]",
        "42",
        "null",
        "<think>" + TEXT,
        '{"name": "pick"}',
        '[{"object": 3}]',
        "[{" * 5000,
    ],
)
def test_lenient_invents_no_plan(text: str) -> None:
    assert parse_plan(text, "lenient").error == "no ```json fence"


def test_a_comma_inside_a_string_is_no_trailing_comma() -> None:
    text = '[{"name": "pick", "note": "a,]b,}",},]'
    assert parse_plan(text, "lenient").plan == [{"name": "pick", "note": "a,]b,}"}]


def test_a_backtick_before_a_second_fence_spoils_the_first_as_upstream_has_it() -> None:
    assert not parse_plan("```json[]````json").ok
    assert parse_plan("```json[]``````json").plan == []


def test_null_is_a_plan_to_upstream() -> None:
    assert parse_plan("```json\nnull\n```") == ParsedPlan(plan=None, error=None)
    assert parse_plan("```json\nnull\n```", "lenient").ok


@pytest.mark.parametrize("answer", [None, 3, b"```json\n[]\n```", ["```json\n[]\n```"]])
@pytest.mark.parametrize("mode", ["official", "lenient"])
def test_an_answer_that_is_no_text_is_a_format_error(answer: Any, mode: Any) -> None:
    parsed = parse_plan(answer, mode)
    assert parsed.error == f"the answer is not text but {type(answer).__name__}"


@pytest.mark.parametrize("body", ["[" * 100_000, "9" * 5000, '{"a":' * 100_000])
def test_json_that_python_refuses_is_a_format_error(body: str) -> None:
    assert not parse_plan(f"```json\n{body}\n```").ok
    assert not parse_plan(f"```json\n{body}\n```", "lenient").ok


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="lenient"):
        parse_plan("", "strict")  # type: ignore[arg-type]


# Long responses


def test_what_is_searched_of_a_long_response_is_bounded_and_named() -> None:
    """Without a bound 5 MB of these take hours: from each bracket on, JSON is tried again."""
    for unit in ("[{", '[{"a":', "[{]"):
        parsed = parse_plan(unit * (5_000_000 // len(unit)), "lenient")
        assert not parsed.ok
        assert f"no plan in the first {LONGEST_READ} characters" in (parsed.error or "")
    words = "word " * LONGEST_READ
    assert parse_plan(TEXT + words, "lenient") == ParsedPlan(
        PLAN, repairs=("end_unread", "bare_json", "surrounding_text")
    )
    assert not parse_plan(words + TEXT, "lenient").ok
    thoughts = parse_plan(f"<think>{words}</think>{TEXT}", "lenient")
    assert (thoughts.plan, thoughts.repairs) == (PLAN, ("thinking_removed", "bare_json"))  # they are not searched


def test_the_official_reading_of_a_long_response_is_upstreams() -> None:
    assert parse_plan(f"{'word ' * LONGEST_READ}{FENCE}json\n{TEXT}\n{FENCE}") == ParsedPlan(PLAN)
    assert parse_plan(f"{'word ' * LONGEST_READ}{FENCE}json\n{TEXT}\n{FENCE}", "lenient") == ParsedPlan(PLAN)
