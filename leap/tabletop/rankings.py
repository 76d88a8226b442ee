"""Orders of the world that a table's objects stand in: which block is denser, which card ranks higher."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isnan

from leap.tabletop.catalogue import KINDS
from leap.tabletop.tasks.common_sense import rank
from leap.tabletop.tasks.complex import RAINBOW


@dataclass(frozen=True)
class Ranking:
    """`value` of a kind of the category; `high` and `low` say in words which end is meant.

    A difference counts from `gap` on, or from the factor `ratio`: what is nearly alike is never asked about.
    """

    category: str
    high: str
    low: str
    value: Callable[[str], float]
    gap: float = 0.0
    ratio: float = 1.0

    def holds_for(self, kind: str) -> bool:
        return not isnan(self.value(kind))

    def clear(self, one: str, other: str) -> bool:
        small, large = sorted((self.value(one), self.value(other)))
        return large - small >= self.gap and large >= self.ratio * small


def _quantity(name: str) -> Callable[[str], float]:
    return lambda kind: float(getattr(KINDS[kind], name))


RANKINGS = (
    Ranking("block", "is densest", "is least dense", _quantity("density"), ratio=1.5),
    Ranking("block", "rubs most on wood", "rubs least on wood", _quantity("friction"), gap=0.19),
    Ranking("block", "mirrors light best", "mirrors light worst", _quantity("reflectance"), gap=0.14),
    Ranking("card", "beats the rest", "loses to the rest", lambda kind: -float(rank(kind))),
    Ranking("book", "is at the violet end of a rainbow", "is at the red end of a rainbow",
            lambda kind: float(RAINBOW.index(kind))),
)  # fmt: skip
