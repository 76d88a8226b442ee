"""The exact sign test, and what so few samples can show at all."""

from math import lgamma, log

import numpy as np

from leap.statistics.comparison import ALPHA
from leap.statistics.intervals import Array


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p-value of wins against losses, ties left out (Dixon & Mood 1946); 1 where all are ties."""
    return min(1.0, 2 * float(chances(wins + losses, 0.5)[max(wins, losses)]))


def chances(n: int, win_rate: float) -> Array:
    """The chances of at least 0, 1, … n wins among n samples, each won with `win_rate` (between 0 and 1)."""
    wins = range(n + 1)
    logs = np.array([lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) for k in wins])
    logs += np.arange(n + 1) * log(win_rate) + np.arange(n, -1, -1) * log(1 - win_rate)
    return np.cumsum(np.exp(logs)[::-1])[::-1]


def wins_needed(n: int, alpha: float = ALPHA) -> int | None:
    """The fewest wins among n samples without ties that make p < alpha; None where not even n wins do."""
    enough = np.flatnonzero(2 * chances(n, 0.5) < alpha)
    return int(enough[0]) if len(enough) else None


def power_sentence(n: int, alpha: float = ALPHA) -> str:
    """What a review of n samples can show, in words."""
    needed = wins_needed(n, alpha)
    if needed is None:
        return f"With {n} samples no sign test can reach p < {alpha:g}: not even {n} wins of {n}. Take more samples."
    often, nearly_always = (f"{chances(n, rate)[needed]:.0%}" for rate in (0.7, 0.9))
    return (
        f"With {n} samples a sign test needs {needed} wins of {n} without a tie for p < {alpha:g} (two-sided, exact: "
        f"p = {sign_test(needed, n - needed):.3f}); a model that would win 70% of all such samples is found better in "
        f"{often} of such reviews, one that would win 90% in {nearly_always}."
    )
