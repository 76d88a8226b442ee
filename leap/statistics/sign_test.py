"""The exact sign test, and what so few samples can show at all. scipy takes a second to import: only where needed."""

from leap.statistics.comparison import ALPHA


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p-value of wins against losses, ties left out (Dixon & Mood 1946); 1 where all are ties."""
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def wins_needed(n: int, alpha: float = ALPHA) -> int | None:
    """The fewest wins among n samples without ties that make p < alpha; None where not even n wins do."""
    from scipy.stats import binom

    needed = int(binom.isf(alpha / 2, n, 0.5)) + 1
    return needed if needed <= n else None


def power_sentence(n: int, alpha: float = ALPHA) -> str:
    """What a review of n samples can show, in words."""
    needed = wins_needed(n, alpha)
    if needed is None:
        return f"With {n} samples no sign test can reach p < {alpha:g}: not even {n} wins of {n}. Take more samples."
    from scipy.stats import binom

    often, nearly_always = (f"{binom.sf(needed - 1, n, rate):.0%}" for rate in (0.7, 0.9))
    return (
        f"With {n} samples a sign test needs {needed} wins of {n} without a tie for p < {alpha:g} (two-sided, exact: "
        f"p = {sign_test(needed, n - needed):.3f}); a model that would win 70% of all such samples is found better in "
        f"{often} of such reviews, one that would win 90% in {nearly_always}."
    )
