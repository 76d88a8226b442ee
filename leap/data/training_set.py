"""A training file as a data set: checked whole before the first step, decoded row by row while training."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from leap.data.chat import IGNORED, ChatFormat
from leap.data.pictures import PictureEncoder, open_picture, picture_dimensions, resolve_picture
from leap.errors import LeapError
from leap.records.files import read_jsonl
from leap.records.training import TrainingRow


@dataclass(frozen=True)
class Sample:
    """One row ready to be batched: ids and labels [tokens], patches of its pictures and their grids."""

    input_ids: list[int]
    labels: list[int]
    pixel_values: Any  # None without pictures
    image_grid_thw: Any
    index: int  # in the data set; TrainingSet.place says where it stands


@dataclass(frozen=True)
class CheckedRow:
    """A row whose pictures are there and whose length is known."""

    line: int
    row: TrainingRow
    pictures: tuple[Path, ...]
    tokens: int
    label_tokens: int


@dataclass(frozen=True)
class CheckedFile:
    """The rows of a file that can be trained on, and the line numbers of those that are too long."""

    rows: list[CheckedRow]
    too_long: list[int]
    fingerprint: str  # sha256 of the file


def check_training_file(
    path: Path,
    image_roots: Sequence[Path],
    chat: ChatFormat,
    encoder: PictureEncoder,
    max_length: int,
    max_rows: int | None = None,
    watch: Callable[[Iterable[tuple[int, TrainingRow]]], Iterable[tuple[int, TrainingRow]]] = iter,
) -> CheckedFile:
    """Read every row, find its pictures, measure its length; rows over `max_length` tokens are set apart, never cut.

    `watch` wraps the rows to show progress. Raises LeapError with file and line for the first row that is broken.
    """
    rows: list[CheckedRow] = []
    too_long: list[int] = []
    for line, row in watch(read_jsonl(path, TrainingRow)):
        if max_rows is not None and len(rows) >= max_rows:
            break
        checked = _check_row(f"{path}:{line}", line, row, image_roots, chat, encoder)
        if checked.tokens > max_length:
            too_long.append(line)
        else:
            rows.append(checked)
    if not rows:
        raise LeapError(f"{path}: all {len(too_long)} rows are longer than model_max_length={max_length}; raise it")
    return CheckedFile(rows, too_long, hashlib.sha256(path.read_bytes()).hexdigest())


def _check_row(
    place: str, line: int, row: TrainingRow, image_roots: Sequence[Path], chat: ChatFormat, encoder: PictureEncoder
) -> CheckedRow:
    try:
        pictures = tuple(resolve_picture(image, image_roots) for image in row.images())
        tokens = [encoder.tokens(*picture_dimensions(picture)) for picture in pictures]
        encoded = chat.encode(row.messages, row.target.steps, tokens)
    except LeapError as error:
        raise LeapError(f"{place}: {error}") from error
    labels = sum(label != IGNORED for label in encoded.labels)
    return CheckedRow(line, row, pictures, len(encoded.input_ids), labels)


class TrainingSet(Dataset):
    """Rows as samples, decoded when they are asked for (in the data loader's workers)."""

    def __init__(self, rows: Sequence[CheckedRow], chat: ChatFormat, encoder: PictureEncoder, name: str) -> None:
        self._rows, self._chat, self._encoder, self._name = rows, chat, encoder, name

    def __len__(self) -> int:
        return len(self._rows)

    def place(self, index: int) -> str:
        """The file and line of a row."""
        return f"{self._name}:{self._rows[index].line}"

    def __getitem__(self, index: int) -> Sample:
        checked = self._rows[index]
        pixels = grid = None
        counts: list[int] = []
        if checked.pictures:
            try:
                pixels, grid = self._encoder.encode([open_picture(path) for path in checked.pictures])
            except LeapError as error:
                raise LeapError(f"{self.place(index)}: {error}") from error
            counts = self._encoder.tokens_of(grid)
        encoded = self._chat.encode(checked.row.messages, checked.row.target.steps, counts)
        return Sample(encoded.input_ids, encoded.labels, pixels, grid, index)
