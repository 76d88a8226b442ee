"""Which samples make up every optimiser step, and how a step's samples are divided into micro-batches.

A micro-batch goes through the model at once: as one row without padding, or as padded rows. The samples of a step
depend on the seed alone, not on how many ranks or micro-batches they are divided among, so that a run can go on with
another number of either.
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
    """What samples cost: of each one its tokens, its patches and its label tokens (int arrays, one entry a sample)."""

    tokens: NDArray[np.int32]
    patches: NDArray[np.int32]
    label_tokens: NDArray[np.int32]
    patch_weight: float  # a patch's cost in tokens

    @cached_property
    def total(self) -> NDArray[np.float64]:
        return self.tokens + self.patch_weight * self.patches


@dataclass(frozen=True)
class BatchPlan:
    """A run's micro-batches: `micro_batches` for every optimiser step and rank."""

    cost: Cost
    global_batch_size: int
    steps: int  # of the whole run
    seed: int
    micro_batches: int
    world_size: int = 1

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.cost.tokens) / self.global_batch_size)

    def samples(self, step: int) -> NDArray[np.int64]:
        """Indices of an optimiser step's samples (step from 0). Every epoch has an order of its own; its last step may
        be short."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = _epoch_order(len(self.cost.tokens), self.seed, epoch)
        return order[place * self.global_batch_size : (place + 1) * self.global_batch_size]

    def samples_before(self, step: int) -> int:
        """How many samples the first `step` optimiser steps have; in every epoch a sample counts again."""
        epochs, place = divmod(step, self.steps_per_epoch)
        return epochs * len(self.cost.tokens) + min(place * self.global_batch_size, len(self.cost.tokens))

    def label_tokens(self, step: int) -> int:
        """Of all ranks: what the step's summed loss is divided by."""
        return int(self.cost.label_tokens[self.samples(step)].sum())

    def divide(self, step: int) -> list[list[int]]:
        """A step's samples as micro-batches x ranks lists of about equal cost; some are empty where there are too
        few samples.

        The costliest sample goes first, each to the list that has the least so far. A rank has `micro_batches` of
        them in a sample, see `micro_batch`.
        """
        samples = self.samples(step)
        samples = samples[np.argsort(-self.cost.total[samples], kind="stable")]
        lists: list[list[int]] = [[] for _ in range(self.micro_batches * self.world_size)]
        for sample, place in zip(samples, _assign(self.cost.total[samples][None], len(lists))[0], strict=True):
            lists[place].append(int(sample))
        return lists

    def micro_batch(self, step: int, index: int, rank: int = 0) -> list[int]:
        """The samples of a rank's micro-batch of a step."""
        return self.divide(step)[rank * self.micro_batches + index]

    def heaviest(self, weight: NDArray[np.float64]) -> tuple[list[int], float]:
        """The samples of the micro-batch whose `weight` [samples] sums up to most, of all steps and ranks, and that
        sum.

        Memory is another weight than the arithmetic that `divide` balances, so the costliest micro-batch need not be
        it.
        """
        lists, best = self.micro_batches * self.world_size, (0, 0, -1.0)
        for first in range(0, self.steps, _STEPS_AT_ONCE):
            steps = range(first, min(first + _STEPS_AT_ONCE, self.steps))
            samples = np.full((len(steps), self.global_batch_size), -1)  # -1: the last step of an epoch may be short
            for at, step in enumerate(steps):
                found = self.samples(step)
                samples[at, : len(found)] = found[np.argsort(-self.cost.total[found], kind="stable")]
            there = samples >= 0
            places = _assign(np.where(there, self.cost.total[samples], 0), lists)
            weights = np.where(there, weight[samples], 0)
            sums = np.bincount(
                (places + lists * np.arange(len(steps))[:, None]).ravel(), weights.ravel(), lists * len(steps)
            )
            largest = int(sums.argmax())
            if sums[largest] > best[2]:
                best = (first + largest // lists, largest % lists, float(sums[largest]))
        step, place, most = best
        return self.divide(step)[place], most


def _assign(costs: NDArray[np.float64], lists: int) -> NDArray[np.int64]:
    """For samples [steps, samples] in the order in which they are dealt out, the list of its step that each one goes
    to.

    That is the list with the least cost so far. All steps are dealt out together: a run has thousands, and the
    heaviest of their micro-batches is asked for at its start.
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
def _epoch_order(samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(samples)


class MicroBatches(Dataset):
    """A rank's micro-batches of a whole run, in order, each made when it is asked for (in the data loader's workers).

    `collate` makes a batch of samples; with `ignore_labels`, one that no loss is computed on.
    """

    def __init__(self, plan: BatchPlan, samples: Any, collate: Callable[..., dict[str, Any]], rank: int = 0) -> None:
        self.plan, self.samples, self._collate, self._rank = plan, samples, collate, rank

    def __len__(self) -> int:
        return self.plan.steps * self.plan.micro_batches

    def place(self, sample: int) -> str:
        """Where a sample stands, as file:line."""
        return str(self.samples.place(sample))

    def __getitem__(self, number: int) -> dict[str, Any]:
        """The batch, with "sample_indices" (into `samples`) and "step_label_tokens", those of the whole step."""
        step, index = divmod(number, self.plan.micro_batches)
        samples = self.plan.micro_batch(step, index, self._rank)
        dummy = [] if samples else [int(self.plan.samples(step)[0])]  # every rank has as many micro-batches
        batch = self.batch(samples or dummy, ignore_labels=not samples)
        return {**batch, "sample_indices": samples, "step_label_tokens": self.plan.label_tokens(step)}

    def batch(self, samples: Sequence[int], ignore_labels: bool = False) -> dict[str, Any]:
        """These samples as one batch for the model; see `collate`."""
        return self._collate([self.samples[sample] for sample in samples], ignore_labels=ignore_labels)

    def halves(self, samples: Sequence[int]) -> list[list[int]]:
        """Samples of a batch in two of about equal cost; a single sample stays whole."""
        if len(samples) < 2:
            return [list(samples)]
        order = sorted(samples, key=lambda sample: -self.plan.cost.total[sample])
        return [order[::2], order[1::2]]
