"""How long check_and_clean_images.py takes for a training file: are its images there, and do they decode.

    python benchmarks/image_check.py --rows 150000

The rows and images of data_loading.py, but each image is a file of its own (320x240 JPEG, 3,000 contents). Every
figure is the time of the whole command, start of Python included: with --no_decode, for the first time, and again. The
figure is the median of the later ones. CPU time (of all processes) stands beside the wall-clock times, since other work
on the machine lengthens these only. The files may be in the disk's cache. Writes image_check-<device>.json.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import installed  # noqa: F401
from data_loading import CONTENTS, HEIGHT, REPOSITORY, WIDTH, make_samples, origin

from leap.cli import Parser, count, run
from leap.hardware import usable_cores
from leap.records.json_files import write_json

SCRIPT = REPOSITORY / "scripts" / "utils" / "check_and_clean_images.py"


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--rows", type=count, default=150_000, help="of the training file")
    parser.add_argument("--again", type=count, default=5, help="later checks that are timed (default %(default)s)")
    parser.add_argument("--workdir", type=Path, default=Path("/tmp/leap-data"), help="what is made lies here")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "results", help="folder to write to")
    arguments = parser.parse_args()
    from leap.provenance import device_name

    where = origin()  # before a result is written, which would make the checkout differ from its commit
    root = make_workspace(arguments.workdir, arguments.rows)
    there = [check(root, arguments.rows, 0, "--no_decode") for _ in range(arguments.again)]
    first = check(root, arguments.rows, arguments.rows)
    later = [check(root, arguments.rows, 0) for _ in range(arguments.again)]
    result = {"benchmark": "image_check", **where, **figures(arguments.rows, there, first, later)}
    print(json.dumps({name: result[name] for name in ("ours", "parts")}))
    write_json(arguments.output / f"image_check-{device_name('cpu').replace(' ', '-').replace(',', '')}.json", result)


class Took(NamedTuple):
    """Seconds of one call."""

    wall: float
    cpu: float


def figures(rows: int, there: list[Took], first: Took, later: list[Took]) -> dict[str, Any]:
    settings = {"rows": rows, "image_files": rows, "image_contents": CONTENTS, "cores": usable_cores()}
    return {
        "settings": {**settings, "image": f"{WIDTH}x{HEIGHT} JPEG", "load_average_at_the_end": os.getloadavg()[1]},
        "ours": round(statistics.median(took.wall for took in later), 2),
        "unit": "seconds for a later check",
        "parts": {
            "CPU seconds of it": round(statistics.median(took.cpu for took in later), 2),
            "existence alone": round(statistics.median(took.wall for took in there), 2),
            "CPU seconds of that": round(statistics.median(took.cpu for took in there), 2),
            "first check, every image decoded": round(first.wall, 1),
            "CPU seconds of the first": round(first.cpu, 1),
        },
        "windows": [round(took.wall, 2) for took in later],
    }


def make_workspace(workdir: Path, rows: int) -> Path:
    """A LEAP_ROOT without a cache, whose data folder holds the rows. Data that is there is kept."""
    root = workdir / f"images-{rows}"
    if not (root / "data" / "rows.jsonl").is_file():
        make_samples(root / "data", rows, shutil.copyfile)
    shutil.rmtree(root / ".cache", ignore_errors=True)
    return root


def check(root: Path, rows: int, decoded: int, *flags: str) -> Took:
    """What the command took, which must have found every row's image whole."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, str(SCRIPT), *flags]
    subprocess.run(command, env={**os.environ, "LEAP_ROOT": str(root)}, stdout=subprocess.DEVNULL, check=True)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads((root / ".cache" / "images" / "report.json").read_text())
    assert (report["rows"], report["decoded"], report["orphans"]) == (rows, decoded, [])
    return Took(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


if __name__ == "__main__":
    run(main)
