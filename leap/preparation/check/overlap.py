"""How many samples of a validation file are training samples too."""

from collections.abc import Collection, Iterator
from functools import cache, partial

from leap.data.image import resolve_image
from leap.errors import LeapError
from leap.preparation.check.checked_dataset import CheckedFile
from leap.preparation.check.mixture import CheckedSamples

_Sample = tuple[bytes, tuple[str, ...]]  # a digest of what is said, and the image files


def count_shared(train: CheckedSamples, validation: CheckedFile) -> int:
    """Validation samples that say what a training sample says, of the same image files; however their lines write it.

    Raises LeapError where the two files are the same, or hold the same samples: the loss would be the training's.
    """
    if validation.fingerprint in {train.fingerprint, *(file.fingerprint for file in train.files)}:
        raise _no_measure(validation, f"it is the training file, {train.path}")
    said = set(_digests(train)) & set(_digests(validation))
    seen, asked = set(_samples(train, said)), list(_samples(validation, said))
    shared = sum(sample in seen for sample in asked)
    if shared == len(validation) and seen == set(asked) and len(set(_digests(train))) == len(said):
        raise _no_measure(validation, f"it holds the samples of the training file, {train.path}")
    return shared


def _no_measure(validation: CheckedFile, reason: str) -> LeapError:
    return LeapError(
        f"val_file: {validation.path}: {reason}, so that its loss would say nothing of unseen samples; "
        "give validation samples of their own, or leave val_file out"
    )


def _digests(samples: CheckedSamples) -> list[bytes]:
    return [said for file in samples.files for said in file.table.data.column("said").take(file.places).to_pylist()]


def _samples(samples: CheckedSamples, among: Collection[bytes]) -> Iterator[_Sample]:
    """Those whose words are `among` these: images are looked up for no other."""
    for one in samples.files:
        find = cache(partial(resolve_image, roots=one.image_roots))
        images = one.table.data.column("images").take(one.places).to_pylist()
        for said, names in zip(_digests(one), images, strict=True):
            if said in among:
                yield said, tuple(str(find(name)) for name in names)
