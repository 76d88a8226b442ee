"""LEAP's own scorer and requests against those of a checked-out VLABench."""

import json
from pathlib import Path

from leap.records.training import ImagePart
from leap.vlabench.golden import decode_dependency, load_golden
from leap.vlabench.prompts import request_parts
from leap.vlabench.scoring import official_scores
from leap.vlabench.upstream import Upstream


def compare_scorers(upstream: Upstream, golden: Path) -> tuple[int, list[str]]:
    """(how many golden vectors there are, the ids of those that the two score otherwise), by the JSON of the scores:
    the last bit and the type count."""
    cases = load_golden(golden)
    different = []
    for case in cases:
        plans = case["reference"], case["prediction"], decode_dependency(case["dependency"])
        if json.dumps(official_scores(*plans)) != json.dumps(upstream.official_scores(*plans)):
            different.append(case["id"])
    return len(cases), different


def compare_requests(upstream: Upstream) -> bool:
    """Whether a request of ours has upstream's texts and images in upstream's order."""
    texts = {"pre_prompt": "instructions", "input_instruction": "do it"}
    images = {"input_pic": "plain.png", "input_pic_gt": "numbered.png"}
    parts = request_parts("instructions", (Path("plain.png"), Path("numbered.png")), "do it")
    ours = [["image", part.image] if isinstance(part, ImagePart) else ["text", part.text] for part in parts]
    return ours == upstream.request_items({**texts, **images})
