"""Reading a tar.gz file from the internet front to back: nothing is extracted, memory is bounded, nothing is trusted.

Members are files and folders with plain relative names. Links, devices, absolute names and `..` refuse the archive, and
so do a gzip checksum that does not hold, an end that is missing, bytes after it, and sizes that only a bomb has.
"""

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from isal import isal_zlib

from leap.errors import LeapError

_GZIP = 31  # wbits: a gzip header and trailer around the data, both of which isal checks
_CHUNK = 1 << 18  # bytes that are read, and at most come out, at once
_BLOCK = tarfile.BLOCKSIZE
_MAX_EXTENSION = 1 << 16  # bytes of a header that holds a long name
_MAX_MEMBERS = 20_000_000
_MAX_RATIO, _RATIO_FROM = 100, 1 << 26  # decompressed : compressed, of archives with more than so many bytes inside
_LONG_NAME, _LONG_LINK = b"L", b"K"  # GNU's header types
DOWNLOAD_AGAIN = "download it again (python scripts/download/download_leap_data.py)"


class ArchiveError(LeapError):
    """An archive that is broken, hostile or of another layout; nothing that was read from it is to be kept."""


class GzipStream:
    """The bytes in a gzip file, in order. `sha256` is of the file itself, once `finish` has returned.

    `on_read` is told of every number of bytes read from the file; what it raises ends the reading. A thread reads and
    hashes ahead of the decompression. Raises ArchiveError for a file that is no whole gzip file, and for a bomb.
    """

    def __init__(self, path: Path, on_read: Callable[[int], None] = lambda _: None) -> None:
        self.path, self.position = path, 0  # the position counts decompressed bytes
        self._on_read, self._hash, self._file_bytes = on_read, hashlib.sha256(), 0
        self._inflater = isal_zlib.decompressobj(_GZIP)
        self._input, self._output, self._at = b"", b"", 0  # what is not decompressed yet; what is, read up to `_at`

    def __enter__(self) -> "GzipStream":
        self._file = self.path.open("rb")
        self._ahead = ThreadPoolExecutor(1)
        self._next: Future[bytes] = self._ahead.submit(self._read_file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ahead.shutdown()
        self._file.close()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer where the stream ends."""
        parts = []
        while size > 0 and self._more():
            parts.append(self._output[self._at : self._at + size])
            self._advance(len(parts[-1]))
            size -= len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def skip(self, size: int) -> None:
        """Pass over `size` bytes; ArchiveError where the stream ends before."""
        while size > 0:
            if not self._more():
                raise self.broken("a file in it is cut short")
            step = min(size, len(self._output) - self._at)
            self._advance(step)
            size -= step

    def finish(self) -> None:
        """Read to the file's end, so that checksum and hash are known; only zeros may be left."""
        while self._more():
            if self._output.count(0, self._at) < len(self._output) - self._at:
                raise self.broken("there is more in it after the archive's end")
            self._advance(len(self._output) - self._at)

    def broken(self, what: str) -> ArchiveError:
        """An error that names the file and the place."""
        return ArchiveError(
            f"{self.path}: {what} (at byte {self.position:,} of the decompressed data); {DOWNLOAD_AGAIN}"
        )

    def _advance(self, size: int) -> None:
        self._at += size
        self.position += size

    def _read_file(self) -> bytes:
        data = self._file.read(_CHUNK)
        self._hash.update(data)
        return data

    def _file_chunk(self) -> bytes:
        data = self._next.result()
        if data:
            self._next = self._ahead.submit(self._read_file)
            self._file_bytes += len(data)
            self._on_read(len(data))
        return data

    def _more(self) -> bool:
        """Whether there is a byte to read; if need be, some are decompressed."""
        while self._at == len(self._output):
            if self._inflater.eof:  # gzip files may follow one another in one
                self._input = self._inflater.unused_data or self._file_chunk()
                if not self._input:
                    return False
                self._inflater = isal_zlib.decompressobj(_GZIP)
            self._decompress()
        return True

    def _decompress(self) -> None:
        data = self._input or self._file_chunk()
        try:
            self._output, self._at = self._inflater.decompress(data, _CHUNK), 0
        except isal_zlib.error as error:  # type: ignore[misc]  # its stub names an instance
            raise self.broken(f"not valid gzip data ({error})") from error
        self._input = self._inflater.unconsumed_tail
        if not (data or self._output or self._inflater.eof):
            raise self.broken(f"the file ends too early, after {self._file_bytes:,} bytes")
        inside = self.position + len(self._output)
        if inside > max(_RATIO_FROM, _MAX_RATIO * self._file_bytes):
            raise self.broken(f"more than {_MAX_RATIO} times as large inside as outside, like a decompression bomb")


@dataclass(frozen=True)
class Member:
    """A regular file in an archive: its name as stored there and its size in bytes."""

    name: str
    size: int


def read_members(stream: GzipStream) -> Iterator[Member]:
    """Every regular file of a tar archive. While one is at hand, `stream.read(member.size)` is its content.

    When this ends, the whole stream has been read. Raises ArchiveError as the module says.
    """
    extended: dict[str, str] = {}  # what an extension header says of the member after it
    for _ in range(_MAX_MEMBERS):
        block = stream.read(_BLOCK)
        if not block.strip(b"\0"):
            if not block:
                raise stream.broken("the archive has no end mark: it was cut short when it was made")
            stream.finish()
            return
        header = _parse_header(stream, block)
        if header.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, _LONG_NAME, _LONG_LINK):
            extended |= _read_extension(stream, header)
            continue
        name, size = extended.get("path", header.name), _number(stream, extended.get("size"), header.size)
        extended = {}
        _check(stream, header, name)
        if header.type == tarfile.DIRTYPE:
            continue
        end = stream.position + size
        yield Member(name, size)
        stream.skip(end - stream.position)
        stream.skip(-size % _BLOCK)
    raise stream.broken(f"more than {_MAX_MEMBERS:,} members")


