"""The first frame of every episode of an archive of frames: streamed, against extracting everything first.

    python benchmarks/first_frames.py

Makes an archive of 640x480 JPEG frames, 320 an episode (some ten seconds at 30 a second), the same bytes every time.
Extracting everything is `tarfile.extractall(filter="data")`, then each episode's first frame as a PNG by Pillow, at its
fastest setting. Both sides make the same pixels, with as many processes, an archive each, in turn, each round in a
process of its own; the archive is in the page cache. Seconds are medians of the timed rounds. Disk and memory are from
a round of their own: what lies in the output folder at most, beside the archive that both sides read, and the largest
process's resident memory. The shorter the episodes, the smaller the gain in disk: a PNG is about five times its JPEG.
Writes first_frames-<device>.json.
"""

import gzip
import io
import json
import os
import resource
import shutil
import statistics
import tarfile
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context, set_start_method
from pathlib import Path
from typing import Any

import installed  # noqa: F401
from compared import REPOSITORY, origin, result_path
from data_loading import peak_mb

from leap.cli import Parser, count, gigabytes, run, some_workers
from leap.hardware import usable_cores
from leap.records.files import replacing
from leap.records.json_files import write_json

CONTENTS, FRAMES, WIDTH, HEIGHT, QUALITY = 64, 320, 640, 480, 90
GZIP_LEVEL = 6


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--gigabytes", type=gigabytes, default=2.0, help="of an archive (default %(default)s)")
    parser.add_argument("--archives", type=count, default=1, help="how many (default %(default)s)")
    parser.add_argument(
        "--num_workers", type=some_workers, default=1, help="processes of both sides (default %(default)s)"
    )
    parser.add_argument("--rounds", type=count, default=5, help="timed rounds (default %(default)s)")
    parser.add_argument("--workdir", type=Path, default=Path("/tmp/leap-frames"), help="what is made lies here")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "results", help="folder to write to")
    arguments = parser.parse_args()
    where = origin("cpu")  # before a result is written, which would make the checkout differ from its commit
    archives = make_archives(arguments.workdir, arguments.archives, int(arguments.gigabytes * 1e9))
    load = os.getloadavg()[0]
    work, workers = arguments.workdir / "made", arguments.num_workers
    sides = {"streamed": streamed, "extracted": extracted}
    watched = {name: alone(side, archives, work, workers, True) for name, side in sides.items()}
    assert watched["streamed"].images == watched["extracted"].images, "both sides must make the same pixels"
    rounds = [
        {name: alone(side, archives, work, workers) for name, side in sides.items()} for _ in range(arguments.rounds)
    ]
    settings = described(archives, len(watched["streamed"].images), workers, [load, os.getloadavg()[0]])
    result = {"benchmark": "first_frames", **where, "settings": settings, **figures(rounds, watched)}
    print(json.dumps({name: result[name] for name in ("seed_setting", "ours", "ratio", "parts", "windows")}))
    write_json(result_path(arguments.output, result), result)


@dataclass(frozen=True)
class Round:
    """One side's run. Memory is in MiB, disk in bytes; the images are names and their pixels' hashes."""

    seconds: float
    cpu_seconds: float
    memory: int
    disk: int
    images: dict[str, str]


def described(archives: Sequence[Path], episodes: int, workers: int, load: list[float]) -> dict[str, Any]:
    return {
        "archives": len(archives),
        "archive_bytes": [archive.stat().st_size for archive in archives],
        "episodes": episodes,
        "frames_per_episode": FRAMES,
        "frame": f"{WIDTH}x{HEIGHT} JPEG, quality {QUALITY}",
        "gzip_level": GZIP_LEVEL,
        "processes": workers,
        "cores": usable_cores(),
        "load_average_before_and_after": [round(each, 1) for each in load],
    }


def figures(rounds: list[dict[str, Round]], watched: dict[str, Round]) -> dict[str, Any]:
    seconds = {name: [each[name].seconds for each in rounds] for name in watched}
    cpu = {name: statistics.median(each[name].cpu_seconds for each in rounds) for name in watched}
    ours, theirs = (statistics.median(seconds[name]) for name in ("streamed", "extracted"))
    one, other = watched["streamed"], watched["extracted"]
    return {
        "seed_setting": round(theirs, 2),
        "compared_with": "as fast as extracting everything",
        "ours": round(ours, 2),
        "unit": "seconds",
        "ratio": round(theirs / ours, 2),
        "parts": {
            "CPU seconds": round(cpu["streamed"], 1),
            "of extracting": round(cpu["extracted"], 1),
            "MB on disk beside the archive": round(one.disk / 1e6),
            "of extracting's files": round(other.disk / 1e6),
            "times as lean on disk": round(other.disk / one.disk, 1),
            "peak MB of memory": one.memory,
            "of extracting's": other.memory,
        },
        "windows": [round(second, 2) for second in seconds["streamed"]],
        "extracting_windows": [round(second, 2) for second in seconds["extracted"]],
        "parity": {"images": len(one.images), "identical_pixels": True},
    }


