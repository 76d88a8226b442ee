"""Arrow files that are caches: whole and unchanged, or made again.

Arrow itself has no checksum. A file that was cut at a batch's end is read as a shorter one, and a flipped bit in an
offset ends the process; so each file ends with a digest of all before it, which readers of Arrow pass over.
"""

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from leap.records.files import is_file, replacing

_DIGEST = 32  # bytes of a sha256
_PIECE = 1 << 20  # bytes read at a time


@contextmanager
def writing_arrow(path: Path, schema: pa.Schema) -> Iterator[Any]:
    """A writer of record batches and tables into a file that takes its place when it is whole."""
    with replacing(path) as temporary:
        with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            yield writer
        digest = _digest(temporary, temporary.stat().st_size)
        with temporary.open("ab") as end:
            end.write(digest)


def is_whole(path: Path) -> bool:
    """Whether a file is there as it was written."""
    if not is_file(path):
        return False
    size = path.stat().st_size - _DIGEST
    with path.open("rb") as file:
        file.seek(max(0, size))
        return size >= 0 and file.read() == _digest(path, size)


def report_damage(path: Path) -> None:
    """A line where there is a file all the same."""
    if is_file(path):
        print(f"{path}: damaged, or of another version of LEAP; it is made again", file=sys.stderr, flush=True)


def read_arrow(path: Path, schema: pa.Schema) -> Any:
    """The file's table; an empty one where there is no such file, or no whole one of this schema."""
    if is_whole(path):
        with pa.OSFile(str(path)) as file:
            table = pa.ipc.open_stream(file).read_all()
        if table.schema == schema:
            return table
    report_damage(path)
    return schema.empty_table()


def _digest(path: Path, size: int) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (piece := file.read(min(_PIECE, size))):
            digest.update(piece)
            size -= len(piece)
    return digest.digest()
