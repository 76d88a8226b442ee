"""A plan beside its reference, step by step: which steps match, and what became of the others."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from leap.vlabench.grounding import Step

Mark = Literal["matched", "moved", "wrong", "missing", "extra"]
# Of two steps side by side. Pairing any two is cheaper than leaving both alone (2), so that a plan of the reference's
# length stands beside it step by step; a pair of one skill is preferred.
_OTHER_ID, _OTHER_SKILL, _ALONE = 1.0, 1.5, 1.0
LONGEST = 200  # steps that are aligned: the time grows by the product of both lengths


class Row(NamedTuple):
    """One line of the two plans side by side, by the places of their steps (from 0); None: the plan has none there.

    moved: the response's step (or that of the reference, where it has none) stands elsewhere in the other plan.
    """

    expected: int | None
    said: int | None
    mark: Mark


def align(reference: Sequence[Step], plan: Sequence[Step]) -> list[Row]:
    """Every step of both plans once, in order, with as few differences as possible (Needleman and Wunsch 1970).

    Steps behind the first 200 are left out.
    """
    reference, plan = reference[:LONGEST], plan[:LONGEST]
    costs = _costs(reference, plan)
    pairs: list[tuple[int | None, int | None]] = []
    i, j = len(reference), len(plan)
    while i or j:
        # From the end, the pair first: of two equally good alignments the one with fewer lines.
        if i and j and costs[i][j] == costs[i - 1][j - 1] + _difference(reference[i - 1], plan[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif i and costs[i][j] == costs[i - 1][j] + _ALONE:
            i -= 1
            pairs.append((i, None))
        else:
            j -= 1
            pairs.append((None, j))
    return _marked(reference, plan, pairs[::-1])


def _costs(reference: Sequence[Step], plan: Sequence[Step]) -> list[list[float]]:
    """[i][j]: the cost of the first i steps of the reference beside the first j of the plan."""
    costs = [[j * _ALONE for j in range(len(plan) + 1)]]
    for i, expected in enumerate(reference, start=1):
        row = [i * _ALONE]
        for j, said in enumerate(plan, start=1):
            paired = costs[-1][j - 1] + _difference(expected, said)
            row.append(min(paired, costs[-1][j] + _ALONE, row[-1] + _ALONE))
        costs.append(row)
    return costs


def _difference(expected: Step, said: Step) -> float:
    if expected == said:
        return 0.0
    return _OTHER_ID if expected.skill == said.skill else _OTHER_SKILL


def _marked(
    reference: Sequence[Step], plan: Sequence[Step], pairs: Sequence[tuple[int | None, int | None]]
) -> list[Row]:
    def matched(i: int | None, j: int | None) -> bool:
        return i is not None and j is not None and reference[i] == plan[j]

    expected = Counter(reference[i] for i, j in pairs if i is not None and not matched(i, j))
    said = Counter(plan[j] for i, j in pairs if j is not None and not matched(i, j))
    moved = {"said": expected & said, "expected": expected & said}
    rows = []
    for i, j in pairs:
        side, step = ("expected", reference[i]) if j is None and i is not None else ("said", plan[j or 0])
        mark: Mark = "matched"
        if not matched(i, j):
            if moved[side][step]:
                moved[side][step] -= 1
                mark = "moved"
            else:
                mark = "missing" if j is None else "extra" if i is None else "wrong"
        rows.append(Row(i, j, mark))
    return rows
