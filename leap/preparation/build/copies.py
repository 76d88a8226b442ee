"""Which samples show an image that another sample, or the evaluation, shows too: the same, or one that looks alike.

Images look alike where their 64-bit perceptual hashes differ in few bits. All pairs are compared: 168,042 hashes of the
published files' number, all unlike, take 6 s on one core, as an index over bands of their bits does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from leap.errors import UsageError
from leap.preparation.check.image_facts import Facts

Exclusion = Literal["duplicates", "near-duplicates", "overlap", "near-overlap"]
EXCLUSIONS: tuple[Exclusion, ...] = ("duplicates", "near-duplicates", "overlap", "near-overlap")
MOST_BITS = 12  # of difference that make sense: beyond them any two images may be near


class Copy(NamedTuple):
    """A sample whose image is, or looks like, another one's."""

    sample: int  # its place among the samples
    other: str  # the other image's file
    bits: int  # by which their perceptual hashes differ
    same: bool  # the very same pixels


@dataclass(frozen=True)
class Images:
    """The first images of samples, in the samples' order."""

    files: list[str]
    digests: list[bytes]
    phashes: np.ndarray  # uint64 [samples]

    @classmethod
    def of(cls, files: Sequence[str], facts: dict[str, Facts]) -> "Images":
        digests = [facts[file].digest for file in files]
        return cls(list(files), digests, np.array([facts[file].phash for file in files], np.uint64))


def copies_within(images: Images, max_bits: int) -> list[Copy]:
    """Samples whose image is, or looks like, that of an earlier sample (`first_alike` says which of several)."""
    stands = first_alike(images.phashes, max_bits).tolist()
    first: dict[bytes, int] = {}
    found = []
    for sample, digest in enumerate(images.digests):
        same = first.setdefault(digest, sample)
        other = stands[sample] if same == sample else same
        if other != sample:
            found.append(Copy(sample, images.files[other], _bits(images, sample, images, other), same != sample))
    return found


def copies_of(images: Images, others: Images, max_bits: int) -> list[Copy]:
    """Samples whose image is, or looks like, one of the others: the very same one if there is one, else the nearest."""
    places = nearest_of(images.phashes, others.phashes, max_bits)
    first: dict[bytes, int] = {}
    for place, digest in enumerate(others.digests):
        first.setdefault(digest, place)
    found = []
    for sample, (digest, near) in enumerate(zip(images.digests, places.tolist(), strict=True)):
        same = first.get(digest)
        other = near if same is None else same
        if other >= 0:
            found.append(Copy(sample, others.files[other], _bits(images, sample, others, other), same is not None))
    return found


def check_distance(bits: int) -> None:
    """Raises UsageError for a distance that makes no sense."""
    if not 0 <= bits <= MOST_BITS:
        raise UsageError(f"a distance of {bits} bits: give 0 to {MOST_BITS}")


def first_alike(hashes: np.ndarray, max_bits: int) -> np.ndarray:
    """For each image the place of the one that stands for it, int64 [images]: itself for one unlike all before it.

    hashes: uint64 [images]. In their order, an image joins the nearest of those that stand for themselves already,
    if one is within `max_bits`; equal ones all go where the first went. So what stands for itself is further than that
    from its like, and no chain of small steps joins unlike images. The order alone decides: equal input gives equal
    output.
    """
    distinct, firsts, which = np.unique(hashes, return_index=True, return_inverse=True)
    leaders, places = np.empty_like(distinct), np.empty_like(firsts)  # those that stand for themselves
    stands, count = np.empty_like(firsts), 0
    for number in np.argsort(firsts, kind="stable"):
        near = _nearest(leaders[:count], distinct[number], max_bits)
        if near < 0:
            leaders[count], places[count] = distinct[number], firsts[number]
            near, count = count, count + 1
        stands[number] = places[near]
    return stands[which.reshape(-1)]


def nearest_of(hashes: np.ndarray, others: np.ndarray, max_bits: int) -> np.ndarray:
    """The place of the nearest of `others` for each hash, int64 [hashes]; -1 where none is within `max_bits`."""
    asked, which = np.unique(hashes, return_inverse=True)
    found = np.array([_nearest(others, value, max_bits) for value in asked], np.int64)
    return found[which.reshape(-1)]


def _nearest(hashes: np.ndarray, value: np.uint64, max_bits: int) -> int:
    """The place of the nearest hash, of several the lowest; -1 where none is within `max_bits`."""
    distances = np.bitwise_count(hashes ^ value)
    best = int(distances.argmin()) if len(hashes) else -1
    return best if best >= 0 and distances[best] <= max_bits else -1


def _bits(one: Images, sample: int, other: Images, place: int) -> int:
    return (int(one.phashes[sample]) ^ int(other.phashes[place])).bit_count()
