"""Finished folders sent to an address that fsspec knows (s3://, gs://, hf://, a shared folder …): whole, marker last.

There, as here, a folder without its marker is none. What has been sent is known by the marker that lies there, so that
the next start sends what a failure, a kill or another machine left out, and nothing twice.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leap.errors import LeapError
from leap.records.files import read_bytes
from leap.records.litter import walk
from leap.records.remote import reaching

Same = Callable[[Any, Any], bool]  # of the markers there and here


class Upload:
    """Folders below `root` go below `address`, to the same place there. `failed` are those that did not, and why.

    Raises LeapError where nothing can be written there, before there is anything to send. `same` says whether the
    folder with the one marker is that with the other, and raises LeapError where it must not be replaced.
    """

    def __init__(self, address: str, root: Path, marker: str, same: Same = lambda there, here: there == here) -> None:
        import fsspec

        self.address, self.failed = address.rstrip("/"), dict[Path, str]()
        self._root, self._marker, self.same = root, marker, same
        with reaching(self.address):
            self._system, self._place = fsspec.core.url_to_fs(self.address)
            if "file" in self._system.protocol:
                self._system.auto_mkdir = True
            self._system.pipe_file(f"{self._place}/.upload", b"")

    def send(self, folder: Path) -> None:
        """Send a folder, if it is not there yet. What fails is told, and stays here for the next start."""
        try:
            with reaching(self.address):
                self._send(folder)
        except LeapError as error:
            self.failed[folder] = str(error)
            print(f"not sent: {folder}: {error}; the same command sends it", file=sys.stderr, flush=True)
        else:
            self.failed.pop(folder, None)

    def refuse_failed(self) -> None:
        """Raises LeapError where something was not sent."""
        if self.failed:
            (first, why), *_ = self.failed.items()
            raise LeapError(
                f"{len(self.failed)} not sent to {self.address}, such as {first} ({why}); all are kept here"
            )

    def _send(self, folder: Path) -> None:
        place, here = self._at(folder), None
        target = f"{place}/{self._marker}"
        while here != (here := read_bytes(folder / self._marker)):  # an older checkpoint may be stripped meanwhile
            there = self.stored(folder)
            if there is not None and self.same(there, json.loads(here)):
                return
            if there is not None:  # first: from here on the folder there is not whole
                self._system.rm_file(target)
            files = [path / name for path, names in walk(folder) for name in names if name != self._marker]
            targets = [f"{place}/{file.relative_to(folder).as_posix()}" for file in files]
            self._system.put([str(file) for file in files], targets)
        self._system.pipe_file(target, here)

    def stored(self, folder: Path) -> Any:
        """The marker that lies there; None where the folder is not there as a whole."""
        self._system.invalidate_cache()
        with reaching(self.address):
            try:
                return json.loads(self._system.cat_file(f"{self._at(folder)}/{self._marker}"))
            except FileNotFoundError:
                return None

    def _at(self, folder: Path) -> str:
        return f"{self._place}/{folder.relative_to(self._root).as_posix()}"
