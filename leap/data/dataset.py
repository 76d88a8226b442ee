"""A checked training file as a data set: each sample is read and its images are decoded when it is asked for."""

from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import ConcatDataset, Dataset

from leap.data.chat_encoding import ChatFormat
from leap.data.image import ImageEncoder, load_image, resolve_image
from leap.errors import LeapError
from leap.records.training import TrainingSample


@dataclass(frozen=True)
class Sample:
    """One sample ready to be batched: ids and labels [tokens], its images as bytes and their grids."""

    input_ids: list[int]
    labels: list[int]
    pixel_values: Any  # uint8 [patches, channels, pixels], for ImageEncoder.scale; None without images
    image_grid_thw: Any  # int64 [images, 3]; None without images


class LocatedSamples(Protocol):
    """What is known of the samples of a file that was checked: see CheckedFile of leap.preparation.check."""

    @property
    def path(self) -> Path: ...
    @property
    def image_roots(self) -> tuple[Path, ...]: ...
    @property
    def table(self) -> Any: ...  # datasets.Dataset of every line of the file, with the column "sample"
    @property
    def places(self) -> Any: ...  # [samples] where each is in `table`
    @property
    def lines(self) -> Any: ...  # and in the file, from 1
    @property
    def tokens(self) -> Any: ...


class TrainingSet(Dataset):
    """Samples as tensors, made in the data loader's workers. Pickled, it holds the samples' places not their text."""

    def __init__(self, checked: LocatedSamples, chat: ChatFormat, encoder: ImageEncoder) -> None:
        self._samples = checked.table.select_columns(["sample"])
        self._path, self._roots = checked.path, checked.image_roots
        self._places, self._lines, self._tokens = checked.places, checked.lines, checked.tokens
        self._chat, self._encoder = chat, encoder

    def __len__(self) -> int:
        return len(self._places)

    def place(self, index: int) -> str:
        """Where a sample stands, as file:line."""
        return f"{self._path}:{self._lines[index]}"

    def __getitem__(self, index: int) -> Sample:
        """Raises LeapError naming file and line where an image is no longer what it was when it was checked."""
        sample = TrainingSample.model_validate_json(self._samples[int(self._places[index])]["sample"])
        pixels = grid = None
        counts: list[int] = []
        if images := sample.images():
            try:
                pixels, grid = self._encoder.encode_bytes(
                    [load_image(resolve_image(image, self._roots)) for image in images]
                )
            except LeapError as error:
                raise LeapError(f"{self.place(index)}: {error}") from error
            counts = self._encoder.tokens_of(grid)
        encoded = self._chat.encode(sample.messages, sample.target.steps, counts)
        if len(encoded.input_ids) != self._tokens[index]:
            raise LeapError(
                f"{self.place(index)}: {len(encoded.input_ids)} tokens, but {self._tokens[index]} when it was checked: "
                "an image has changed since; start again"
            )
        return Sample(encoded.input_ids, encoded.labels, pixels, grid)


class MixedSet(ConcatDataset):
    """Several files one after the other."""

    def place(self, index: int) -> str:
        """Where a sample stands, as file:line."""
        which = bisect_right(self.cumulative_sizes, index)
        before = self.cumulative_sizes[which - 1] if which else 0
        found = self.datasets[which]
        assert isinstance(found, TrainingSet)
        return found.place(index - before)
