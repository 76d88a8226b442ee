"""Step two of an evaluation: stored answers to scores. No model is needed."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from leap.errors import LeapError
from leap.records.benchmark import BenchmarkExample, Prediction
from leap.records.json_files import first_problem, read_json
from leap.vlabench.diagnosis import without_plan
from leap.vlabench.examples import by_example
from leap.vlabench.grounding import GROUNDED, grounded, has_id_as_text, has_name, plan_steps
from leap.vlabench.parsing import Mode, ParsedPlan, parse_plan
from leap.vlabench.scoring import LEAP_KEYS, ZERO_SCORES, dependency_of, plan_scores
from leap.vlabench.sources import LEAP_SCORER, Scorer

ExampleScores = dict[str, float | None]  # only `grounded` may be None: the reference names no object
Scores = dict[str, dict[str, ExampleScores]]  # task -> example number -> score name -> score
_Score = Annotated[float, Field(strict=True, allow_inf_nan=False)] | None
_SCORES = TypeAdapter(dict[str, dict[str, dict[str, _Score]]])
_TOTAL = "total_score"


@dataclass(frozen=True)
class Counts:
    """What became of a dimension's examples. `scored` includes all that scores zero: format errors, refusals, what a
    content filter withheld, empty answers. An example is counted as one of these; the others go beside them:
    `truncated`, and of the answers with a plan those that write an id as text ("3") or name an object instead."""

    examples: int
    scored: int
    format_error: int
    truncated: int
    inference_error: int
    missing: int
    refused: int = 0
    filtered: int = 0
    empty: int = 0
    ids_as_text: int = 0
    names: int = 0

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
        for number, found in examples.items():
            if odd := [name for name, score in found.items() if score is None and name != GROUNDED]:
                raise LeapError(f"{path}: {task}.{number}.{odd[0]}: null is no score; it should be a number")
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
            parsed = parse_plan("" if no_plan else text, mode)
            found = score_plan(example.task, example.skill_sequence, parsed, scorer)
            scores.setdefault(example.task, {})[str(example.number)] = found
            count["scored"] += 1
            count[no_plan or "format_error"] += not parsed.ok
            count["truncated"] += prediction.finish == "length"
            count["ids_as_text"] += has_id_as_text(parsed.plan)
            count["names"] += has_name(plan_steps(parsed.plan) or ())
    return scores, Counts(**count)


def score_plan(task: str, reference: list[Any], parsed: ParsedPlan, scorer: Scorer = LEAP_SCORER) -> ExampleScores:
    """The official scores of a response with ours beside them (`SCORE_KEYS`); zeros where no plan could be read."""
    named = {GROUNDED: grounded(reference, parsed.plan)}
    if parsed.error is not None:
        return {**ZERO_SCORES, **named, **dict.fromkeys(LEAP_KEYS, 0.0)}
    case = reference, parsed.plan, dependency_of(task)
    return {**named, **plan_scores(*case), **scorer.official(*case)}
