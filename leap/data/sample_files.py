"""Files of training samples, whatever holds them: lines of JSON, a JSON array, or a Parquet table."""

import codecs
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from leap.data.formats import RawSample
from leap.errors import LeapError
from leap.records.files import is_file
from leap.records.json_files import RESTORE, read_lines
from leap.records.remote import open_file, present

_PIECE = 1 << 20  # characters of an array that are read at a time
_ROWS = 256  # of a table that are read at a time: a row may hold images
_BETWEEN = re.compile(r"[\s,]*")  # elements of an array


@dataclass(frozen=True)
class SampleFile:
    """A file of samples. It is read from its start at each call, so that it need not fit into memory."""

    path: Path

    def samples(self) -> Iterator[tuple[int, RawSample]]:
        """Each sample with its line, in an array or table its number, from 1. Raises LeapError where there is none."""
        kind = self._kind()
        if kind == "lines":
            return read_lines(present(self.path))
        return self._some(table_rows(self.path) if kind == "table" else _elements(self.path))

    def count(self) -> int:
        """How many samples there are."""
        return sum(1 for _ in self.samples())

    def fingerprint(self) -> str:
        """sha256 of the content."""
        with open_file(self.path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def folder(self) -> Path:
        """The file's own, where relative paths of images may start."""
        return self.path.parent

    @property
    def is_lines(self) -> bool:
        """Whether each line is a sample of its own."""
        return self._kind() == "lines"

    def _kind(self) -> str:
        """By how it begins: names are often wrong about it."""
        if not is_file(present(self.path)):
            raise LeapError(f"{self.path}: there is no such file")
        with self.path.open("rb") as file:
            start = file.read(4096)
        if start.startswith(b"PAR1"):
            return "table"
        return "array" if start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[") else "lines"

    def _some(self, samples: Iterator[tuple[int, RawSample]]) -> Iterator[tuple[int, RawSample]]:
        count = 0
        for count, sample in enumerate(samples, start=1):  # noqa: B007
            yield sample
        if not count:
            raise LeapError(f"{self.path}: there is no sample in it")


def table_rows(
    path: Path, columns: list[str] | None = None, chosen: Callable[[Any], Any] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a Parquet table, each with its number from 1: of `columns` those that it has, or all; of the rows
    those that `chosen` says of a batch of them, counted without the others, or all.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(present(path)) as table:
            for batch in table.iter_batches(_ROWS, columns=columns):
                for record in (batch.filter(chosen(batch)) if chosen else batch).to_pylist():
                    row += 1
                    yield row, record
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # pyarrow's words for damage are of all three
        reason = " ".join(str(error).split())
        raise LeapError(f"{path}: the Parquet table cannot be read after row {row} ({reason}); restore it") from error


def _elements(path: Path) -> Iterator[tuple[int, bytes]]:
    """Elements of a JSON array as lines of JSON, each with its number from 1; a piece of the file is in memory.

    json.load would need some gigabytes for the larger of these files. Numbers, since a whole array may be one line.
    """
    decoder, number, line = json.JSONDecoder(), 0, 1
    with present(path).open(encoding="utf-8-sig", newline="") as file:
        text = _piece(file, path)
        at = text.index("[") + 1
        while True:
            start = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing, too
            if text[start : start + 1] == "]":
                return
            try:
                _, end = decoder.raw_decode(text, start)
            except RecursionError:
                raise LeapError(f"{path}: sample {number + 1} is nested too deep; {RESTORE}") from None
            except json.JSONDecodeError as error:
                if more := _piece(file, path):  # the piece ended within the element
                    line += text.count("\n", 0, at)
                    text, at = text[at:] + more, 0
                    continue
                place = line + text.count("\n", 0, error.pos)
                raise LeapError(f"{path}:{place}: not valid JSON ({error.msg}); {RESTORE}") from error
            number += 1
            yield number, text[start:end].encode()
            at = end


def _piece(file: TextIO, path: Path) -> str:
    try:
        return file.read(_PIECE)
    except UnicodeDecodeError as error:
        raise LeapError(f"{path}: not UTF-8 text; save it as UTF-8") from error
