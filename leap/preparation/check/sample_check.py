"""The samples of a training file, each looked at once: is it one, how long is it, what does it repeat.

The outcome is an Arrow file that later starts map into memory; images are checked apart, in `image_facts`.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from leap.data.arrow_files import writing_arrow
from leap.data.chat_encoding import ChatFormat, Lengths, refuse_lost_images
from leap.data.formats import RawSample, SampleError, SampleReader
from leap.data.sample_datasets import SampleSource
from leap.errors import LeapError
from leap.records.training import TrainingSample
from leap.workers import map_in_order

INVALID, EMPTY = "invalid sample", "empty answer"
Line = tuple[int, RawSample]  # its number from 1, what it holds
Read = tuple[TrainingSample, str]  # and itself as a line of LEAP's own form
_LINES = 256  # that are checked together
_SCHEMA = pa.schema(
    [
        ("line", pa.int32()),
        ("sample", pa.string()),  # LEAP's own form in JSON, as the file has it; empty for an unusable sample
        ("text_tokens", pa.int32()),  # prompt and answer without images
        ("label_tokens", pa.int32()),
        ("images", pa.list_(pa.string())),  # paths as the sample gives them
        ("kind", pa.string()),  # of the problem, if there is one
        ("reason", pa.string()),
        ("repeats", pa.int32()),  # the line of the first sample with the same messages and answer, or 0
        ("said", pa.binary()),  # a digest of messages and answer, without the names of images
    ]
)


class CheckedLine(NamedTuple):
    """What a line holds; see the columns of the Arrow file."""

    line: int
    sample: str = ""
    text_tokens: int = 0
    label_tokens: int = 0
    images: tuple[str, ...] = ()
    kind: str | None = None
    reason: str | None = None
    said: bytes = b""


def check_samples(
    file: SampleSource, reader: SampleReader, chat: ChatFormat, processes: int, result: Path
) -> Iterator[int]:
    """Write the Arrow file `result`, yielding the line numbers as they are done. Raises LeapError for an empty file."""
    first: dict[tuple[bytes, tuple[str, ...]], int] = {}
    batches = map_in_order(partial(check_lines, reader, chat), _batches(file), processes)
    with writing_arrow(result, _SCHEMA) as writer:
        for checked in batches:
            samples = [sample._asdict() for sample in checked]
            for sample in samples:
                same = sample["said"], sample["images"]
                earlier = first.setdefault(same, sample["line"]) if sample["said"] else sample["line"]
                sample["repeats"] = 0 if earlier == sample["line"] else earlier
            writer.write_batch(pa.RecordBatch.from_pylist(samples, _SCHEMA))
            yield from (sample["line"] for sample in samples)


def _batches(file: SampleSource) -> Iterator[list[Line]]:
    lines = file.samples()
    while batch := list(islice(lines, _LINES)):
        yield batch


def check_lines(reader: SampleReader, chat: ChatFormat, lines: Sequence[Line]) -> list[CheckedLine]:
    """Each line read as a sample, and tokenized."""
    read = [(number, _read(reader, number, line)) for number, line in lines]
    samples = [(number, found[0]) for number, found in read if not isinstance(found, CheckedLine)]
    lengths = iter(_lengths(chat, samples))
    return [
        found if isinstance(found, CheckedLine) else _measured(number, *found, next(lengths)) for number, found in read
    ]


def _lengths(chat: ChatFormat, samples: Sequence[tuple[int, TrainingSample]]) -> list[Lengths]:
    """Raises LeapError with the line of the first sample that the template refuses: some know no system message."""
    try:
        return chat.lengths([(sample.messages, sample.target.steps) for _, sample in samples])
    except LeapError:
        for number, sample in samples:
            try:
                chat.lengths([(sample.messages, sample.target.steps)])
            except LeapError as error:
                raise LeapError(f"line {number}: {error}") from error
        raise


def _read(reader: SampleReader, number: int, line: RawSample) -> Read | CheckedLine:
    try:
        return reader.read(line)
    except SampleError as error:
        return CheckedLine(number, kind=EMPTY if error.empty else INVALID, reason=f"{error}; mend or remove this line")


def _measured(number: int, sample: TrainingSample, line: str, lengths: Lengths) -> CheckedLine:
    images = tuple(sample.images())
    try:
        refuse_lost_images(lengths.images, len(images))
    except LeapError as error:
        return CheckedLine(number, kind=INVALID, reason=str(error))
    said = [[message.role, *(getattr(part, "text", None) for part in message.parts())] for message in sample.messages]
    digest = hashlib.blake2b(json.dumps([said, sample.target.steps]).encode(), digest_size=16).digest()
    text_tokens = lengths.prompt - lengths.images + lengths.answer
    return CheckedLine(number, line, text_tokens, lengths.answer + lengths.learned, images, said=digest)
