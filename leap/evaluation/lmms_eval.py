"""VLABench for lmms-eval: what the tasks in integrations/lmms_eval take from LEAP, in the form that lmms-eval wants.

A document is one example, with all that it is asked and scored with. This runs in lmms-eval's environment, so nothing
here needs PyTorch or transformers, whose versions are others there.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leap.data.image import load_image
from leap.evaluation.score import score_plan
from leap.vlabench.blind import blind_scores
from leap.vlabench.dimensions import Dimension
from leap.vlabench.examples import find_examples
from leap.vlabench.grounding import GROUNDED
from leap.vlabench.parsing import parse_plan
from leap.vlabench.prompts import Instructions, request_parts
from leap.vlabench.scoring import OFFICIAL_KEYS

_SCORES = (*OFFICIAL_KEYS, "weighted_total", GROUNDED)
_FAILED = ("[LMMS_EVAL_REQUEST_FAILED", "[LMMS_EVAL_BUDGET_EXCEEDED")  # how lmms-eval's "responses" to them begin


def documents(data: Path, dimension: Dimension, instructions: Instructions) -> list[dict[str, Any]]:
    """A dimension's examples, in LEAP's order. The floor is of all of them, whatever part is asked."""
    examples = find_examples(data, dimension)
    floor = blind_scores(examples)["floor"]
    return [
        {
            "dimension": example.dimension,
            "task": example.task,
            "example": str(example.number),
            "instruction": example.instruction,
            "parts": [
                part.model_dump()
                for part in request_parts(
                    instructions.text,
                    (example.image, example.numbered_image),
                    example.instruction,
                    language=instructions.language,
                )
            ],
            "reference": json.dumps(example.skill_sequence),
            **{f"floor_{score}": value for score, value in floor.items()},
        }
        for example in examples
    ]


def messages(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A document as lmms-eval's chat: one turn, texts and images in the benchmark's order."""
    content = [
        {"type": "image", "url": load_image(Path(part["image"]))}
        if part["type"] == "image"
        else {"type": "text", "text": part["text"]}
        for part in document["parts"]
    ]
    return [{"role": "user", "content": content}]


def scores(document: Mapping[str, Any], responses: Sequence[str]) -> dict[str, float]:
    """What run_vlm_evaluation.py scores a response with, by name; errors are 0 or 100, so that their means are shares.

    A request that failed has no score, and `grounded` is left out where the reference names no object.
    """
    if responses[0].startswith(_FAILED):
        return {"inference_error": 100.0}
    parsed = parse_plan(responses[0])
    found = score_plan(document["task"], json.loads(document["reference"]), parsed)
    named = {name: found[name] for name in _SCORES}
    floor = {name: value for name, value in document.items() if name.startswith("floor_")}
    known = {name: value for name, value in {**named, **floor}.items() if value is not None}
    return {**known, "format_error": 0.0 if parsed.ok else 100.0, "inference_error": 0.0}


def alike(values: Sequence[float]) -> float:
    """The mean of what is the same for every document, without the rounding of a sum."""
    return values[0]
