"""Which rows make up every optimiser step, and how a step's rows are divided into packs.

A pack goes through the model at once: as one row without padding, or as padded rows. The rows of a step depend on the
seed alone, not on how many processes or packs they are divided among, so that a run can go on with another number of
either.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

_STEPS_AT_ONCE = 4_096  # that are dealt out together: their loads fit the processor's cache


@dataclass(frozen=True)
class Cost:
    """What rows cost: of each one its tokens, its patches and its label tokens (int arrays, one entry a row)."""

    tokens: NDArray[np.int32]
    patches: NDArray[np.int32]
    label_tokens: NDArray[np.int32]
    patch_weight: float  # a patch's cost in tokens

    @cached_property
    def total(self) -> NDArray[np.float64]:
        return self.tokens + self.patch_weight * self.patches


@dataclass(frozen=True)
class PackPlan:
    """A run's packs: `packs` for every optimiser step and process."""

    cost: Cost
    rows_per_step: int
    steps: int  # of the whole run
    seed: int
    packs: int
    processes: int = 1

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.cost.tokens) / self.rows_per_step)

    def rows(self, step: int) -> NDArray[np.int64]:
        """The rows of an optimiser step (from 0). Every epoch has an order of its own; its last step may be short."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = _epoch_order(len(self.cost.tokens), self.seed, epoch)
        return order[place * self.rows_per_step : (place + 1) * self.rows_per_step]

    def rows_before(self, step: int) -> int:
        """How many rows the first `step` optimiser steps have; in every epoch a row counts again."""
        epochs, place = divmod(step, self.steps_per_epoch)
        return epochs * len(self.cost.tokens) + min(place * self.rows_per_step, len(self.cost.tokens))

    def label_tokens(self, step: int) -> int:
        """Of all processes: what the step's summed loss is divided by."""
        return int(self.cost.label_tokens[self.rows(step)].sum())

    def divide(self, step: int) -> list[list[int]]:
        """A step's rows as packs x processes lists of about equal cost; some are empty where there are too few rows.

        The costliest row goes first, each to the list that has the least so far. A process has `packs` of them in a
        row, see `pack`.
        """
        rows = self.rows(step)
        rows = rows[np.argsort(-self.cost.total[rows], kind="stable")]
        lists: list[list[int]] = [[] for _ in range(self.packs * self.processes)]
        for row, place in zip(rows, _assign(self.cost.total[rows][None], len(lists))[0], strict=True):
            lists[place].append(int(row))
        return lists

    def pack(self, step: int, index: int, process: int = 0) -> list[int]:
        """The rows of a process's pack of a step."""
        return self.divide(step)[process * self.packs + index]

    def heaviest(self, weight: NDArray[np.float64]) -> tuple[list[int], float]:
        """The rows of the pack whose `weight` [rows] sums up to most, of all steps and processes, and that sum.

        Memory is another weight than the arithmetic that `divide` balances, so the costliest pack need not be it.
        """
        lists, best = self.packs * self.processes, (0, 0, -1.0)
        for first in range(0, self.steps, _STEPS_AT_ONCE):
            steps = range(first, min(first + _STEPS_AT_ONCE, self.steps))
            rows = np.full((len(steps), self.rows_per_step), -1)  # -1: the last step of an epoch may be short
            for at, step in enumerate(steps):
                found = self.rows(step)
                rows[at, : len(found)] = found[np.argsort(-self.cost.total[found], kind="stable")]
            there = rows >= 0
            places = _assign(np.where(there, self.cost.total[rows], 0), lists)
            weights = np.where(there, weight[rows], 0)
            sums = np.bincount(
                (places + lists * np.arange(len(steps))[:, None]).ravel(), weights.ravel(), lists * len(steps)
            )
            largest = int(sums.argmax())
            if sums[largest] > best[2]:
                best = (first + largest // lists, largest % lists, float(sums[largest]))
        step, place, most = best
        return self.divide(step)[place], most


def _assign(costs: NDArray[np.float64], lists: int) -> NDArray[np.int64]:
    """For rows [steps, rows] in the order in which they are dealt out, the list of its step that each one goes to.

    That is the list with the least cost so far. All steps are dealt out together: a run has thousands, and the
    heaviest of their packs is asked for at its start.
    """
    steps = np.arange(len(costs))
    load = np.zeros((lists, len(costs)))  # lists first: their least is then found for many steps at once
    places = np.empty(costs.shape, np.int64)
    for number in range(costs.shape[1]):
        least = load.argmin(axis=0)
        places[:, number] = least
        load[least, steps] += costs[:, number]
    return places


@lru_cache(maxsize=2)
def _epoch_order(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(rows)


class Packs(Dataset):
    """A process's packs of a whole run, in order, each made when it is asked for (in the data loader's workers).

    `collate` makes a batch of samples; where it is told that they are not `counted`, they have no labels.
    """

    def __init__(self, plan: PackPlan, samples: Any, collate: Callable[..., dict[str, Any]], process: int = 0) -> None:
        self.plan, self.samples, self._collate, self._process = plan, samples, collate, process

    def __len__(self) -> int:
        return self.plan.steps * self.plan.packs

    def place(self, row: int) -> str:
        """Where a row stands, as file:line."""
        return str(self.samples.place(row))

    def __getitem__(self, number: int) -> dict[str, Any]:
        """The batch, with "rows" (indices into `samples`) and "step_label_tokens", those of all the step's packs."""
        step, index = divmod(number, self.plan.packs)
        rows = self.plan.pack(step, index, self._process)
        filler = [] if rows else [int(self.plan.rows(step)[0])]  # every process has as many packs
        batch = self.batch(rows or filler, counted=bool(rows))
        return {**batch, "rows": rows, "step_label_tokens": self.plan.label_tokens(step)}

    def batch(self, rows: Sequence[int], counted: bool = True) -> dict[str, Any]:
        """These rows as one batch for the model; see `collate`."""
        return self._collate([self.samples[row] for row in rows], counted=counted)

    def halves(self, rows: Sequence[int]) -> list[list[int]]:
        """Rows of a batch in two of about equal cost; one row stays whole."""
        if len(rows) < 2:
            return [list(rows)]
        order = sorted(rows, key=lambda row: -self.plan.cost.total[row])
        return [order[::2], order[1::2]]
