"""Images that look alike: 64-bit perceptual hashes a few bits apart, found without comparing all pairs.

Two hashes that differ in at most d bits are equal in at least one of d + 1 bands of their bits, so a hash is compared
only with those that share a band with it. The work is near to linear as long as no band has one value for most hashes;
memory is linear always.
"""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from leap.errors import UsageError

BITS = 64
MOST_BITS = 12  # of difference that make sense: beyond them any two images may be near, and bands become short


def check_distance(bits: int) -> None:
    """Raises UsageError for a distance that makes no sense."""
    if not 0 <= bits <= MOST_BITS:
        raise UsageError(f"a distance of {bits} bits: give 0 to {MOST_BITS}")


class _Bucket:
    """A growing array of hashes with the place of each."""

    def __init__(self) -> None:
        self._hashes, self._places, self._count = np.empty(2, np.uint64), np.empty(2, np.int64), 0

    def add(self, value: np.uint64, place: int) -> None:
        if self._count == len(self._hashes):
            self._hashes, self._places = (
                np.resize(self._hashes, 2 * self._count),
                np.resize(self._places, 2 * self._count),
            )
        self._hashes[self._count], self._places[self._count] = value, place
        self._count += 1

    def nearest(self, value: np.uint64) -> tuple[int, int]:
        """(bits of difference, place) of the nearest hash; of several the one that was added first."""
        distances = np.bitwise_count(self._hashes[: self._count] ^ value)
        best = int(distances.argmin())
        return int(distances[best]), int(self._places[best])


class HashIndex:
    """Hashes that can be asked for the nearest within `max_distance` bits."""

    def __init__(self, max_distance: int) -> None:
        check_distance(max_distance)
        self._max_distance = max_distance
        edges = np.linspace(0, BITS, max_distance + 2).astype(int).tolist()
        self._bands = [(low, (1 << (high - low)) - 1) for low, high in pairwise(edges)]
        self._buckets: dict[tuple[int, int], _Bucket] = {}

    def _keys(self, value: int) -> Iterable[tuple[int, int]]:
        return ((low, value >> low & mask) for low, mask in self._bands)

    def add(self, value: int, place: int) -> None:
        for key in self._keys(value):
            self._buckets.setdefault(key, _Bucket()).add(np.uint64(value), place)

    def nearest(self, value: int) -> tuple[int, int] | None:
        """(bits of difference, place) of the nearest hash within the distance; of several the lowest place."""
        asked = np.uint64(value)
        found = [bucket.nearest(asked) for key in self._keys(value) if (bucket := self._buckets.get(key))]
        best = min(found, default=None)
        return best if best and best[0] <= self._max_distance else None


def first_alike(hashes: np.ndarray, max_distance: int) -> np.ndarray:
    """For each image the place of the one that stands for it, int64 [images]: itself for one unlike all before it.

    hashes: uint64 [images]. In their order, an image joins the nearest of those that stand for themselves already,
    if one is within `max_distance` bits; equal ones all go where the first went. So what stands for itself is further
    than that from its like, and no chain of small steps joins unlike images. The order alone decides: equal input gives
    equal output.
    """
    index, stands = HashIndex(max_distance), np.arange(len(hashes))
    distinct, firsts, which = np.unique(hashes, return_index=True, return_inverse=True)
    leader = np.empty(len(distinct), np.int64)
    for number in np.argsort(firsts, kind="stable").tolist():
        value, place = int(distinct[number]), int(firsts[number])
        found = index.nearest(value)
        leader[number] = found[1] if found else place
        if not found:
            index.add(value, place)
    stands[:] = leader[which.reshape(-1)]
    return stands


def nearest_of(hashes: np.ndarray, others: np.ndarray, max_distance: int) -> tuple[np.ndarray, np.ndarray]:
    """(place of the nearest of `others`, bits of difference) for each hash, int64 [hashes]; -1 where none is near."""
    index = HashIndex(max_distance)
    distinct, firsts = np.unique(others, return_index=True)
    for number in np.argsort(firsts, kind="stable").tolist():
        index.add(int(distinct[number]), int(firsts[number]))
    asked, which = np.unique(hashes, return_inverse=True)
    found = np.array([index.nearest(int(value)) or (-1, -1) for value in asked], np.int64).reshape(-1, 2)
    return found[which.reshape(-1), 1], found[which.reshape(-1), 0]
