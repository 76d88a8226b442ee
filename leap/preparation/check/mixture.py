"""Several checked files as one training set: each as often as its weight says."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from leap.errors import LeapError
from leap.preparation.check.checked_dataset import CheckedFile

_PER_SAMPLE = ("places", "lines", "tokens", "label_tokens", "patches", "largest_image", "images", "repeats")


class Mixture:
    """Checked files that were weighted, one after the other; arrays are int32 [samples], as those of CheckedFile."""

    def __init__(self, files: Sequence[CheckedFile], weights: Sequence[float], seed: int) -> None:
        """A weight of 2 takes every sample twice an epoch, 0.3 the same 30 % of them in every epoch, by `seed`."""
        self.files = [_weighted(file, weight, seed) for file, weight in zip(files, weights, strict=True)]
        said = [[file.fingerprint, weight] for file, weight in zip(files, weights, strict=True)]
        self.fingerprint = hashlib.sha256(json.dumps(said).encode()).hexdigest()
        self.path = Path(" + ".join(file.path.name for file in files))
        self.tokens, self.label_tokens, self.patches, self.largest_image, self.images = (
            np.concatenate([getattr(file, name) for file in self.files]) for name in _PER_SAMPLE[2:7]
        )
        self.too_long = [line for file in files for line in file.too_long]
        self.duplicates = sum(file.duplicates for file in files)
        self.report = files[0].report

    def __len__(self) -> int:
        return len(self.tokens)


def _weighted(file: CheckedFile, weight: float, seed: int) -> CheckedFile:
    whole, rest = divmod(weight, 1)
    share = np.sort(np.random.default_rng(seed).permutation(len(file))[: round(rest * len(file))])
    chosen = np.concatenate([np.tile(np.arange(len(file)), int(whole)), share]).astype(np.int64)
    if not len(chosen):
        raise LeapError(f"{file.path}: a weight of {weight} takes none of its {len(file)} samples; raise it")
    assert {*_PER_SAMPLE} <= {field.name for field in fields(file)}
    return replace(file, **{name: getattr(file, name)[chosen] for name in _PER_SAMPLE})


CheckedSamples = CheckedFile | Mixture
