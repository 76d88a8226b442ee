"""Does learning from rewards teach a model to look, more than as much further supervised training?

    LEAP_ROOT=demo python benchmarks/reinforcement.py
    LEAP_ROOT=demo python benchmarks/reinforcement.py --seeds 1 --methods grpo --grpo_args "--learning_rate 5e-5"

From one checkpoint of the demo, for each seed a run of GRPO on fresh scenes; one of LEAP's own trainer on the demo's
training file (`supervised`); where asked for, one of it on the reference answers of GRPO's own prompts (`answers`), and
one of rejection sampling. Each trains on two CPU cores for the same `--seconds`: how many steps that is, a short run of
each method says. All are evaluated on scenes that none was trained on, with their own images and with another scene's.
These are more than the demo's own 108: a workspace of another seed is made for them. Differences of `grounded` are
paired by example, after each example's mean over the seeds. Finished parts are not repeated.
"""

import os
import queue
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import installed  # noqa: F401
import pandas as pd

from configs.config import REPOSITORY, WorkspaceConfig
from leap.cli import Parser, count, run
from leap.errors import LeapError
from leap.provenance import command, device_name, git_state, versions
from leap.records.json_files import read_json, write_json
from leap.report.results import read_scores
from leap.statistics.comparison import compare
from leap.statistics.means import MEAN
from leap.tabletop.demo_workspace import make_fresh_samples
from leap.training.training_report import REPORT

GRPO, FINETUNE = "scripts/training/run-grpo.py", "scripts/training/run-finetuning.py"
EVALUATE, MAKE = "scripts/evaluation/run_vlm_evaluation.py", "scripts/utils/make_demo_workspace.py"
RESULTS = "eva_reinforcement"
_TRIAL = {"grpo": 8, "supervised": 40, "answers": 40}  # steps whose speed is measured
_ASKED = "--prompt leap --scorer leap --max_new_tokens 200 --batch_size 36 --dimension all --dtype float32"


def main() -> None:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--start", default="output/checkpoint-720", help="the checkpoint that all runs start from")
    add("--seeds", type=count, default=3, help="runs of each method")
    add("--methods", nargs="+", choices=(*_TRIAL, "rft"), default=["grpo", "supervised"], help="which")
    add("--seconds", type=count, default=600, help="that each run trains, but for rejection sampling")
    add("--at_once", type=count, default=1, help="runs at the same time, on two cores each")
    add("--prompts", type=count, default=2000, help="fresh scenes that GRPO asks about")
    add("--grpo_args", type=shlex.split, default=[], help="flags of run-grpo.py beside --recipe demo-grpo")
    add("--rft_args", type=shlex.split, default=[], help="the same beside --recipe demo-rft")
    add("--supervised_args", type=shlex.split, default=[], help="flags of run-finetuning.py beside --recipe demo")
    add("--answers_args", type=shlex.split, default=[], help="the same, of the runs on the prompts' answers")
    add("--examples_per_task", type=count, default=24, help="validation scenes of each of the 18 tasks")
    add("--output", type=Path, default=REPOSITORY / "benchmarks" / "results", help="folder to write to")
    arguments = parser.parse_args()
    workspace = WorkspaceConfig.find()

    scenes = validation_scenes(workspace.root, arguments.examples_per_task)
    prompts = make_fresh_samples(workspace.root, arguments.prompts, seed=1)
    pool = Cores(arguments.at_once)
    timed = [method for method in arguments.methods if method in _TRIAL]
    pool.each(lambda method: train(method, "trial", 0, _TRIAL[method], prompts, arguments), timed)
    steps = {method: steps_in(arguments.seconds, workspace.root / folder_of(method, "trial")) for method in timed}
    runs = [(method, seed) for seed in range(1, arguments.seeds + 1) for method in arguments.methods]
    pool.each(lambda one: train(one[0], one[1], one[1], steps.get(one[0]), prompts, arguments), runs)

    evaluated = {"start": [workspace.root / arguments.start]}
    seconds: dict[str, list[float]] = {}
    for method, seed in runs:
        folder = workspace.root / folder_of(method, seed)
        evaluated.setdefault(method, []).append(newest(folder))
        sessions = read_json(folder / REPORT)["throughput"]["sessions"]
        seconds.setdefault(method, []).append(sum(one["seconds"] for one in sessions))
    names = {method: [name_of(method, one) for one in found] for method, found in evaluated.items()}
    asked = [(one, name_of(method, one)) for method, found in evaluated.items() for one in found]
    pool.each(lambda one: evaluate(*one, scenes), asked)
    found = results(workspace.eva_results.with_name(RESULTS), names)
    where = {"device": device_name("cpu"), "command": command(), **git_state(REPOSITORY), "versions": versions()}
    write_json(arguments.output / "reinforcement-cpu.json", {**where, "steps": steps, "seconds": seconds, **found})
    for name, row in found["comparisons"].items():
        print(f"{name}: {row['difference']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}], p {row['p']:.4f}")


