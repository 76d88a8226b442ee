"""The checked lines of a training file as columns: lengths with images, and what is wrong with which sample."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from leap.data.image import ImageEncoder
from leap.preparation.check.find_images import FoundImages
from leap.preparation.check.image_facts import Looked

MISSING, CORRUPT = "missing image", "corrupt image"


class Problem(NamedTuple):
    """Why a sample cannot be trained on."""

    line: int
    kind: str
    reason: str


@dataclass(frozen=True)
class Measured:
    """Lengths of the first samples of a file, int32 [samples], and by its place what is wrong with one."""

    tokens: np.ndarray
    patches: np.ndarray
    largest_image: np.ndarray  # patches of a sample's largest image
    problems: dict[int, Problem]

    def split(self, max_length: int) -> tuple[np.ndarray, np.ndarray]:
        """Places of the samples without a problem: those up to `max_length` tokens, and those over it."""
        usable = np.ones(len(self.tokens), bool)
        usable[list(self.problems)] = False
        fits = self.tokens <= max_length
        return np.flatnonzero(usable & fits), np.flatnonzero(usable & ~fits)


class SampleTable:
    """An Arrow file of leap.preparation.check.sample_check, mapped into memory; samples are counted from 0."""

    def __init__(self, file: Path) -> None:
        from datasets import Dataset

        self.samples: Any = Dataset.from_file(str(file))
        self._columns = self.samples.data
        self.lines, self.text_tokens, self.label_tokens, self.repeats = (
            self._columns.column(name).to_numpy() for name in ("line", "text_tokens", "label_tokens", "repeats")
        )
        images = self._columns.column("images")
        self.images: np.ndarray = pc.list_value_length(images).to_numpy()
        encoded = pc.list_flatten(images).combine_chunks().dictionary_encode()
        self._names = encoded.dictionary
        self._place: np.ndarray = encoded.indices.to_numpy()  # of each sample's images, in their order, in `_names`
        self._sample = np.repeat(np.arange(len(self)), self.images)  # that each of them belongs to

    def __len__(self) -> int:
        return len(self.lines)

    def image_names(self, samples: int) -> list[str]:
        """The distinct image paths of the first samples, in the order of their first use."""
        used = self._place[: self.images[:samples].sum()]
        return self._names.slice(0, used.max() + 1 if len(used) else 0).to_pylist()

    def measure(self, samples: int, found: FoundImages, looked: Looked, encoder: ImageEncoder) -> Measured:
        """Lengths of the first samples with their images, once these are found and decoded."""
        bad = {place: (MISSING, why) for place, why in found.missing.items()}
        broken = (place for place, file in enumerate(found.files) if file in looked.broken)
        bad |= {place: (CORRUPT, looked.broken[found.files[place]]) for place in broken}
        sizes = [looked.facts[file][:2] if file in looked.facts else (-1, -1) for file in found.files]
        of_image = _patches(np.array(sizes, np.int64).reshape(-1, 2), bad.keys(), encoder)
        used = slice(0, self.images[:samples].sum())
        place, sample = self._place[used], self._sample[used]
        patches = np.bincount(sample, of_image[place], samples).astype(np.int32)
        largest_image = np.zeros(samples, np.int32)
        np.maximum.at(largest_image, sample, of_image[place].astype(np.int32))
        tokens = self.text_tokens[:samples] + patches // encoder.patches_per_token
        return Measured(tokens, patches, largest_image, self._problems(samples, place, sample, bad))

    def _problems(
        self, samples: int, place: np.ndarray, sample: np.ndarray, bad: dict[int, tuple[str, str]]
    ) -> dict[int, Problem]:
        kinds, reasons = (self._columns.column(name).slice(0, samples) for name in ("kind", "reason"))
        unusable = np.flatnonzero(kinds.is_valid().to_numpy())
        problems = {int(at): (kinds[at].as_py(), reasons[at].as_py()) for at in unusable}
        for at in np.flatnonzero(np.isin(place, list(bad))):
            problems.setdefault(int(sample[at]), bad[int(place[at])])
        return {at: Problem(int(self.lines[at]), *problems[at]) for at in sorted(problems)}


def _patches(dimensions: np.ndarray, without: Iterable[int], encoder: ImageEncoder) -> np.ndarray:
    """Patches of each image [images] from heights and widths; 0 for those in `without`."""
    patches = np.zeros(len(dimensions), np.int64)
    good = np.ones(len(dimensions), bool)
    good[list(without)] = False
    sizes, which = np.unique(dimensions[good], axis=0, return_inverse=True)
    of_size = np.array([encoder.patches(height, width) for height, width in sizes.tolist()], np.int64)
    patches[good] = of_size[which.reshape(-1)] if len(sizes) else 0
    return patches
