"""Archives of frames for tests, made on the spot."""

import gzip
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

Files = Iterable[tuple[str, bytes]]


def image(seed: int, kind: str = "JPEG", size: tuple[int, int] = (16, 12), mode: str = "RGB") -> bytes:
    """An image's file; each seed has another one."""
    shape = (size[1], size[0], len(mode)) if len(mode) > 1 else size[::-1]
    written = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8), mode).save(written, kind)
    return written.getvalue()


def tar_bytes(files: Files, form: int = tarfile.PAX_FORMAT, odd: Iterable[tarfile.TarInfo] = ()) -> bytes:
    """A tar archive of these files, after members without content."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=form) as archive:
        for member in odd:
            archive.addfile(member)
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return written.getvalue()


def tar_gz(files: Files, **options: object) -> bytes:
    return gzip.compress(tar_bytes(files, **options), 1, mtime=0)  # type: ignore[arg-type]


def frames(task: int, episodes: int, count: int = 3) -> list[tuple[str, bytes]]:
    """`count` frames of each episode; the first is named 2.jpg, and the next ones 10.jpg, 11.jpg and so on."""
    numbers = [2, *range(10, 9 + count)]
    return [
        (f"{task}/{640000 + episode}/{number}.jpg", image(task * 10000 + episode * 100 + number))
        for episode in range(episodes)
        for number in numbers
    ]


def write_archive(folder: Path, task: int, episodes: int = 3, count: int = 3) -> Path:
    path = folder / f"task_{task}.tar.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_gz(frames(task, episodes, count)))
    return path


def pixels(file: Path | bytes) -> np.ndarray:
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
        return np.asarray(opened)
