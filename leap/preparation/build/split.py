"""Episodes into training and test, by a seed: the same episodes and seed give the same sides, in any process."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from leap.errors import UsageError

TEST_SHARE = 16_812 / 168_042
"""The published files' share of test samples."""


class Split(NamedTuple):
    """Names of episodes in the order of their samples in the files."""

    train: list[str]
    test: list[str]


def split_episodes(samples: Mapping[str, int], seed: int, test_samples: int | None, train_samples: int | None) -> Split:
    """Every episode on one side, or on neither where fewer samples are asked for than there are.

    samples: how many each episode has. By default `TEST_SHARE` of all samples are for the test and all others for
    training. An episode's place is its hash under the seed, so that one that is added moves few of the others. Raises
    UsageError where the asked numbers cannot be met exactly.
    """
    total = sum(samples.values())
    asked = test_samples if test_samples is not None else round(total * TEST_SHARE)
    order = sorted(samples, key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode()).digest())
    test = _fill(order, samples, asked)
    chosen = set(test)
    rest = [name for name in order if name not in chosen]
    train = rest if train_samples is None else _fill(rest, samples, train_samples)
    for flag, side, number in (("--test_samples", test, test_samples), ("--train_samples", train, train_samples)):
        if number is not None and (made := sum(samples[name] for name in side)) != number:
            raise UsageError(f"{flag} {number}: the episodes at hand make {made} of them ({total} samples in all)")
    return Split(train, test)


def _fill(order: Sequence[str], samples: Mapping[str, int], wanted: int) -> list[str]:
    taken, left = [], wanted
    for name in order:
        if samples[name] <= left:
            taken.append(name)
            left -= samples[name]
    return taken
