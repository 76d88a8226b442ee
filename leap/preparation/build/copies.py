"""Which rows show a picture that another row, or the evaluation, shows too: the very same, or one that looks alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from leap.preparation.build.near_duplicates import first_alike, nearest_of
from leap.preparation.check.image_facts import Facts

Exclusion = Literal["duplicates", "near-duplicates", "overlap", "near-overlap"]
EXCLUSIONS: tuple[Exclusion, ...] = ("duplicates", "near-duplicates", "overlap", "near-overlap")


class Copy(NamedTuple):
    """A row whose picture is, or looks like, another one's."""

    row: int  # its place among the rows
    other: str  # the other picture's file
    bits: int  # by which their perceptual hashes differ
    same: bool  # the very same pixels


@dataclass(frozen=True)
class Pictures:
    """The first pictures of rows, in the rows' order."""

    files: list[str]
    digests: list[bytes]
    phashes: np.ndarray  # uint64 [rows]

    @classmethod
    def of(cls, files: Sequence[str], facts: dict[str, Facts]) -> "Pictures":
        digests = [facts[file].digest for file in files]
        return cls(list(files), digests, np.array([facts[file].phash for file in files], np.uint64))


def copies_within(pictures: Pictures, max_bits: int) -> list[Copy]:
    """Rows whose picture is, or looks like, that of an earlier row (`first_alike` says which of several)."""
    stands = first_alike(pictures.phashes, max_bits).tolist()
    first: dict[bytes, int] = {}
    found = []
    for row, digest in enumerate(pictures.digests):
        same = first.setdefault(digest, row)
        other = stands[row] if same == row else same
        if other != row:
            found.append(Copy(row, pictures.files[other], _bits(pictures, row, pictures, other), same != row))
    return found


def copies_of(pictures: Pictures, others: Pictures, max_bits: int) -> list[Copy]:
    """Rows whose picture is, or looks like, one of the others: the very same one if there is one, else the nearest."""
    places, _ = nearest_of(pictures.phashes, others.phashes, max_bits)
    first: dict[bytes, int] = {}
    for place, digest in enumerate(others.digests):
        first.setdefault(digest, place)
    found = []
    for row, (digest, near) in enumerate(zip(pictures.digests, places.tolist(), strict=True)):
        same = first.get(digest)
        other = near if same is None else same
        if other >= 0:
            found.append(Copy(row, others.files[other], _bits(pictures, row, others, other), same is not None))
    return found


def _bits(one: Pictures, row: int, other: Pictures, place: int) -> int:
    return (int(one.phashes[row]) ^ int(other.phashes[place])).bit_count()
