"""Reading a tar.gz file from the internet front to back: nothing is extracted, memory is bounded, nothing is trusted.

Members are files and folders with plain relative names. Links, devices, absolute names and `..` refuse the archive, and
so do a gzip checksum that does not hold, an end that is missing, bytes after it, and sizes that only a bomb has.
"""

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from gzip import BadGzipFile
from pathlib import Path
from typing import Any

from isal import igzip_threaded, isal_zlib

from leap.errors import LeapError

_CHUNK = 1 << 18  # bytes that are decompressed at once
_MAX_HEADERS = 1 << 16  # bytes of headers before a member: a long name's, say
_MAX_MEMBERS = 20_000_000
_MAX_RATIO, _RATIO_FROM = 100, 1 << 26  # decompressed : compressed, of archives with more than so many bytes inside
DOWNLOAD_AGAIN = "download it again (python scripts/download/download_leap_data.py)"


class ArchiveError(LeapError):
    """An archive that is broken, hostile or of another layout; nothing that was read from it is to be kept."""


class _HashedFile(io.RawIOBase):
    """A file that counts and hashes what is read of it."""

    def __init__(self, path: Path, on_read: Callable[[int], None]) -> None:
        self._file, self._on_read = path.open("rb", buffering=0), on_read
        self.hash, self.count = hashlib.sha256(), 0

    def readinto(self, buffer: Any) -> int:
        size = self._file.readinto(buffer)
        self.hash.update(memoryview(buffer)[:size])
        self.count += size
        self._on_read(size)
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


class GzipStream:
    """The bytes in a gzip file, in order. `sha256` is of the file itself, once all of it was read.

    `on_read` is called with every number of bytes read from the file; what it raises ends the reading. A thread reads,
    hashes and decompresses ahead. Raises ArchiveError for a file that is no whole gzip file, and for a bomb.
    """

    def __init__(self, path: Path, on_read: Callable[[int], None] = lambda _: None) -> None:
        self.path, self.position = path, 0  # the position counts decompressed bytes
        self._on_read = on_read

    def __enter__(self) -> "GzipStream":
        self._file = _HashedFile(self.path, self._on_read)
        self._data = igzip_threaded.open(self._file, block_size=_CHUNK)
        return self

    def __exit__(self, *_: object) -> None:
        self._data.close()
        self._file.close()

    @property
    def sha256(self) -> str:
        return self._file.hash.hexdigest()

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer where the stream ends."""
        try:
            data: bytes = self._data.read(size)
        except EOFError as error:
            raise self.broken(f"the file ends too early, after {self._file.count:,} bytes") from error
        # OverflowError: a header of megabytes; the stub names an instance for isal's error
        except (BadGzipFile, OverflowError, isal_zlib.error) as error:  # type: ignore[misc]
            raise self.broken(f"not valid gzip data ({error})") from error
        self.position += len(data)
        if self.position > max(_RATIO_FROM, _MAX_RATIO * self._file.count):
            raise self.broken(f"more than {_MAX_RATIO} times as large inside as outside, like a decompression bomb")
        return data

    def content(self, member: tarfile.TarInfo, most: int) -> bytes:
        """The file that is at hand, of `most` bytes at most."""
        if member.size > most:
            raise self.broken(f"{member.name!r}: an image of {member.size:,} bytes")
        data = self.read(member.size)
        if len(data) < member.size:
            raise self.broken(f"{member.name!r} is cut short")
        return data

    def broken(self, what: str) -> ArchiveError:
        """An error that names the file and the place."""
        return ArchiveError(
            f"{self.path}: {what} (at byte {self.position:,} of the decompressed data); {DOWNLOAD_AGAIN}"
        )


class _Headers:
    """What tarfile sees of a stream: as many headers before a member as it likes would fill the memory."""

    def __init__(self, stream: GzipStream) -> None:
        self._stream, self.left = stream, _MAX_HEADERS

    def tell(self) -> int:
        return self._stream.position

    def seek(self, position: int) -> None:
        while self.tell() < position and self._stream.read(min(position - self.tell(), _CHUNK)):
            pass

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.left:
            raise self._stream.broken(f"more than {_MAX_HEADERS:,} bytes of headers before a member")
        self.left -= size
        return self._stream.read(size)


class _Header(tarfile.TarInfo):
    """tarfile takes what is no header, and a file's end, for the end of the archive. Here that is a block of zeros."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf and not buf.strip(b"\0"):
                raise
            raise tarfile.ReadError(str(error) if buf else "no end mark: it was cut short when it was made") from error


def read_members(stream: GzipStream) -> Iterator[tarfile.TarInfo]:
    """Every regular file of a tar archive. While one is at hand, `stream.read(member.size)` is its content.

    When this ends, the whole stream has been read. Raises ArchiveError as the module says.
    """
    headers: Any = _Headers(stream)
    try:
        archive: Any = tarfile.TarFile(fileobj=headers, tarinfo=_Header, encoding="utf-8")
        for _ in range(_MAX_MEMBERS):
            member = archive.next()
            if member is None:
                break
            archive.members.clear()  # it keeps them all
            _check(stream, archive, member)
            if member.isreg():
                yield member
            headers.left = _MAX_HEADERS
        else:
            raise stream.broken(f"more than {_MAX_MEMBERS:,} members")
    except (tarfile.TarError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise stream.broken(f"not a valid tar archive ({error})") from error
    while rest := stream.read(_CHUNK):
        if rest.strip(b"\0"):
            raise stream.broken("there is more in it after the archive's end")


def _check(stream: GzipStream, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    """Only files and folders with plain relative names may be in the archive."""
    name = member.name
    if member.size < 0:
        raise stream.broken(f"a member of {member.size} bytes")
    if archive.pax_headers.keys() & {"path", "size"}:
        raise stream.broken("one name or size for all members")
    sparse = member.issparse() or any(key.startswith("GNU.sparse") for key in member.pax_headers)
    if sparse or not (member.isreg() or member.isdir()):
        raise stream.broken(f"{name!r} is a link, a device or a sparse file; only files and folders may be in it")
    if name.startswith("/") or "\0" in name or ".." in name.split("/"):
        raise stream.broken(f"{name!r} is no plain relative name")
