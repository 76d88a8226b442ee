"""Which rows make up every optimiser step, and how a step's rows are divided into packs.

A pack goes through the model at once: as one row without padding, or as padded rows. The rows of a step depend on the
seed alone, not on how many processes or packs they are divided among, so that a run can go on with another number of
either.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset


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
        lists: list[list[int]] = [[] for _ in range(self.packs * self.processes)]
        load = np.zeros(len(lists))
        for row in rows[np.argsort(-self.cost.total[rows], kind="stable")]:
            least = int(load.argmin())
            lists[least].append(int(row))
            load[least] += self.cost.total[row]
        return lists

    def pack(self, step: int, index: int, process: int = 0) -> list[int]:
        """The rows of a process's pack of a step."""
        return self.divide(step)[process * self.packs + index]

    def heaviest(self, process: int = 0, steps: int = 400) -> tuple[int, int]:
        """(step, index) of the costliest pack of a process within the first `steps`."""
        found = [
            (self.cost.total[self.pack(step, index, process)].sum(), step, index)
            for step in range(min(self.steps, steps))
            for index in range(self.packs)
        ]
        return max(found)[1:]


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
        batch = self._collate([self.samples[row] for row in rows or filler], counted=bool(rows))
        return {**batch, "rows": rows, "step_label_tokens": self.plan.label_tokens(step)}
