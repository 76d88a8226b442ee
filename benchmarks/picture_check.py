"""How long check_and_clean_images.py takes for a training file: are its pictures there, and do they decode.

    python benchmarks/picture_check.py --rows 150000

The rows and pictures of data_loading.py, but each picture is a file of its own (320x240 JPEG, 3,000 contents). Every
figure is the wall-clock time of the whole command, start of Python included: with --no-decode, for the first time, and
again. The figure is the median of the later ones. The files were written just before, so that the disk's cache holds
them. Writes picture_check-<device>.json.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from data_loading import CONTENTS, HEIGHT, REPOSITORY, WIDTH, make_rows, origin

from leap.cli import count, run
from leap.hardware import usable_cores
from leap.records.files import write_json

SCRIPT = REPOSITORY / "scripts" / "utils" / "check_and_clean_images.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=count, default=150_000)
    parser.add_argument("--again", type=count, default=5, help="later checks that are timed (default %(default)s)")
    parser.add_argument("--workdir", type=Path, default=Path("/tmp/leap-data"), help="what is made lies here")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "results", help="folder to write to")
    arguments = parser.parse_args()
    from leap.provenance import device_name

    where = origin()  # before a result is written, which would make the checkout differ from its commit
    root = make_workspace(arguments.workdir, arguments.rows)
    there = [check(root, arguments.rows, 0, "--no-decode") for _ in range(arguments.again)]
    first = check(root, arguments.rows, arguments.rows)
    later = [check(root, arguments.rows, 0) for _ in range(arguments.again)]
    result = {"benchmark": "picture_check", **where, **figures(arguments.rows, there, first, later)}
    print(json.dumps({name: result[name] for name in ("ours", "parts")}))
    write_json(arguments.output / f"picture_check-{device_name('cpu').replace(' ', '-').replace(',', '')}.json", result)


def figures(rows: int, there: list[float], first: float, later: list[float]) -> dict[str, Any]:
    settings = {"rows": rows, "picture_files": rows, "picture_contents": CONTENTS, "cores": usable_cores()}
    return {
        "settings": {**settings, "picture": f"{WIDTH}x{HEIGHT} JPEG"},
        "ours": round(statistics.median(later), 2),
        "unit": "seconds for a later check",
        "parts": {
            "existence alone": round(statistics.median(there), 2),
            "first check, every picture decoded": round(first, 1),
        },
        "windows": [round(seconds, 2) for seconds in later],
    }


def make_workspace(workdir: Path, rows: int) -> Path:
    """A LEAP_ROOT without a cache, whose data folder holds the rows. Data that is there is kept."""
    root = workdir / f"pictures-{rows}"
    if not (root / "data" / "rows.jsonl").is_file():
        make_rows(root / "data", rows, shutil.copyfile)
    shutil.rmtree(root / ".cache", ignore_errors=True)
    return root


def check(root: Path, rows: int, decoded: int, *flags: str) -> float:
    """Seconds that the command took, which must have found every row's picture whole."""
    started = time.perf_counter()
    command = [sys.executable, str(SCRIPT), *flags]
    subprocess.run(command, env={**os.environ, "LEAP_ROOT": str(root)}, stdout=subprocess.DEVNULL, check=True)
    seconds = time.perf_counter() - started
    report = json.loads((root / ".cache" / "pictures" / "report.json").read_text())
    assert (report["rows"], report["decoded"], report["orphans"]) == (rows, decoded, [])
    return seconds


if __name__ == "__main__":
    run(main)
