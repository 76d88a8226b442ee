"""The page's images: each once, as WebP, named after its content, so that a page made anew takes them from the last."""

import hashlib
import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from leap.data.image import load_image
from leap.errors import LeapError
from leap.hardware import usable_cores
from leap.progress import track
from leap.records.files import read_bytes, unfinished
from leap.workers import map_in_order

FOLDER = "images"
_QUALITY = 50  # at which the numbers on a scene of 240 pixels a view are still read without effort
_FEW = 40  # images that are encoded sooner than processes start


def write_images(files: Sequence[Path], folder: Path, earlier: Path, what: str) -> dict[Path, str | None]:
    """Write <folder>/<hash>.webp for each image file; the names by file, None for one that cannot be read.

    `earlier` is the images' folder of the page that this one replaces: what is there already is linked.
    """
    encode = _Encode(folder, earlier)
    processes = 1 if len(files) < _FEW else usable_cores()
    folder.mkdir(parents=True, exist_ok=True)
    names = track(map_in_order(encode, files, processes), what, len(files)) if files else ()
    return dict(zip(files, names, strict=True))


class _Encode:
    """What a process does with an image file."""

    def __init__(self, folder: Path, earlier: Path) -> None:
        self.folder, self.earlier = folder, earlier

    def __call__(self, file: Path) -> str | None:
        try:
            name = hashlib.sha256(read_bytes(file) + bytes([_QUALITY])).hexdigest()[:20] + ".webp"
            path, before = self.folder / name, self.earlier / name
            if path.exists():
                return name
            if before.is_file():
                _link(before, path)
                return name
            content = io.BytesIO()
            load_image(file).save(content, "WEBP", quality=_QUALITY, method=6)
        except LeapError:
            return None
        temporary = unfinished(path)  # two processes may write one image
        temporary.write_bytes(content.getvalue())
        os.replace(temporary, path)
        return name


def _link(file: Path, path: Path) -> None:
    """The same file under another name, or a copy where the file system has no links."""
    try:
        os.link(file, path)
    except FileExistsError:
        return  # another process has the same image
    except OSError:
        shutil.copyfile(file, path)
