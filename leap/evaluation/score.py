"""Step two of an evaluation: stored answers to scores. No model is needed."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from leap.errors import LeapError
from leap.records.benchmark import BenchmarkExample, Prediction
from leap.records.files import first_problem, read_json
from leap.vlabench.examples import by_example
from leap.vlabench.parsing import Mode, parse_plan
from leap.vlabench.scoring import LEAP_KEYS, ZERO_SCORES, dependency_of, plan_scores
from leap.vlabench.sources import LEAP_SCORER, Scorer

NoPlan = Literal["refused", "filtered", "empty"]
Scores = dict[str, dict[str, dict[str, float]]]  # task -> example number -> score name -> score
_SCORES = TypeAdapter(dict[str, dict[str, dict[str, Annotated[float, Field(strict=True, allow_inf_nan=False)]]]])
_TOTAL = "total_score"


@dataclass(frozen=True)
class Counts:
    """What became of a dimension's examples. `scored` includes all that scores zero: format errors, refusals, what a
    content filter withheld, empty answers. An example is counted as one of these; `truncated` goes beside them."""

    examples: int
    scored: int
    format_error: int
    truncated: int
    inference_error: int
    missing: int
    refused: int = 0
    filtered: int = 0
    empty: int = 0

    @property
    def complete(self) -> bool:
        """Whether every example has a score."""
        return self.scored == self.examples

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


def read_scores(path: Path) -> Scores:
    """A file of scores. Raises LeapError where it is none."""
    try:
        scores = _SCORES.validate_python(read_json(path))
    except ValidationError as error:
        raise LeapError(f"{path}: {first_problem(error)}; it should be task -> example -> scores") from error
    for task, examples in scores.items():
        if without := [number for number, found in examples.items() if _TOTAL not in found]:
            raise LeapError(f"{path}: {task}.{without[0]}: no {_TOTAL}; restore the file, or score the answers anew")
    return {task: by_example(examples, f"{path}: {task}") for task, examples in scores.items()}


def score_predictions(
    examples: Iterable[BenchmarkExample],
    predictions: Mapping[tuple[str, str], Prediction],
    scorer: Scorer = LEAP_SCORER,
    mode: Mode = "official",
) -> tuple[Scores, Counts]:
    """(task -> example number -> scores, counts). An inference error or a missing answer has no score at all."""
    scores: Scores = {}
    count = dict.fromkeys(Counts.__dataclass_fields__, 0)
    for example in examples:
        count["examples"] += 1
        prediction = predictions.get(example.key)
        if prediction is None:
            count["missing"] += 1
        elif prediction.error is not None:
            count["inference_error"] += 1
        else:
            text, no_plan = prediction.text or "", without_plan(prediction)
            found, format_error = score_response(
                example.task, example.skill_sequence, "" if no_plan else text, scorer, mode
            )
            scores.setdefault(example.task, {})[str(example.number)] = found
            count["scored"] += 1
            count[no_plan or "format_error"] += format_error
            count["truncated"] += prediction.finish == "length"
    return scores, Counts(**count)


def without_plan(prediction: Prediction) -> NoPlan | None:
    """Why an answer can hold no plan, before anything is read of it; None for a text that the parser decides about."""
    if prediction.finish == "refused" or prediction.finish == "filtered":
        return prediction.finish
    return None if prediction.text is None or prediction.text.strip() else "empty"


def score_response(
    task: str, reference: list[Any], text: str, scorer: Scorer = LEAP_SCORER, mode: Mode = "official"
) -> tuple[dict[str, float], bool]:
    """(the official scores with ours beside them, whether the answer was no plan at all)."""
    parsed = parse_plan(text, mode)
    if parsed.error is not None:
        return {**ZERO_SCORES, **dict.fromkeys(LEAP_KEYS, 0.0)}, True
    case = reference, parsed.plan, dependency_of(task)
    return {**plan_scores(*case), **scorer.official(*case)}, False
