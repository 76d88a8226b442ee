"""Episodes into training and test, by a seed: the same episodes and seed give the same sides, in any process."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from leap.errors import UsageError

TEST_SHARE = 16_812 / 168_042
"""The published files' share of test rows."""


class Split(NamedTuple):
    """Names of episodes in the order of their rows in the files."""

    train: list[str]
    test: list[str]


def split_episodes(rows: Mapping[str, int], seed: int, test_rows: int | None, train_rows: int | None) -> Split:
    """Every episode on one side, or on neither where fewer rows are asked for than there are.

    rows: how many each episode has. By default `TEST_SHARE` of all rows are for the test and all others for training.
    An episode's place is its hash under the seed, so that one that is added moves few of the others. Raises UsageError
    where the asked numbers cannot be met exactly.
    """
    total = sum(rows.values())
    asked = test_rows if test_rows is not None else round(total * TEST_SHARE)
    order = sorted(rows, key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode()).digest())
    test = _fill(order, rows, asked)
    chosen = set(test)
    rest = [name for name in order if name not in chosen]
    train = rest if train_rows is None else _fill(rest, rows, train_rows)
    for flag, side, number in (("--test-rows", test, test_rows), ("--train-rows", train, train_rows)):
        if number is not None and (made := sum(rows[name] for name in side)) != number:
            raise UsageError(f"{flag} {number}: the episodes at hand make {made} of them ({total} rows in all)")
    return Split(train, test)


def _fill(order: Sequence[str], rows: Mapping[str, int], wanted: int) -> list[str]:
    taken, left = [], wanted
    for name in order:
        if rows[name] <= left:
            taken.append(name)
            left -= rows[name]
    return taken
