"""Requests: the benchmark's order in both languages, and few-shot examples that give no answer away."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import GOLDEN

from leap.data.image import ImageSize
from leap.errors import LeapError
from leap.evaluation.requests import build_requests, draw_few_shot_examples
from leap.evaluation.settings import EvaluationSettings, FewShot, variant_name
from leap.inference.protocol import Decoding, request_hash
from leap.vlabench.dimensions import DIMENSIONS, find_dimension
from leap.vlabench.examples import find_examples
from leap.vlabench.parsing import parse_plan
from leap.vlabench.prompts import LANGUAGES, FewShotExample, leap_instructions, request_parts

PROMPTS: dict[str, Any] = json.loads((GOLDEN / "prompts.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", PROMPTS["cases"], ids=lambda case: case["id"])
def test_requests_have_the_golden_order(case: dict[str, Any]) -> None:
    few_shot_examples = [
        FewShotExample(
            Path(f"<SHOT_{n}_IMAGE>"),
            Path(f"<SHOT_{n}_IMAGE_NUMBERED>"),
            f"<SHOT_{n}_INSTRUCTION>",
            json.dumps(PROMPTS["shot_outputs"][n]),
        )
        for n in range(case["few_shot_num"])
    ]
    ours = (
        (Path("<IMAGE>"), Path("<IMAGE_NUMBERED>")),
        "<INSTRUCTION>",
        few_shot_examples,
        case["language"],
        case["with_CoT"],
    )
    if "raises" in case:
        with pytest.raises(LeapError, match="en and zh"):
            request_parts("<PRE_PROMPT>", *ours)
    else:
        parts = request_parts("<PRE_PROMPT>", *ours)
        assert [[part.type, getattr(part, part.type)] for part in parts] == case["items"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_leaps_prompt_names_every_skill_and_shows_an_answer_that_parses(language: str) -> None:
    text = leap_instructions(language).text  # type: ignore[arg-type]
    for skill in ("pick", "press", "place", "insert", "pour", "push", "pull", "lift", "open_door"):
        assert skill in text
    assert parse_plan(text).ok


def settings_of(workspace: Path, **changes: Any) -> EvaluationSettings:
    data = workspace / "dataset" / "vlm_evaluation_v1.0"
    return EvaluationSettings(data, leap_instructions(), ImageSize(4, 9), Decoding(), **changes)


def test_few_shot_examples_are_other_examples_in_the_format_of_the_parser(workspace: Path) -> None:
    pool = find_examples(workspace / "dataset" / "vlm_evaluation_v1.0", find_dimension("Complex"))
    assert len(pool) == 2
    for example, other in zip(pool, reversed(pool), strict=True):
        (few_shot_example,) = draw_few_shot_examples(example, pool, FewShot(1))
        assert few_shot_example.image == other.image
        assert parse_plan(few_shot_example.output).plan == other.skill_sequence
        (bare,) = draw_few_shot_examples(example, pool, FewShot(1, "upstream"))
        assert json.loads(bare.output) == other.reference
    with pytest.raises(LeapError, match="only 1 other examples"):
        draw_few_shot_examples(pool[0], pool, FewShot(2))


def test_few_shot_examples_follow_the_seed_and_never_repeat(workspace: Path) -> None:
    data = workspace / "dataset" / "vlm_evaluation_v1.0"
    pool = [example for dimension in DIMENSIONS for example in find_examples(data, dimension)]
    drawn = [draw_few_shot_examples(pool[0], pool, FewShot(5, seed=seed)) for seed in range(8)]
    assert drawn[0] == draw_few_shot_examples(pool[0], pool, FewShot(5, seed=0))
    assert (
        len({tuple(few_shot_example.image for few_shot_example in few_shot_examples) for few_shot_examples in drawn})
        == 8
    )
    for few_shot_examples in drawn:
        assert len({few_shot_example.image for few_shot_example in few_shot_examples}) == 5
        assert pool[0].image not in {few_shot_example.image for few_shot_example in few_shot_examples}


def test_a_requests_images_stand_in_reading_order(workspace: Path) -> None:
    pool = find_examples(workspace / "dataset" / "vlm_evaluation_v1.0", find_dimension("Spatial"))
    (first, _) = build_requests(pool, pool, settings_of(workspace, few_shot=FewShot(1)))
    expected = [path for example in reversed(pool) for path in (example.image, example.numbered_image)]
    assert list(first.images) == expected
    assert [part.image for part in first.messages[0].parts() if part.type == "image"] == [str(p) for p in expected]


def test_the_image_control_gives_every_example_another_scene(workspace: Path) -> None:
    pool = find_examples(workspace / "dataset" / "vlm_evaluation_v1.0", find_dimension("Spatial"))
    swapped = build_requests(pool, pool, settings_of(workspace, image_control="swapped"))
    assert all(request.images[0] != example.image for request, example in zip(swapped, pool, strict=True))
    assert sorted(str(request.images[1]) for request in swapped) == sorted(str(e.numbered_image) for e in pool)
    with pytest.raises(LeapError, match="at least two"):
        build_requests(pool[:1], pool[:1], settings_of(workspace, image_control="swapped"))


def test_without_images_there_are_no_captions_for_them_either(workspace: Path) -> None:
    """Solved examples, instruction and question stay, each under its own caption."""
    pool = find_examples(workspace / "dataset" / "vlm_evaluation_v1.0", find_dimension("Spatial"))
    for few_shot in (FewShot(), FewShot(1)):
        settings = settings_of(workspace, image_control="absent", few_shot=few_shot)
        request = build_requests(pool, pool, settings)[0]
        texts = [part.text for part in request.messages[0].parts() if part.type == "text"]
        assert len(texts) == len(request.messages[0].parts()) == 4 + 4 * few_shot.number
        assert request.images == ()
        assert not any("picture" in text for text in texts[1:])
        assert pool[0].instruction in texts
    seen = build_requests(pool, pool, settings_of(workspace, few_shot=FewShot(1)))[0]
    assert texts == [
        part.text for part in seen.messages[0].parts() if part.type == "text" and "picture" not in part.text[:40]
    ]
    assert request_hash(request) != request_hash(seen)


def test_a_model_asked_in_another_way_has_a_name_of_its_own(workspace: Path) -> None:
    assert variant_name("m", settings_of(workspace)) == "m"
    changes = {"few_shot": FewShot(2), "with_cot": True, "image_control": "blank"}
    assert variant_name("m", settings_of(workspace, **changes)) == "m_2shot_CoT_blank"
