"""Student's intervals of few values: seeds, and samples of a review; at length: benchmarks/review_intervals.py."""

import math

import pandas as pd
import pytest
import review_intervals
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from leap.judge.criteria import CRITERIA, SCALE
from leap.judge.review_summary import comparisons, means
from leap.statistics.intervals import student_interval


@settings(max_examples=30)
@given(st.lists(st.floats(0, 80), min_size=2, max_size=12))
def test_it_is_students_within_the_scale(scores: list[float]) -> None:
    assume(max(scores) - min(scores) > 1e-6)
    half = stats.t.ppf(0.975, len(scores) - 1) * stats.sem(scores)
    mean = sum(scores) / len(scores)
    assert student_interval(scores) == pytest.approx((mean - half, mean + half), abs=1e-9)
    cut = max(mean - half, 0), min(mean + half, 80)
    assert student_interval(scores, (0, 80)) == pytest.approx(cut, abs=1e-9)


@pytest.mark.parametrize("scores", [[40.0], [3.0, 3.0, 3.0]])
def test_one_value_and_equal_ones_have_none(scores: list[float]) -> None:
    assert all(map(math.isnan, student_interval(scores)))


def test_a_review_has_them_of_samples_and_of_pairs() -> None:
    scored = {"Baseline": [2, 3, 2, 3, 1], "better": [5, 5, 5, 5, 4]}
    rows = [
        {"judge": "j", "model_name": model, "sample_idx": sample, "repeat": repeat, "final_score": score}
        | dict.fromkeys(CRITERIA, score)
        for model, scores in scored.items()
        for sample, score in enumerate(scores)
        for repeat in (1, 2)  # more verdicts on a sample are no more samples
    ]
    table = means(pd.DataFrame(rows)).set_index(["model_name", "measure"])
    row = table.loc[("better", "final_score")]
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((4.8, *student_interval(scored["better"], SCALE)))
    assert row["high"] == 5
    (compared,) = comparisons(pd.DataFrame(rows), "Baseline").to_dict("records")
    expected = student_interval([3, 2, 3, 2, 3], (-4, 4))
    assert (compared["difference"], compared["low"], compared["high"]) == pytest.approx((2.6, *expected))


@pytest.mark.slow
def test_ten_samples_are_covered_about_as_often_as_it_says() -> None:
    """1,000 reviews of each kind: 95 % less three standard errors is 92.9 %; at the end of the scale it is less."""
    found = review_intervals.simulate(1000, samples=(10,), population=20_000)
    middling = {name: one for name, one in found.items() if "middling" in name}
    assert all(92.9 <= one["student"] <= 97.1 for one in middling.values())
    assert all(one["student"] > 85 for one in found.values())
    assert sum(one["student"] - one["bootstrap"] for one in found.values()) > 0
