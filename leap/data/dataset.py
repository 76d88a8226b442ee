"""A checked training file as a data set: each row is read and its pictures are decoded when it is asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import Dataset

from leap.data.chat_encoding import ChatFormat
from leap.data.image import PictureEncoder, open_picture, resolve_picture
from leap.errors import LeapError
from leap.records.training import TrainingRow


@dataclass(frozen=True)
class Sample:
    """One row ready to be batched: ids and labels [tokens], its pictures as bytes and their grids."""

    input_ids: list[int]
    labels: list[int]
    pixel_values: Any  # uint8 [patches, channels, pixels], for PictureEncoder.scale; None without pictures
    image_grid_thw: Any  # int64 [pictures, 3]; None without pictures


class LocatedSamples(Protocol):
    """What is known of the samples of a file that was checked: see CheckedFile of leap.preparation.check."""

    @property
    def path(self) -> Path: ...
    @property
    def image_roots(self) -> tuple[Path, ...]: ...
    @property
    def table(self) -> Any: ...  # datasets.Dataset of every line of the file, with the column "row"
    @property
    def places(self) -> Any: ...  # [samples] where each is in `table`
    @property
    def lines(self) -> Any: ...  # and in the file, from 1
    @property
    def tokens(self) -> Any: ...


class TrainingSet(Dataset):
    """Rows as samples, made in the data loader's workers. Pickled, it holds the rows' places and not the rows."""

    def __init__(self, checked: LocatedSamples, chat: ChatFormat, encoder: PictureEncoder) -> None:
        self._rows = checked.table.select_columns(["row"])
        self._path, self._roots = checked.path, checked.image_roots
        self._places, self._lines, self._tokens = checked.places, checked.lines, checked.tokens
        self._chat, self._encoder = chat, encoder

    def __len__(self) -> int:
        return len(self._places)

    def place(self, index: int) -> str:
        """Where a row stands, as file:line."""
        return f"{self._path}:{self._lines[index]}"

    def __getitem__(self, index: int) -> Sample:
        """Raises LeapError naming file and line where a picture is no longer what it was when it was checked."""
        row = TrainingRow.model_validate_json(self._rows[int(self._places[index])]["row"])
        pixels = grid = None
        counts: list[int] = []
        if pictures := row.images():
            try:
                pixels, grid = self._encoder.encode_bytes(
                    [open_picture(resolve_picture(picture, self._roots)) for picture in pictures]
                )
            except LeapError as error:
                raise LeapError(f"{self.place(index)}: {error}") from error
            counts = self._encoder.tokens_of(grid)
        encoded = self._chat.encode(row.messages, row.target.steps, counts)
        if len(encoded.input_ids) != self._tokens[index]:
            raise LeapError(
                f"{self.place(index)}: {len(encoded.input_ids)} tokens, but {self._tokens[index]} when it was checked: "
                "a picture has changed since; start again"
            )
        return Sample(encoded.input_ids, encoded.labels, pixels, grid)
