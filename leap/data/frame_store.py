"""Where first frames are kept: set aside while their archive is read, put in place when it has proved whole.

    <images>/<task>-<episode>.png                         finished pictures, and nothing else
    <images>/.first_frames/<task>.json                    what is known of a finished archive and its pictures
    <images>/.first_frames/<task>/<episode>-<hash>.png    a picture whose archive is not finished yet
    <images>/.first_frames/<task>/verified.json           the archive is whole: its pictures are being put in place

A kill at any moment leaves one of these states, and the next run goes on from it. Of an archive that turns out to be
broken nothing is put in place, and what was set aside of it is removed.
"""

import hashlib
import os
import shutil
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from leap.data.first_frames import as_png
from leap.errors import LeapError
from leap.records.files import first_problem, read_json, sync_folder, write_atomic, write_json

STATE_FOLDER = ".first_frames"
_VERIFIED = "verified.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PictureRecord(_Record):
    """A finished picture: its frame's name and hash in the archive, its own size in bytes and time of change."""

    frame: str
    frame_sha256: str
    size: int
    mtime_ns: int

    def describes(self, path: Path) -> bool:
        """Whether the file is there as it was written."""
        try:
            status = path.stat()
        except FileNotFoundError:
            return False
        return (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)


class ArchiveRecord(_Record):
    """An archive that was read to its end and is whole. `problems` tells why episodes have no picture."""

    archive: str
    size: int
    mtime_ns: int
    sha256: str
    compared_with_hub: bool
    pictures: dict[str, PictureRecord]
    problems: dict[str, str]


class FrameStore:
    """The pictures of one task. One process at a time works on it."""

    def __init__(self, images: Path, task: str) -> None:
        self._images, self._task = images, task
        self._record_file = images / STATE_FOLDER / f"{task}.json"
        self._aside = images / STATE_FOLDER / task
        self._pictures: dict[str, PictureRecord] = {}
        self._problems: dict[str, str] = {}
        self.record = self._read_record(self._record_file)
        self.made: set[str] = set()  # episodes whose pictures were written, not kept from before

    def picture(self, episode: str) -> Path:
        return self._images / f"{self._task}-{episode}.png"

    @property
    def begun(self) -> bool:
        """Whether an earlier run left pictures that are set aside."""
        return self._aside.is_dir()

    def is_done(self, archive: Path, expected_sha256: str | None) -> bool:
        """Whether the archive is the one that was read, and each of its episodes has its picture, all unchanged."""
        record, status = self.record, archive.stat()
        if record is None or record.problems or (record.size, record.mtime_ns) != (status.st_size, status.st_mtime_ns):
            return False
        if expected_sha256 not in (None, record.sha256):
            return False
        return all(known.describes(self.picture(episode)) for episode, known in record.pictures.items())

    def settle(self, episode: str, frame: str, data: bytes) -> None:
        """Set the picture of an episode's first frame aside, if it is not there from an earlier run."""
        digest = hashlib.sha256(data).hexdigest()
        frame = frame.encode("utf-8", "backslashreplace").decode()
        self._drop(episode)
        known = self.record.pictures.get(episode) if self.record else None
        if known and known.frame_sha256 == digest and known.describes(self.picture(episode)):
            self._pictures[episode] = known
            return
        aside = self._place_aside(episode, digest)
        if not aside.exists():
            try:
                write_atomic(aside, as_png(data))
            except LeapError as error:
                self._problems[episode] = f"{frame}: {error}"
                return
            self.made.add(episode)
        status = aside.stat()
        self._pictures[episode] = PictureRecord(
            frame=frame, frame_sha256=digest, size=status.st_size, mtime_ns=status.st_mtime_ns
        )

    def finish(self, archive: Path, status: os.stat_result, sha256: str, compared_with_hub: bool) -> ArchiveRecord:
        """Put the pictures in place of an archive that is whole; `status` is from before it was read."""
        record = ArchiveRecord(
            archive=archive.name,
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            sha256=sha256,
            compared_with_hub=compared_with_hub,
            pictures=self._pictures,
            problems=self._problems,
        )
        write_json(self._aside / _VERIFIED, record.model_dump())
        self.go_on()
        assert self.record is not None
        return self.record

    def go_on(self) -> None:
        """Put the pictures in place of an archive that proved whole, where a run was stopped in the midst of that."""
        verified = self._aside / _VERIFIED
        record = self._read_record(verified)
        if record is None:
            return  # the archive is still to be read
        for episode, known in record.pictures.items():
            aside = self._place_aside(episode, known.frame_sha256)
            if aside.exists():
                os.replace(aside, self.picture(episode))
        sync_folder(self._images)
        os.replace(verified, self._record_file)
        sync_folder(self._record_file.parent)
        self.discard()
        self.record = record

    def discard(self) -> None:
        """Remove what is set aside."""
        if self._aside.is_dir():
            shutil.rmtree(self._aside)

    def _place_aside(self, episode: str, digest: str) -> Path:
        return self._aside / f"{episode}-{digest}.png"

    def _drop(self, episode: str) -> None:
        """Forget a frame of the episode that was not the first after all."""
        self._problems.pop(episode, None)
        self.made.discard(episode)
        known = self._pictures.pop(episode, None)
        if known:
            self._place_aside(episode, known.frame_sha256).unlink(missing_ok=True)

    def _read_record(self, path: Path) -> ArchiveRecord | None:
        if not path.exists():
            return None
        try:
            return ArchiveRecord.model_validate(read_json(path))
        except ValidationError as error:
            raise LeapError(
                f"{path}: {first_problem(error)}; remove the file, and its archive is read again"
            ) from error
