"""One example as the page reads it, in JSON: reference, images, and each model's response beside the reference.

All that models and data sets wrote goes through `shown`: control characters, ANSI commands and marks that turn the
direction of writing stand there as \\u001b and the like. The page inserts it as text only.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leap.data.image import BlankImage
from leap.evaluation.predictions import Key
from leap.report.page.explanations import LONGEST_NAME, explain
from leap.report.page.step_alignment import LONGEST, align
from leap.report.page.stored_results import StoredDimension, StoredResult
from leap.terminal import shorten, shown
from leap.vlabench.diagnosis import FLAGS, KINDS, scene_objects
from leap.vlabench.grounding import SCORE_KEYS, Step, plan_steps
from leap.vlabench.parsing import parse_plan

LONGEST_SHOWN = 20_000  # characters of a response; predictions.jsonl has all of it
_DECIMALS = 2  # of scores


def example_record(
    dimension: StoredDimension, key: Key, models: Sequence[str], images: Mapping[Path, str | None]
) -> dict[str, Any]:
    """`images` has the page's name of each image file, None of one that could not be read. A response is None where
    the model has nothing of this example."""
    example = dimension.examples.get(key)
    reference = None if example is None else plan_steps(example.skill_sequence) or []
    names = None if example is None else scene_objects(example.folder)
    return {
        "reference": None if reference is None else [_step(step) for step in reference[:LONGEST]],
        "images": None if example is None else [images[example.image], images[example.numbered_image]],
        "names": {str(number): shown(name) for number, name in (names or {}).items()},
        "responses": [
            _response(result, key, reference, names, images)
            if (result := dimension.results.get(model)) and key in result.keys
            else None
            for model in models
        ],
    }


def cut(text: str) -> dict[str, Any]:
    """A text with its control characters shown, cut where it is long; `length` is that of the whole."""
    return {"text": shown(text[:LONGEST_SHOWN]), "length": len(text)}


def _response(
    result: StoredResult,
    key: Key,
    reference: Sequence[Step] | None,
    names: Mapping[Any, str] | None,
    images: Mapping[Path, str | None],
) -> dict[str, Any]:
    prediction, diagnosis = result.predictions.get(key), result.diagnoses.get(key)
    text = None if prediction is None else prediction.text
    official, lenient = parse_plan(text or ""), parse_plan(text or "", "lenient")
    plan = None if text is None else plan_steps(lenient.plan)
    rows = align(reference, plan) if reference is not None and plan is not None else []
    scores = result.scores.get(key[0], {}).get(key[1], {})
    found: dict[str, Any] = {
        **({} if text is None else cut(text)),
        "format_error": None if text is None or official.error is None else shown(official.error[:LONGEST_NAME]),
        "repairs": [repair.replace("_", " ") for repair in lenient.repairs],
        "plan": None if plan is None else [_step(step) for step in plan[:LONGEST]],
        "steps": None if plan is None else len(plan),
        "rows": [list(row) for row in rows],
        "scores": [_rounded(scores.get(name)) for name in SCORE_KEYS],
        "repeats": [cut(one[key].text or one[key].error or "") for one in result.repeats if key in one],
        "further_scores": {name: _rounded(value) for name, value in scores.items() if name not in SCORE_KEYS},
        "images": _shown_images(result, key, images),
        "few_shot": _few_shot(result, key, images),
    }
    if prediction is not None:
        found |= {name: getattr(prediction, name) for name in ("finish", "prompt_tokens", "new_tokens")}
        found["error"] = None if prediction.error is None else cut(prediction.error)["text"]
    if diagnosis is not None:
        words = explain(diagnosis, reference or (), plan or (), rows, names) if reference is not None else []
        found |= {
            "kind": KINDS.index(diagnosis.kind),
            "words": [shown(sentence) for sentence in words],
            "flags": [flag.replace("_", " ") for flag in FLAGS if getattr(diagnosis, flag)],
        }
    return {
        name: value for name, value in found.items() if value is not None and (value not in ([], {}) or name == "plan")
    }


def _step(step: Step) -> list[str | None]:
    """A skill and its ids as text: JSON has no NaN, which a model may write."""
    return [None if value is None else shown(shorten(str(value), LONGEST_NAME)) for value in step]


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, _DECIMALS)


def _shown_images(result: StoredResult, key: Key, images: Mapping[Path, str | None]) -> list[str | None] | str | None:
    """What the model was shown where it is not the example's own: names of images, "blank" or "absent"."""
    if key not in result.shown:
        return None
    found = result.shown[key]
    if found is None:
        return "absent"
    files = [image for image in found if not isinstance(image, BlankImage)]
    return [images[file] for file in files] if files else "blank"


def _few_shot(result: StoredResult, key: Key, images: Mapping[Path, str | None]) -> list[dict[str, Any]] | str:
    if result.few_shot is None:
        return "unknown"
    return [
        {
            "images": [images[one.image], images[one.numbered]],
            "instruction": shown(one.instruction),
            **cut(one.output),
        }
        for one in result.few_shot.get(key, ())
    ]
