"""What planners that never look score, from the references alone: the floor of each score, and the best constant plan.

floor: the mean over all ordered pairs of different examples of a task, one's reference scored as the answer to the
other. So much is had by knowing what plans of a task look like.
best blind: for each example the plan, among the references of its task's other examples, that is best on those others,
scored on it (equally good ones are averaged). So much is had by exploiting the benchmark's habits.
All examples on disk count, whatever subset a model answered. Over a dimension every example weighs alike, as in a
model's mean; where all tasks have as many examples that is the mean over all pairs.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leap.records.benchmark import BenchmarkExample
from leap.vlabench.grounding import GROUNDED, named_steps
from leap.vlabench.scoring import plan_bags
from leap.vlabench.skills import find_subtasks

Array = NDArray[np.float64]
TOTAL = "total_score"
_TIE = 1e-9  # sums of the same scores in another order differ by some 1e-13


def blind_scores(examples: Iterable[BenchmarkExample]) -> dict[str, Any]:
    """Floor and best blind of a dimension and each of its tasks, as the manifest keeps them.

    {"examples", "pairs", "fingerprint" of the references, "floor": {score: mean or None}, "best_blind": the same,
    "tasks": {task: the same but fingerprint and tasks}}; None where no task has two examples.
    """
    by_task: dict[str, list[BenchmarkExample]] = {}
    for example in examples:
        by_task.setdefault(example.task, []).append(example)
    found = {task: _of_examples([example.skill_sequence for example in of]) for task, of in by_task.items()}
    everything = [example for of in by_task.values() for example in of]
    tasks = {task: _summary(len(by_task[task]), [rows]) for task, rows in found.items()}
    pairs = sum(task["pairs"] for task in tasks.values())
    whole = _summary(len(everything), list(found.values())) | {"pairs": pairs}
    return {**whole, "fingerprint": reference_fingerprint(everything), "tasks": tasks}


def reference_fingerprint(examples: Iterable[BenchmarkExample]) -> str:
    """sha256 over the examples' names and reference plans: all that a floor is made of."""
    digest = hashlib.sha256()
    for example in examples:
        plan = json.dumps(example.skill_sequence, sort_keys=True)
        digest.update(f"{example.dimension}/{example.task}/{example.number}\0{plan}\0".encode())
    return digest.hexdigest()


def grounded_pairs(references: Sequence[Any]) -> Array:
    """`grounded` of each reference (row) with each reference as the plan (column); NaN rows where it names none."""
    steps = [named_steps(reference) for reference in references]
    lengths = np.array([counts.total() for counts in steps], dtype=np.float64)
    longer = np.maximum.outer(lengths, lengths)
    longer[lengths == 0] = np.nan
    return 100 * overlaps(steps) / longer


def total_pairs(references: Sequence[Any]) -> Array:
    """The official total of each reference (row) with each reference as the plan (column): five zeros, as official,
    where upstream's scorer fails on one of the two or finds no subtask in the reference."""
    bags = [plan_bags(reference) for reference in references]
    total = np.zeros((len(bags), len(bags)))
    for kind in ("skills", "entities"):
        counts = [Counter() if bag is None else getattr(bag, kind) for bag in bags]
        sizes = np.array([max(count.total(), 1) for count in counts], dtype=np.float64)
        total += 0.4 * (overlaps(counts) / sizes[:, None] * 100)
    scored = [bag is not None and bool(find_subtasks(plan)) for bag, plan in zip(bags, references, strict=True)]
    return np.where(np.array(scored, dtype=bool)[:, None], total, 0.0)


def overlaps(multisets: Sequence[Mapping[Any, int]]) -> Array:
    """How many items each two multisets share, (n, n). One item at a time: n x n numbers are all that is held."""
    places = {item: place for place, item in enumerate(dict.fromkeys(item for counts in multisets for item in counts))}
    table = np.zeros((len(places), len(multisets)))
    for column, counts in enumerate(multisets):
        for item, count in counts.items():
            table[places[item], column] = count
    shared = np.zeros((len(multisets), len(multisets)))
    for row in table:
        shared += np.minimum.outer(row, row)
    return shared


def _of_examples(references: Sequence[Any]) -> dict[tuple[str, str], Array]:
    """{("floor" or "best_blind", score): each example's expected score}; NaN where it has none."""
    found = {}
    for score, pairs in ((GROUNDED, grounded_pairs), (TOTAL, total_pairs)):
        scores = pairs(references) if len(references) > 1 else np.full((len(references), 1), np.nan)
        found["floor", score] = _floor(scores)
        found["best_blind", score] = _best_blind(scores)
    return found


def _floor(scores: Array) -> Array:
    n = len(scores)
    return (scores.sum(axis=1) - np.diagonal(scores)) / (n - 1) if n > 1 else np.full(n, np.nan)


def _best_blind(scores: Array) -> Array:
    """For each example the mean score, on it, of the columns that are best on all other rows; its own is no choice."""
    n = len(scores)
    if n < 2:
        return np.full(n, np.nan)
    known = np.nan_to_num(scores)
    elsewhere = known.sum(axis=0) - known
    np.fill_diagonal(elsewhere, -np.inf)
    best = elsewhere >= elsewhere.max(axis=1, keepdims=True) - _TIE
    return (scores * best).sum(axis=1) / best.sum(axis=1)


def _summary(examples: int, tasks: Sequence[Mapping[tuple[str, str], Array]]) -> dict[str, Any]:
    summary: dict[str, Any] = {"examples": examples, "pairs": examples * (examples - 1)}
    for kind in ("floor", "best_blind"):
        summary[kind] = {
            score: _mean(np.concatenate([task[kind, score] for task in tasks] or [np.empty(0)]))
            for score in (GROUNDED, TOTAL)
        }
    return summary


def _mean(values: Array) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
