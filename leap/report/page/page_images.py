"""The page's images: each once, as WebP, named after its content, so that a page made anew takes them from the last."""

import hashlib
import io
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from leap.data.image import load_image
from leap.errors import LeapError
from leap.hardware import usable_cores
from leap.progress import track
from leap.records.files import read_bytes, unfinished

FOLDER = "images"
_QUALITY = 50  # at which the numbers on a scene of 240 pixels a view are still read without effort


def write_images(files: Sequence[Path], folder: Path, earlier: Path, what: str) -> dict[Path, str | None]:
    """Write <folder>/<hash>.webp for each image file; the names by file, None for one that cannot be read.

    `earlier` is the images' folder of the page that this one replaces: what is there already is linked.
    """
    if not files:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(usable_cores()) as threads:  # Pillow decodes and encodes without Python's lock
        names = threads.map(lambda file: _write_image(file, folder, earlier), files)
        return dict(zip(files, track(names, what, len(files)), strict=True))


def _write_image(file: Path, folder: Path, earlier: Path) -> str | None:
    try:
        name = hashlib.sha256(read_bytes(file) + bytes([_QUALITY])).hexdigest()[:20] + ".webp"
        path, before = folder / name, earlier / name
        if path.exists():
            return name
        if before.is_file():
            _link(before, path)
            return name
        content = io.BytesIO()
        load_image(file).save(content, "WEBP", quality=_QUALITY, method=6)
    except LeapError:
        return None
    temporary = unfinished(path)  # two threads may write one image
    temporary.write_bytes(content.getvalue())
    os.replace(temporary, path)
    return name


def _link(file: Path, path: Path) -> None:
    """The same file under another name, or a copy where the file system has no links."""
    try:
        os.link(file, path)
    except FileExistsError:
        return  # another thread has the same image
    except OSError:
        shutil.copyfile(file, path)
