"""Which samples show an image that another sample, or the evaluation, shows too: the same, or one that looks alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from leap.preparation.build.near_duplicates import first_alike, nearest_of
from leap.preparation.check.image_facts import Facts

Exclusion = Literal["duplicates", "near-duplicates", "overlap", "near-overlap"]
EXCLUSIONS: tuple[Exclusion, ...] = ("duplicates", "near-duplicates", "overlap", "near-overlap")


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
    places, _ = nearest_of(images.phashes, others.phashes, max_bits)
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


def _bits(one: Images, sample: int, other: Images, place: int) -> int:
    return (int(one.phashes[sample]) ^ int(other.phashes[place])).bit_count()
