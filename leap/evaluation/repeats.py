"""An evaluation that asked every example several times: its scores are each example's means over them.

So whatever takes scores of examples, intervals and tests among them, has the example as its unit: the repeats of one
are no independent ones, and are averaged before anything is resampled.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import comb
from statistics import fmean, stdev
from typing import NamedTuple

from leap.evaluation.predictions import Key
from leap.evaluation.score import Counts, ExampleScores, Scores, score_predictions
from leap.records.benchmark import BenchmarkExample, Prediction
from leap.vlabench.blind import TOTAL
from leap.vlabench.diagnosis import diagnose
from leap.vlabench.grounding import GROUNDED
from leap.vlabench.parsing import Mode
from leap.vlabench.sources import LEAP_SCORER, Scorer

SPREADS = {TOTAL: f"{TOTAL}_std", GROUNDED: f"{GROUNDED}_std"}  # a score, and its spread within an example
PASS = "pass@"


class Scored(NamedTuple):
    """Scores, counts, and the scores of the first repeat alone, which the diagnosis is of."""

    scores: Scores
    counts: Counts
    first: Scores


def score_repeats(
    examples: Iterable[BenchmarkExample],
    repeats: Sequence[Mapping[Key, Prediction]],
    scorer: Scorer = LEAP_SCORER,
    mode: Mode = "official",
) -> Scored:
    """`score_predictions` of each repeat in one: scores are means over an example's scored responses, and counts are of
    responses. Beside them stand the standard deviation of the headline scores within the example (n - 1), and `pass@k`
    of `correct` as the diagnosis has it, in percent. One repeat has what `score_predictions` gives."""
    examples = list(examples)
    found = [score_predictions(examples, predictions, scorer, mode) for predictions in repeats]
    if len(found) == 1:
        return Scored(*found[0], found[0][0])
    scores: Scores = {}
    for example in examples:
        task, number = example.key
        scored = [of[task][number] for of, _ in found if number in of.get(task, {})]
        if not scored:
            continue
        right = sum(_is_correct(example, predictions.get(example.key)) for predictions in repeats)
        pass_at: ExampleScores = {
            f"{PASS}{k}": 100 * pass_at_k(len(scored), right, k) for k in _ks(len(repeats)) if k <= len(scored)
        }
        scores.setdefault(task, {})[number] = _means(scored) | _spread(scored) | pass_at
    counts = [of.to_dict() for _, of in found]
    summed = Counts(**{name: sum(of[name] for of in counts) for name in counts[0]})
    return Scored(scores, summed, found[0][0])


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that at least one of k responses is right, estimated without bias from n of which `correct` are
    (Chen et al. 2021, equation 1): 1 - C(n - correct, k) / C(n, k), for 1 <= k <= n."""
    return 1 - comb(n - correct, k) / comb(n, k)


def _ks(repeats: int) -> list[int]:
    """1, 2, 4, 8 and so on, and all of them."""
    return sorted({2**power for power in range(repeats.bit_length())} | {repeats})


def _is_correct(example: BenchmarkExample, prediction: Prediction | None) -> bool:
    return diagnose(example, prediction, frozenset()).kind == "correct"


def _means(scored: Sequence[ExampleScores]) -> ExampleScores:
    """Whether a score is None, the reference alone decides."""
    columns = {name: [one[name] for one in scored] for name in scored[0]}
    return {
        name: None if None in values else fmean(value for value in values if value is not None)
        for name, values in columns.items()
    }


def _spread(scored: Sequence[ExampleScores]) -> ExampleScores:
    known = {spread: [one[name] for one in scored] for name, spread in SPREADS.items()}
    return {
        name: stdev(value for value in values if value is not None)
        for name, values in known.items()
        if len(values) > 1 and None not in values
    }
