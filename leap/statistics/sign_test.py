"""The exact sign test, and what so few samples can show at all."""

from math import comb

from leap.statistics.comparison import ALPHA


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p-value of wins against losses, ties left out (Dixon & Mood 1946); 1 where all are ties."""
    n = wins + losses
    return min(1.0, 2 * at_least(max(wins, losses), n, 0.5)) if n else 1.0


def at_least(wins: int, n: int, win_rate: float) -> float:
    """The chance of so many wins or more among n samples, each won with `win_rate`."""
    return sum(comb(n, k) * win_rate**k * (1 - win_rate) ** (n - k) for k in range(wins, n + 1))


def wins_needed(n: int, alpha: float = ALPHA) -> int | None:
    """The fewest wins among n samples without ties that make p < alpha; None where not even n wins do."""
    return next((wins for wins in range(n // 2 + 1, n + 1) if sign_test(wins, n - wins) < alpha), None)


def power_sentence(n: int, alpha: float = ALPHA) -> str:
    """What a review of n samples can show, in words."""
    needed = wins_needed(n, alpha)
    if needed is None:
        return f"With {n} samples no sign test can reach p < {alpha:g}: not even {n} wins of {n}. Take more samples."
    often, nearly_always = (f"{at_least(needed, n, rate):.0%}" for rate in (0.7, 0.9))
    return (
        f"With {n} samples a sign test needs {needed} wins of {n} without a tie for p < {alpha:g} (two-sided, exact: "
        f"p = {sign_test(needed, n - needed):.3f}); a model that would win 70% of all such samples is found better in "
        f"{often} of such reviews, one that would win 90% in {nearly_always}."
    )
