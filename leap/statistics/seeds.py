"""The interval of a mean over training seeds: few runs, so Student's t rather than resampling."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

# The 97.5 % points of Student's t with 1 to 9 degrees of freedom (Student 1908; any statistical table).
_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
MOST_SEEDS = len(_T) + 1


def seed_interval(scores: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of independently trained runs, as if their scores were normally distributed.

    NaN for one run, which says nothing of how much another seed would change. Takes at most `MOST_SEEDS` scores.
    """
    n = len(scores)
    if n < 2:
        return math.nan, math.nan
    half = _T[n - 2] * stdev(scores) / math.sqrt(n)
    return fmean(scores) - half, fmean(scores) + half
