"""How often the interval of a blind review holds the mean that it is of, which should be 95 % of the time.

    python benchmarks/review_intervals.py --reviews 10000

A review scores few samples from 1 to 5. Simulated are plans whose quality varies from sample to sample and judges whose
criteria vary about it, rounded to whole numbers: the final score (the mean of four criteria, four repeats each), one
criterion judged once, and the difference of two models on the same samples; plans of middling quality, nearly perfect
ones, and ones that are either right or wrong. The truth is the mean of 200,000 such samples. Student's t, as reviews
have it, beside the percentile bootstrap that they had. A review of equal scores has no interval and is counted apart.
Writes review_intervals.json.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import installed  # noqa: F401
import numpy as np
from statistics_speed import origin

from leap.cli import Parser, count, run
from leap.judge.criteria import CRITERIA, SCALE
from leap.progress import track
from leap.records.json_files import write_json
from leap.statistics.intervals import Array, mean_interval, student_interval

REPOSITORY = Path(__file__).resolve().parent.parent
POPULATION, SAMPLES, REPEATS = 200_000, (5, 10, 20, 50), len(CRITERIA)
BOOTSTRAPPED = 5  # one of so many reviews: resampling takes ten times as long
_BETWEEN, _WITHIN = 0.8, 0.6  # std of the plans' quality, and of a criterion about it

QUALITY: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "middling": lambda rng, n: 3 + _BETWEEN * rng.standard_normal(n),
    "nearly perfect": lambda rng, n: 5 - rng.exponential(0.5, n),
    "right or wrong": lambda rng, n: np.where(rng.random(n) < 0.7, 4.7, 1.5) + 0.2 * rng.standard_normal(n),
}


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--reviews", type=count, default=10_000, help="simulated reviews of each kind")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "results", help="folder to write to")
    arguments = parser.parse_args()
    where = origin()
    found = simulate(arguments.reviews)
    for name, value in found.items():
        print(f"{name}: {value}")
    ten = {name.removesuffix(", 10 samples"): one for name, one in found.items() if name.endswith(", 10 samples")}
    parts = {f"{name}, {how}": one[how] for name, one in ten.items() for how in ("student", "bootstrap")}
    named = {"benchmark": "review_intervals", "ours": parts["final score, middling, student"]}
    settings = {"reviews": arguments.reviews, "bootstrapped": arguments.reviews // BOOTSTRAPPED, "repeats": REPEATS}
    write_json(
        arguments.output / "review_intervals.json",
        {**named, "unit": "% of intervals hold the mean", **where, "settings": settings, "parts": parts, "all": found},
    )


def simulate(
    reviews: int, samples: tuple[int, ...] = SAMPLES, population: int = POPULATION
) -> dict[str, dict[str, float]]:
    """Percent of intervals that hold the truth ("student", "bootstrap"), Student's mean width in points, and percent of
    reviews without an interval ("none"), for each measure, kind of plans and number of samples."""
    found = {}
    for name, values, scale in track(list(populations(population)), "simulating"):
        for n in samples:
            rng = np.random.default_rng(n)
            drawn = rng.choice(values, (reviews, n))
            ours = np.array([student_interval(review, scale) for review in drawn])
            theirs = [mean_interval([review], seed=1) for review in drawn[::BOOTSTRAPPED]]
            has = ~np.isnan(ours[:, 0])
            found[f"{name}, {n} samples"] = {
                "student": _held(ours[has], values.mean()),
                "bootstrap": _held(np.array([(one.low, one.high) for one in theirs]), values.mean()),
                "width": round(float(np.diff(ours[has], axis=1).mean()), 2),
                "none": round(100 * float((~has).mean()), 1),
            }
    return found


def populations(size: int) -> Iterator[tuple[str, Array, tuple[float, float]]]:
    """(measure and kind of plans, its values, the scale that they have)."""
    for kind, quality in QUALITY.items():
        rng = np.random.default_rng(0)
        plans = quality(rng, size)
        final, other = (_judged(rng, plans + shift, REPEATS).mean(axis=(0, 1)) for shift in (0.0, -0.3))
        yield f"final score, {kind}", final, SCALE
        yield f"one criterion once, {kind}", _judged(rng, plans, 1)[0, 0], SCALE
        yield f"difference, {kind}", final - other, (SCALE[0] - SCALE[1], SCALE[1] - SCALE[0])


def _judged(rng: np.random.Generator, plans: Array, repeats: int) -> Array:
    """Whole scores (criteria, repeats, plans); half of what a criterion differs by is the same in all its repeats."""
    own = rng.standard_normal((len(CRITERIA), 1, len(plans)))
    noise = rng.standard_normal((len(CRITERIA), repeats, len(plans)))
    return np.rint(plans + _WITHIN * np.sqrt(0.5) * (own + noise)).clip(*SCALE)


def _held(bounds: Array, truth: float) -> float:
    """Percent; rounding never decides."""
    return round(100 * float(((bounds[:, 0] - 1e-9 <= truth) & (truth <= bounds[:, 1] + 1e-9)).mean()), 1)


if __name__ == "__main__":
    run(main)