# --- the two sides


def streamed(archives: Sequence[Path], folder: Path, workers: int) -> None:
    from leap.preparation.agibot.archive_tasks import Outcome, find_archives, prepare

    outcomes: list[Outcome] = []
    prepare(find_archives(archives[0].parent), folder / "images", workers, outcomes)
    assert all(outcome.state == "done" for outcome in outcomes)


def extracted(archives: Sequence[Path], folder: Path, workers: int) -> None:
    from leap.workers import map_in_order

    tasks = ((archive, folder / "all" / archive.name, folder / "images") for archive in archives)
    list(map_in_order(extract_then_take, tasks, workers))


def extract_then_take(task: tuple[Path, Path, Path]) -> None:
    from PIL import Image

    from leap.preparation.agibot.first_frames import natural_key

    archive, everything, images = task
    with tarfile.open(archive) as opened:
        opened.extractall(everything, filter="data")
    images.mkdir(parents=True, exist_ok=True)
    for episode in sorted(everything.glob("*/*")):
        first = min(os.listdir(episode), key=natural_key)
        with Image.open(episode / first) as image:
            place = images / f"{episode.parent.name}-{episode.name}.png"
            image.save(place, compress_level=1, compress_type=zlib.Z_RLE)


# --- measuring


Side = Callable[[Sequence[Path], Path, int], None]


def alone(side: Side, archives: Sequence[Path], folder: Path, workers: int, watch: bool = False) -> Round:
    """A side's run in a fresh process, into an empty folder."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measured, side, archives, folder, workers, watch).result()


def measured(side: Side, archives: Sequence[Path], folder: Path, workers: int, watch: bool) -> Round:
    import PIL.Image

    import leap.preparation.agibot.archive_tasks  # noqa: F401  both are imported before the clock starts

    PIL.Image.init()
    set_start_method("fork", force=True)  # Linux's default, which spawning this process has replaced
    shutil.rmtree(folder, ignore_errors=True)
    os.sync()  # what the last round wrote is not this one's to wait for
    disk: list[int] = [0]
    ended = threading.Event()
    thread = threading.Thread(target=watch_disk, args=(folder, disk, ended))
    if watch:
        thread.start()
    cpu, started = cpu_seconds(), time.perf_counter()
    side(archives, folder, workers)
    seconds, cpu = time.perf_counter() - started, cpu_seconds() - cpu
    if watch:
        ended.set()
        thread.join()
    memory = max(peak_mb(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
    images = hashes(folder / "images") if watch else {}
    shutil.rmtree(folder)
    return Round(seconds, cpu, memory, max(disk), images)


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def watch_disk(folder: Path, found: list[int], ended: threading.Event) -> None:
    """Note what the folder takes on the disk, again and again."""
    going = True
    while going:
        going = not ended.wait(0.5)
        found.append(sum(allocated(Path(place, name)) for place, _, names in os.walk(folder) for name in names))


def allocated(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:  # it was renamed meanwhile
        return 0


def hashes(images: Path) -> dict[str, str]:
    import hashlib

    from leap.data.image import load_image

    return {path.name: hashlib.sha256(load_image(path).tobytes()).hexdigest() for path in images.glob("*.png")}


# --- what is measured on


def make_archives(workdir: Path, archives: int, size: int) -> list[Path]:
    """Archives of about so many bytes each; they are kept for the next time."""
    folder = workdir / f"{archives}x{size}"
    paths = [folder / f"task_{327 + number}.tar.gz" for number in range(archives)]
    for path in paths:
        if not path.exists():
            with replacing(path) as temporary, temporary.open("wb") as file:
                write_archive(file, path.name[5:8], size)
        with path.open("rb") as file:  # into the page cache
            while file.read(1 << 20):
                pass
    return paths


def write_archive(file: Any, task: str, size: int) -> None:
    contents = [frame(seed) for seed in range(CONTENTS)]
    with (
        gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as archive,
    ):
        episode = 0
        while file.tell() < size:
            for number in range(FRAMES):
                content = contents[(episode * 7 + number) % CONTENTS]
                member = tarfile.TarInfo(f"{task}/{648000 + episode}/{number}.jpg")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            episode += 1


def frame(seed: int) -> bytes:
    """An image with smooth colours and a camera's noise."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(0, 256, (HEIGHT // 40, WIDTH // 40, 3), np.uint8))
    pixels = np.asarray(smooth.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) + rng.normal(0, 6, (HEIGHT, WIDTH, 3))
    written = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(written, "JPEG", quality=QUALITY)
    return written.getvalue()


if __name__ == "__main__":
    run(main)