class Cores:
    """Work for `at_once` threads, each with two cores of its own."""

    def __init__(self, at_once: int) -> None:
        cores = sorted(os.sched_getaffinity(0))
        if 2 * at_once > len(cores) and at_once > 1:
            raise LeapError(f"--at_once {at_once}: there are {len(cores)} cores, and a run has two")
        self._at_once = at_once
        self._free: queue.Queue[set[int]] = queue.Queue()
        for number in range(at_once):
            self._free.put(set(cores[2 * number : 2 * number + 2]))

    def each(self, work: Callable[[Any], None], given: Iterable[Any]) -> None:
        with ThreadPoolExecutor(self._at_once) as threads:
            list(threads.map(lambda one: self._pinned(work, one), given))

    def _pinned(self, work: Callable[[Any], None], one: Any) -> None:
        cores = self._free.get()
        try:
            os.sched_setaffinity(0, cores)  # of this thread, and of the processes that it starts
            work(one)
        finally:
            self._free.put(cores)


def validation_scenes(root: Path, examples: int) -> Path:
    """A benchmark of other scenes, in a workspace of its own beside this one."""
    place = root.with_name(f"{root.name}_validation")
    call(MAKE, "--root", place, "--seed", 7, "--examples_per_task", examples, "--training_samples", 3)
    return place / "dataset" / "vlm_evaluation_v1.0"


def folder_of(method: str, run: Any) -> str:
    return f"output/{method}_{run}"


def train(method: str, name: Any, seed: int, steps: int | None, prompts: Path, arguments: Any) -> None:
    script = FINETUNE if method in ("supervised", "answers") else GRPO
    recipe = "demo" if script == FINETUNE else f"demo-{method}"
    given = ["--recipe", recipe, "--model_name_or_path", arguments.start, "--output_dir", folder_of(method, name)]
    given += ["--seed", seed]
    if method in ("grpo", "answers"):
        given += ["--train_file", prompts]
    if method == "grpo":
        given += ["--eval_benchmark", "null"]  # the others measure nothing meanwhile either
    if steps is not None:
        given += ["--max_steps", steps, "--save_steps", steps]
    call(script, *given, *getattr(arguments, f"{method}_args"), CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="2")


def steps_in(seconds: int, trial: Path) -> int:
    """How many steps take so long, by a short run."""
    (session,) = read_json(trial / REPORT)["throughput"]["sessions"]
    return max(1, round(seconds * session["steps"] / session["seconds"]))


def newest(folder: Path) -> Path:
    return max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def name_of(method: str, checkpoint: Path) -> str:
    return method if method == "start" else checkpoint.parent.name


def evaluate(checkpoint: Path, name: str, scenes: Path) -> None:
    """Answer all scenes, with their own images and with another scene's."""
    where = ["--data_path", scenes, "--output_dir", WorkspaceConfig.find().eva_results.with_name(RESULTS)]
    for control in ("none", "swapped"):
        asked = ["--model_name", name, "--image_control", control, *where, *_ASKED.split()]
        call(EVALUATE, "--checkpoint", checkpoint, *asked)


def results(folder: Path, names: dict[str, list[str]]) -> dict[str, Any]:
    """Means of `grounded`, and paired differences of methods, each example's score being its mean over the seeds."""
    scores = read_scores(folder)
    frames = []
    for method, runs in names.items():
        for suffix, label in (("", method), ("_swapped", f"{method}, other images")):
            mine = scores[scores["model"].isin([f"{run}{suffix}" for run in runs])]
            keys = ["dimension", "task", "example"]
            frames.append(mine.groupby(keys, as_index=False)["grounded"].mean().assign(model=label))
    table = pd.concat(frames)
    rows: dict[str, Any] = {}
    pairs = [(one, "start") for one in names if one != "start"] + [
        ("grpo", one) for one in ("supervised", "answers", "rft")
    ]
    for ours, theirs in pairs:
        if {ours, theirs} <= names.keys():
            compared = compare(table, ours, theirs, "grounded").set_index("dimension").loc[MEAN]
            rows[f"{ours} - {theirs}"] = {name: float(compared[name]) for name in ("difference", "low", "high", "p")}
    means = table.groupby(["model", "dimension"])["grounded"].mean().groupby("model").mean()
    runs = scores.groupby(["model", "dimension"])[["grounded", "length_ratio"]].mean().groupby("model").mean()
    return {"grounded": means.to_dict(), "runs": runs.to_dict("index"), "comparisons": rows}


def call(script: str, *arguments: Any, **environment: str) -> None:
    """A script of LEAP's, which goes on where it was stopped. What it prints is shown."""
    words = [sys.executable, str(REPOSITORY / script), *map(str, arguments)]
    print("$ " + shlex.join(words[1:]), flush=True)
    started = time.monotonic()
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    known = {**os.environ, "PYTHONPATH": path, **environment}
    if code := subprocess.run(words, env=known, check=False).returncode:
        raise LeapError(f"{script}: it ended with {code}")
    print(f"({time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    run(main)
