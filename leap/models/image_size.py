"""The image size that a model was trained with: recorded beside its weights, and taken by whatever asks the model."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from leap.cli import MOST_IMAGE_TOKENS, Parser, image_tokens
from leap.data.image import ImageEncoder, ImageSize
from leap.errors import LeapError, UsageError
from leap.models.checkpoints import ADAPTER, MARKER, adapter_base
from leap.records.files import is_file
from leap.records.json_files import first_problem, read_object

# Files with a record, and which part of them has it: the recipe, which is all that the checkpoints of older LEAPs have,
# and an image processor's settings, as transformers 5 and releases before it save them.
_RECORDS = {MARKER: "recipe", "processor_config.json": "image_processor", "preprocessor_config.json": None}


class _Record(BaseModel):
    """The recipe's keys, which are those of the record as well."""

    image_tokens_min: Annotated[int, Field(ge=1, le=MOST_IMAGE_TOKENS)]
    image_tokens_max: Annotated[int, Field(ge=1, le=MOST_IMAGE_TOKENS)]


def record_size(processor: Any, size: ImageSize) -> None:
    """Write the size into a processor, whose saved settings then give it to LEAP and to any other program.

    The bounds in pixels alone would not do: every base model has some, and was not trained at them by us.
    """
    image_processor = processor.image_processor
    image_processor.size = type(image_processor.size)(**ImageEncoder(processor, size).size)
    image_processor.image_tokens_min, image_processor.image_tokens_max = size.min_tokens, size.max_tokens


def recorded_size(folder: Path, root: Path, base: Path | None = None) -> ImageSize | None:
    """The size that the model in `folder` was trained with; None where nothing says it, as for a base model.

    An adapter that says nothing has its base's (`base`, or the one that it names, from `root`). Raises LeapError for a
    record that cannot be read.
    """
    for name, part in _RECORDS.items():
        if is_file(folder / name):
            content = read_object(folder / name)
            if size := _read(content.get(part) if part else content, folder / name):
                return size
    below = adapter_base(folder, root, base) if is_file(folder / ADAPTER) else None
    return recorded_size(below, root) if below else None


def _read(values: Any, file: Path) -> ImageSize | None:
    if not isinstance(values, dict) or not values.keys() & _Record.model_fields.keys():
        return None
    try:
        record = _Record.model_validate(values)
        return ImageSize(record.image_tokens_min, record.image_tokens_max)
    except ValidationError as error:
        raise LeapError(f"{file}: {first_problem(error)}; restore the file, or remove both image_tokens_*") from error
    except LeapError as error:
        raise LeapError(f"{file}: {error}") from error


@dataclass(frozen=True)
class ChosenSize:
    """The one image size of a command, and who chose it."""

    tokens: ImageSize
    source: str

    def __str__(self) -> str:
        """For the start of a command."""
        return f"image size: {self.tokens} ({self.source})"


def add_size_arguments(parser: argparse.ArgumentParser, default: ImageSize) -> None:
    """--image_tokens_min and --image_tokens_max, None where they are not given."""
    for bound, tokens in (("min", default.min_tokens), ("max", default.max_tokens)):
        text = f"image size, in 32x32 pixels (default: as the checkpoints were trained, or else {tokens})"
        parser.add_argument(f"--image_tokens_{bound}", type=image_tokens, help=text)


def read_size_flags(words: Sequence[str]) -> argparse.Namespace:
    """Those of them that stand among the flags of a job."""
    parser = Parser(None, add_help=False)
    add_size_arguments(parser, ImageSize(1, 1))
    return parser.parse_known_args(words)[0]


def size_flags(size: ImageSize) -> list[str]:
    """The size as those arguments."""
    return ["--image_tokens_min", str(size.min_tokens), "--image_tokens_max", str(size.max_tokens)]


def choose_size(
    given: argparse.Namespace,
    default: ImageSize,
    models: Sequence[Path] = (),
    baseline: Path | None = None,
    root: Path = Path(),
    base: Path | None = None,
    otherwise: str = "default",
) -> ChosenSize:
    """One size for all models of a command: as `given`, or that of the checkpoints, or the default.

    The baseline, and whatever has no recorded size, are asked as the checkpoints are. Raises UsageError where
    checkpoints were trained at different sizes; `root` and `base` are for adapters, see `recorded_size`. `otherwise`
    says who chose the default.
    """
    low, high = given.image_tokens_min, given.image_tokens_max
    source = "given"
    if not (low and high):  # else it does not matter how they were trained
        sizes = {folder: size for folder in models if (size := recorded_size(folder, root, base))}
        found, source = _agreed(sizes, baseline) or (default, otherwise)
        source = f"one bound given, the other {source}" if low or high else source
        low, high = low or found.min_tokens, high or found.max_tokens
    if low > high:
        raise UsageError(f"image tokens {low} to {high} ({source}): --image_tokens_min must not be over the maximum")
    return ChosenSize(ImageSize(low, high), source)


def _agreed(sizes: dict[Path, ImageSize], baseline: Path | None) -> tuple[ImageSize, str] | None:
    """The checkpoints' size and whose it is; the baseline's where it stands alone."""
    trained = {folder: size for folder, size in sizes.items() if not baseline or not _same(folder, baseline)}
    trained = trained or sizes
    if not trained:
        return None
    first, *others = trained
    for other in others:
        if trained[other] != trained[first]:
            raise UsageError(
                f"{first} was trained with images of {trained[first]}, {other} of {trained[other]}, and all models of "
                "one command are asked at one size: give --image_tokens_min and --image_tokens_max"
            )
    return trained[first], f"as {first} was trained"


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()
