"""Where first frames are kept: in a staging folder while their archive is read, put in place when it has proved whole.

Images that come whole out of one archive are kept in the same way, under the names that they have there.

    <images>/<task>-<episode>.png                         finished images, and nothing else
    <images>/.first_frames/<task>.json                    what is known of a finished archive and its images
    <images>/.first_frames/<task>/<episode>-<hash>.png    an image whose archive is not finished yet
    <images>/.first_frames/<task>/verified.json           the archive is whole: its images are being put in place

A kill at any moment leaves one of these states, and the next run goes on from it. Of an archive that turns out to be
broken nothing is put in place, and what was staged of it is removed.
"""

import hashlib
import os
import shutil
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from leap.errors import LeapError
from leap.preparation.agibot.png import as_png
from leap.records.files import sync_folder, write_atomic
from leap.records.json_files import read_model, write_json

STATE_FOLDER = ".first_frames"
_VERIFIED = "verified.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ImageRecord(_Record):
    """A finished image: its frame's name and hash in the archive, its own size in bytes and time of change."""

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
    """An archive that was read to its end and is whole. `problems` says why episodes have no image."""

    archive: str
    size: int
    mtime_ns: int
    sha256: str
    compared_with_hub: bool
    images: dict[str, ImageRecord]
    problems: dict[str, str]


class ImageStore:
    """The images of one archive, by name; `key` names the archive. One process at a time works on it.

    This one puts images under the names and with the bytes that they have in the archive.
    """

    def __init__(self, images: Path, key: str) -> None:
        self._images, self._key = images, key
        self._record_file = images / STATE_FOLDER / f"{key}.json"
        self._aside = images / STATE_FOLDER / key
        self._records: dict[str, ImageRecord] = {}
        self._problems: dict[str, str] = {}
        self.record = self._read_record(self._record_file)
        self.made: set[str] = set()  # episodes whose images were written, not kept from before

    def image(self, name: str) -> Path:
        """Where an image has its place."""
        return self._images / name

    def _as_stored(self, data: bytes) -> bytes:
        return data

    def _place_aside(self, name: str, digest: str) -> Path:
        """Where it waits until the archive is read: names may have folders, and two of them the same content."""
        return self._aside / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}-{digest[:32]}"

    def _is_taken(self, name: str, known: ImageRecord | None) -> bool:
        """Whether a file that is not ours, or not as we left it, lies in an image's place, or in that of its folder."""
        place = self.image(name)
        if os.path.lexists(place):
            return not (known and known.describes(place))
        there = next(folder for folder in place.parents if os.path.lexists(folder))
        return not there.is_dir()

    @property
    def begun(self) -> bool:
        """Whether an earlier run left staged images."""
        return self._aside.is_dir()

    def is_done(self, archive: Path, expected_sha256: str | None) -> bool:
        """Whether the archive is the one that was read, and each of its episodes has its image, all unchanged."""
        record, status = self.record, archive.stat()
        if record is None or record.problems or (record.size, record.mtime_ns) != (status.st_size, status.st_mtime_ns):
            return False
        if expected_sha256 not in (None, record.sha256):
            return False
        return all(known.describes(self.image(episode)) for episode, known in record.images.items())

    def settle(self, episode: str, frame: str, data: bytes) -> None:
        """Set the image of an episode's first frame aside, if it is not there from an earlier run."""
        digest = hashlib.sha256(data).hexdigest()
        frame = frame.encode("utf-8", "backslashreplace").decode()
        self._drop(episode)
        known = self.record.images.get(episode) if self.record else None
        if known and known.frame_sha256 == digest and known.describes(self.image(episode)):
            self._records[episode] = known
            return
        aside = self._place_aside(episode, digest)
        if self._is_taken(episode, known):
            aside = self.image(episode)
            if not aside.is_file() or aside.read_bytes() != data:
                self._problems[episode] = "another image of this name is there: move it away to have the archive's"
                return
        elif not aside.exists():
            try:
                write_atomic(aside, self._as_stored(data))
            except LeapError as error:
                self._problems[episode] = f"{frame}: {error}"
                return
            self.made.add(episode)
        status = aside.stat()
        self._records[episode] = ImageRecord(
            frame=frame, frame_sha256=digest, size=status.st_size, mtime_ns=status.st_mtime_ns
        )

    def finish(self, archive: Path, status: os.stat_result, sha256: str, compared_with_hub: bool) -> ArchiveRecord:
        """Put the images in place of an archive that is whole; `status` is from before it was read."""
        record = ArchiveRecord(
            archive=archive.name,
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            sha256=sha256,
            compared_with_hub=compared_with_hub,
            images=self._records,
            problems=self._problems,
        )
        write_json(self._aside / _VERIFIED, record.model_dump())
        self.go_on()
        assert self.record is not None
        return self.record

    def go_on(self) -> None:
        """Put the images in place of an archive that proved whole, where a run was stopped in the midst of that."""
        verified = self._aside / _VERIFIED
        record = self._read_record(verified)
        if record is None:
            return  # the archive is still to be read
        for episode, known in record.images.items():
            aside = self._place_aside(episode, known.frame_sha256)
            if aside.exists():
                place = self.image(episode)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(aside, place)
        for folder in {self.image(episode).parent for episode in record.images}:
            sync_folder(folder)
        os.replace(verified, self._record_file)
        sync_folder(self._record_file.parent)
        self.discard()
        self.record = record

    def discard(self) -> None:
        """Remove what is staged."""
        if self._aside.is_dir():
            shutil.rmtree(self._aside)

    def _drop(self, episode: str) -> None:
        """Forget a frame of the episode that was not the first after all."""
        self._problems.pop(episode, None)
        self.made.discard(episode)
        known = self._records.pop(episode, None)
        if known:
            self._place_aside(episode, known.frame_sha256).unlink(missing_ok=True)

    def _read_record(self, path: Path) -> ArchiveRecord | None:
        remedy = "remove the file, and its archive is read again"
        return read_model(path, ArchiveRecord, remedy) if path.exists() else None


class FrameStore(ImageStore):
    """The images of one task's episodes, as PNG files; what has their names is ours."""

    def image(self, name: str) -> Path:
        return self._images / f"{self._key}-{name}.png"

    def _as_stored(self, data: bytes) -> bytes:
        return as_png(data)

    def _place_aside(self, name: str, digest: str) -> Path:
        return self._aside / f"{name}-{digest}.png"

    def _is_taken(self, name: str, known: ImageRecord | None) -> bool:
        return False
