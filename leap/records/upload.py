"""Finished folders sent to s3://, gs://, hf:// or a shared folder: whole, marker last.

There, as here, a folder without its marker is none. What has been sent is known by the marker that lies there, so that
the next start sends what a failure, a kill or another machine left out, and nothing twice.
"""

import glob
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leap.errors import LeapError
from leap.records.files import read_bytes, write_atomic
from leap.records.litter import walk
from leap.records.remote import address, is_cached, remote_errors, system_of

Same = Callable[[Any, Any], bool]  # of the markers there and here


class Upload:
    """Folders below `root` go below `place` (of `as_path`), to the same place there. `failed` are those that did not,
    and why.

    Raises LeapError where nothing can be written there, before there is anything to send. `same` says whether the
    folder with the one marker is that with the other, and raises LeapError where it must not be replaced.
    """

    def __init__(self, place: Path, root: Path, marker: str, same: Same = lambda there, here: there == here) -> None:
        import fsspec

        self.address, self.failed = address(place), dict[Path, str]()
        self._root, self._marker, self.same = root, marker, same
        with remote_errors(self.address):
            self._system = system_of(place) if is_cached(place) else fsspec.filesystem("file", auto_mkdir=True)
            self._place = self._system._strip_protocol(self.address)
            self._in_commits = self.address.startswith("hf://") and not self.address.startswith("hf://buckets/")
            if self._in_commits:  # a probe would be one
                self._system.resolve_path(self.address)
            else:
                self._system.pipe_file(f"{self._place}/.upload", b"")

    def send(self, folder: Path) -> None:
        """Send a folder, if it is not there yet, and then what failed before. What fails is told, and stays here."""
        if self._sends(folder):
            for earlier in [*self.failed]:
                self._sends(earlier)

    def _sends(self, folder: Path) -> bool:
        try:
            with remote_errors(self.address, folder):
                self._send(folder)
        except (LeapError, OSError) as error:
            self.failed[folder] = str(error)
            print(f"not sent: {folder}: {error}; the same command sends it", file=sys.stderr, flush=True)
            return False
        self.failed.pop(folder, None)
        return True

    def refuse_failed(self) -> None:
        """Raises LeapError where something was not sent, at another try either."""
        for folder in [*self.failed]:
            self._sends(folder)
        if self.failed:
            (first, why), *_ = self.failed.items()
            raise LeapError(
                f"{len(self.failed)} not sent to {self.address}, such as {first} ({why}); all are kept here"
            )

    def _send(self, folder: Path) -> None:
        here, there = read_bytes(folder / self._marker), self.stored(folder)
        if there is not None and self.same(there, json.loads(here)):
            return
        files = [path / name for path, names in walk(folder) for name in names]
        sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}
        if self._in_commits:
            self._commit(folder, sizes)
            return
        place, earlier = self._at(folder), self._sizes(folder)
        if self._marker in earlier:  # first: from here on the folder there is not whole
            self._system.rm_file(f"{place}/{self._marker}")
        del sizes[self._marker]
        self._system.put([str(folder / name) for name in sizes], [f"{place}/{name}" for name in sizes])
        for name in earlier.keys() - sizes.keys() - {self._marker}:  # of an earlier one, and no part of this
            self._system.rm_file(f"{place}/{name}")
        if (came := self._sizes(folder)) != sizes:
            name = min(name for name in came.keys() | sizes.keys() if came.get(name) != sizes.get(name))
            raise LeapError(f"{name}: {came.get(name)} bytes are there, and {sizes.get(name)} were sent")
        if "file" in self._system.protocol:
            write_atomic(Path(place, self._marker), here)
        else:
            self._system.pipe_file(f"{place}/{self._marker}", here)

    def _commit(self, folder: Path, names: Any) -> None:
        """One commit of all: fsspec would make one of each file."""
        where = self._system.resolve_path(self._at(folder))
        self._system._api.upload_folder(
            repo_id=where.repo_id,
            repo_type=where.repo_type,
            revision=where.revision,
            folder_path=folder,
            path_in_repo=where.path_in_repo,
            allow_patterns=[glob.escape(name) for name in names],
            delete_patterns="*",
            commit_message=f"{folder.relative_to(self._root).as_posix()} by LEAP",
        )

    def _sizes(self, folder: Path) -> dict[str, int]:
        """Of the files that lie there, by their names from the folder."""
        place = self._at(folder)
        found = self._system.find(place, detail=True).values()
        return {one["name"][len(place) + 1 :]: one["size"] for one in found if not one["name"].endswith("/")}

    def stored(self, folder: Path) -> Any:
        """The marker that lies there; None where the folder is not there as a whole."""
        self._system.invalidate_cache()
        with remote_errors(self.address):
            try:
                return json.loads(self._system.cat_file(f"{self._at(folder)}/{self._marker}"))
            except (FileNotFoundError, ValueError):  # ValueError: it broke off as it was written
                return None

    def _at(self, folder: Path) -> str:
        return f"{self._place}/{folder.relative_to(self._root).as_posix()}"
