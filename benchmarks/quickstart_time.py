"""Seconds of quickstart.sh's stages on a CPU, with this commit and an older one whose quickstart does the same.

    git worktree add /tmp/leap-before COMMIT
    python benchmarks/quickstart_time.py --before /tmp/leap-before --rounds 3

Each run is a copy of its side's code with a workspace of its own, by turns. The libraries are those that run this
script, so that there is nothing to set up. A stage that only one side has is listed, not compared; responses of both
sides are compared one by one. Cut off, the same command goes on with the runs that are missing. With cores for both at
once:

    taskset -c 0,1 python benchmarks/quickstart_time.py --before /tmp/leap-before --sides ours &
    taskset -c 2,3 python benchmarks/quickstart_time.py --before /tmp/leap-before --sides before
    wait; taskset -c 0,1 python benchmarks/quickstart_time.py --before /tmp/leap-before
"""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import installed  # noqa: F401
from compared import REPOSITORY, origin, result_path
from sweep_time import responses, with_code_of

from leap.cli import Parser, count, run, some_seconds
from leap.errors import LeapError
from leap.provenance import git_state
from leap.records.json_files import read_object, write_json

SIDES = ("ours", "before")
CODE = ("configs", "leap", "scripts", "models/leap-tabletop")
REVIEW = "blind review: plans of both models, judged by the deterministic rubric"
NOW = {"blind review: plans of both models": REVIEW, "blind review: the deterministic rubric": REVIEW}  # older titles


def main() -> None:
    arguments = parse_arguments()
    checkouts = {"ours": REPOSITORY, "before": arguments.before.resolve()}
    for number in range(arguments.rounds):
        for side in sorted(arguments.sides, reverse=number % 2 == 0):
            if not kept(arguments, side, number).is_file():
                folder = kept(arguments, side, number).with_suffix("")
                write_json(kept(arguments, side, number), quickstart(checkouts[side], folder, arguments.limit))
    files = {side: [kept(arguments, side, number) for number in range(arguments.rounds)] for side in SIDES}
    if not all(file.is_file() for side in SIDES for file in files[side]):
        print("the other side's runs are missing: no result yet")
        return
    seconds = {side: [read_object(file) for file in files[side]] for side in SIDES}
    texts = {side: responses(files[side][0].with_suffix("") / "demo" / "eva_results") for side in SIDES}
    found = as_result(arguments, seconds, texts)
    for title, stage in found["stages"].items():
        print(f"{stage['before']:7.1f} -> {stage['ours']:6.1f} s, {stage['ratio']:.2f} times as fast: {title}")
    print(f"{found['ratio']} times as fast; the same {found['parity']['same_text']} of {found['parity']['of']}")
    write_json(result_path(arguments.output, found), found)


def parse_arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--before", type=Path, required=True, help="a checkout of the commit to compare with")
    add("--rounds", type=count, default=1, help="runs of each side (default %(default)s)")
    add("--sides", nargs="+", choices=SIDES, default=SIDES, help="which are run now (default: both, by turns)")
    add("--limit", type=some_seconds, help="seconds after which a run ends; its whole stages count (for every call)")
    add("--name", default="", help="added to the result's name")
    add("--workdir", type=Path, default=Path("/tmp/leap-quickstart"), help="what is made for the benchmark lies here")
    add("--output", type=Path, default=REPOSITORY / "benchmarks" / "results", help="folder to write to")
    return parser.parse_args()


def kept(arguments: argparse.Namespace, side: str, number: int) -> Path:
    return arguments.workdir.resolve() / f"{side}-{number}.json"


def quickstart(checkout: Path, folder: Path, limit: float | None) -> dict[str, float]:
    """Seconds of each stage that ended within the limit."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in CODE:
        shutil.copytree(checkout / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(checkout / "quickstart.sh", folder)
    (folder / "scripts" / "utils" / "environment.sh").write_text("leap_set_up() { :; }\n")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {"MUJOCO_GL": "egl", **with_code_of(folder), "PATH": path, "CUDA_VISIBLE_DEVICES": ""}
    seconds = run_stages(folder, environment, limit)
    print(f"{folder.name}: {sum(seconds.values()):.1f} s in {len(seconds)} stages", flush=True)
    return seconds


def run_stages(folder: Path, environment: dict[str, str], limit: float | None) -> dict[str, float]:
    """Seconds of each stage of the folder's quickstart.sh that ended within the limit."""
    starts, lines = [], []
    with subprocess.Popen(
        ["bash", "quickstart.sh"], cwd=folder, env=environment, text=True, errors="replace", start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        ending = threading.Timer(limit or threading.TIMEOUT_MAX, os.killpg, (process.pid, signal.SIGKILL))
        ending.start()
        try:
            for line in process.stdout or ():
                lines.append(line)
                if line.startswith("== "):
                    starts.append((line.removeprefix("== ").strip(), time.perf_counter()))
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            ending.cancel()
    if process.returncode and not (limit and process.returncode == -signal.SIGKILL):
        raise LeapError(f"{folder}: it ended with exit code {process.returncode}: {''.join(lines)[-2000:]}")
    return stage_seconds(starts)


def stage_seconds(starts: list[tuple[str, float]]) -> dict[str, float]:
    """From (title, when it began), of which the last did not end. Parts of what is one stage now are added."""
    seconds: dict[str, float] = {}
    for (title, began), (_, ended) in pairwise(starts):
        title = NOW.get(title, title)
        seconds[title] = seconds.get(title, 0.0) + ended - began
    last = starts[-1][0] if starts else ""
    left_out = {"set up", NOW.get(last, last)}
    return {title: round(value, 1) for title, value in seconds.items() if title not in left_out}


def as_result(
    arguments: argparse.Namespace, seconds: dict[str, list[dict[str, float]]], texts: dict[str, dict[Any, str | None]]
) -> dict[str, Any]:
    medians = {side: _medians(seconds[side]) for side in SIDES}
    both = [title for title in medians["ours"] if title in medians["before"]]
    if not both:
        raise LeapError("no stage of both sides ended: nothing to compare")
    same = [text == texts["before"][key] for key, text in texts["ours"].items() if key in texts["before"]]
    stages = {title: _compared(medians["ours"][title], medians["before"][title]) for title in both}
    whole = _compared(*(sum(medians[side][title] for title in both) for side in SIDES))
    return {
        "benchmark": f"quickstart_time{arguments.name and '_'}{arguments.name}",
        **origin("cpu"),
        "settings": {
            "before": git_state(arguments.before)["commit"],
            "rounds": arguments.rounds,
            "limit": arguments.limit,
        },
        "seed_setting": whole["before"],
        "compared_with": "as fast as an older commit's",
        "ours": whole["ours"],
        "unit": "seconds after set-up",
        "ratio": whole["ratio"],
        "parts": {f"{title}, times as fast": stage["ratio"] for title, stage in stages.items()},
        "stages": stages,
        "only": {side: {title: value for title, value in medians[side].items() if title not in both} for side in SIDES},
        "windows": seconds["ours"],
        "windows_before": seconds["before"],
        "parity": {"same_text": sum(same), "of": len(same)},
    }


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Of the stages that ended in every run."""
    return {
        title: statistics.median(run[title] for run in runs) for title in runs[0] if all(title in run for run in runs)
    }


def _compared(ours: float, before: float) -> dict[str, float]:
    return {"ours": round(ours, 1), "before": round(before, 1), "ratio": round(before / ours, 2)}


if __name__ == "__main__":
    run(main)