def _parse_header(stream: GzipStream, block: bytes) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise stream.broken(f"not a valid tar header ({error})") from error
    if header.size < 0:
        raise stream.broken(f"a member of {header.size} bytes")
    return header


def _read_extension(stream: GzipStream, header: tarfile.TarInfo) -> dict[str, str]:
    """Name and size of the member that follows, as far as an extension header gives them."""
    if header.size > _MAX_EXTENSION:
        raise stream.broken(f"an extension header of {header.size:,} bytes; {_MAX_EXTENSION:,} are allowed")
    content = stream.read(header.size)
    stream.skip(-header.size % _BLOCK)
    if header.type == _LONG_LINK:
        return {}
    if header.type == _LONG_NAME:
        return {"path": content.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    found = _pax_records(stream, content)
    if header.type == tarfile.XGLTYPE:
        if found.keys() & {"path", "size"}:
            raise stream.broken("one name or size for all members")
        return {}
    return found


def _pax_records(stream: GzipStream, content: bytes) -> dict[str, str]:
    """The records `<length> <key>=<value>\\n` of a pax header (POSIX.1-2001)."""
    records = {}
    while content:
        length = content.partition(b" ")[0]
        end = int(length) if length.isdigit() and len(length) < 9 else 0
        key, equals, value = content[len(length) + 1 : end].partition(b"=")
        if not equals or not value.endswith(b"\n") or len(content) < end:
            raise stream.broken("not a valid pax header")
        records[key.decode("utf-8", "surrogateescape")] = value[:-1].decode("utf-8", "surrogateescape")
        content = content[end:]
    if any(key.startswith("GNU.sparse") for key in records):
        raise stream.broken("a sparse file")
    return {key: value for key, value in records.items() if key in ("path", "size")}


def _number(stream: GzipStream, text: str | None, otherwise: int) -> int:
    if text is None:
        return otherwise
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise stream.broken(f"a member of {text!r} bytes")
    return int(text)


def _check(stream: GzipStream, header: tarfile.TarInfo, name: str) -> None:
    """Only files and folders with plain relative names may be in the archive."""
    kinds = {
        tarfile.LNKTYPE: "a hard link",
        tarfile.SYMTYPE: "a symbolic link",
        tarfile.CHRTYPE: "a device",
        tarfile.BLKTYPE: "a device",
        tarfile.FIFOTYPE: "a pipe",
        tarfile.GNUTYPE_SPARSE: "a sparse file",
    }
    if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.DIRTYPE):
        what = kinds.get(header.type, f"a member of type {header.type!r}")
        raise stream.broken(f"{name!r} is {what}; only files and folders may be in the archive")
    if name.startswith("/") or "\0" in name or ".." in name.split("/"):
        raise stream.broken(f"{name!r} is no plain relative name")
