"""The samples of a blind review as the page reads them: each model's response, and what every judge said of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from leap.data.image import resolve_image
from leap.errors import LeapError
from leap.judge.review_files import OUTPUTS, SCORES, find_newest, find_pairs, read_outputs, read_pairs, read_scores
from leap.judge.review_summary import MEASURES
from leap.records.judging import Output
from leap.report.page.example_records import cut
from leap.terminal import shown


@dataclass(frozen=True)
class Review:
    """The newest blind review of a folder. Outputs that were not judged have no verdicts; `scores` is empty then."""

    outputs: Mapping[tuple[int, str], Output]  # by sample and model
    scores: pd.DataFrame
    pairs: pd.DataFrame | None
    root: Path  # the outputs' images are paths from here

    @property
    def samples(self) -> list[int]:
        return sorted({sample for sample, _ in self.outputs})

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(shown(model) for _, model in self.outputs))

    def images(self) -> list[Path]:
        return list(dict.fromkeys(self.file(path) for output in self.outputs.values() for path in output.images))

    def file(self, image: str) -> Path:
        """Where an image of the outputs lies, or, where it is not found, where it should."""
        try:
            return resolve_image(image, (self.root, self.root / "data"))
        except LeapError:
            return self.root / image

    def instruction(self, sample: int) -> str:
        """What the models were asked, in one text."""
        return next(output.prompt_text for (number, _), output in self.outputs.items() if number == sample)


def read_review(folder: Path, root: Path) -> Review | None:
    """None where no model was asked yet. Raises LeapError for a table that is none."""
    outputs = find_newest(folder, OUTPUTS)
    if outputs is None:
        return None
    rows = {(output.sample_idx, output.model_name): output for output in read_outputs(outputs)}
    scores = find_newest(folder, SCORES)
    pairs = find_pairs(scores) if scores else None
    return Review(rows, read_scores(scores) if scores else pd.DataFrame(), read_pairs(pairs) if pairs else None, root)


def sample_record(
    review: Review, sample: int, models: Sequence[str], images: Mapping[Path, str | None]
) -> dict[str, Any]:
    """As `example_record`, with the reference and the responses as texts, and `verdicts` beside the responses."""
    found = {shown(model): output for (number, model), output in review.outputs.items() if number == sample}
    first = next(iter(found.values()))
    return {
        "reference": None,
        "reference_text": shown(first.reference_steps),
        "images": [images[review.file(path)] for path in first.images],
        "names": {},
        "pairs": _pairs(review, sample),
        "responses": [_response(review, sample, found[model]) if model in found else None for model in models],
    }


def _response(review: Review, sample: int, output: Output) -> dict[str, Any]:
    tokens = {name: getattr(output, name) or None for name in ("finish", "prompt_tokens", "new_tokens", "error")}
    said = {} if output.error else cut(output.model_output)
    return {**said, **{name: value and shown(value) for name, value in tokens.items()},
            "verdicts": _verdicts(review, sample, output.model_name)}  # fmt: skip


def _verdicts(review: Review, sample: int, model: str) -> list[dict[str, Any]]:
    if review.scores.empty:
        return []
    own = (review.scores["sample_idx"] == sample) & (review.scores["model_name"] == model)
    return [
        {
            "judge": shown(row["judge"]),
            "repeat": row["repeat"],
            "scores": [None if pd.isna(row[name]) else round(row[name], 2) for name in MEASURES],
            "rationale": cut(row["rationale"]),
            "error": shown(row["error"]),
        }
        for row in review.scores[own].to_dict("records")
    ]


def _pairs(review: Review, sample: int) -> list[dict[str, Any]]:
    if review.pairs is None:
        return []
    rows = review.pairs[review.pairs["sample_idx"] == str(sample)].to_dict("records")
    texts = ("model_a", "model_b", "judge", "repeat", "outcome", "error", "rationale_ab", "rationale_ba")
    return [{name: cut(row[name])["text"] for name in texts} for row in rows]
