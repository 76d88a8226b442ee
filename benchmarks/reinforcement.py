"""Does learning from rewards teach a model to look, more than as much further supervised training?

    LEAP_ROOT=demo python benchmarks/reinforcement.py
    LEAP_ROOT=demo python benchmarks/reinforcement.py --seeds 1 --grpo_args "--max_steps 100 --learning_rate 5e-5"

From one checkpoint of the demo, for each seed a run of GRPO, one of LEAP's own trainer on the same training file that
takes as long, and, where asked for, one of rejection sampling; each evaluated on scenes that none was trained on, with
their own images and with another scene's. The scenes are more than the demo's own 108: a workspace of another seed is
made for them. Differences of `grounded` are paired by example, after each example's mean over the seeds. Finished parts
are not repeated.
"""

import os
import shlex
import subprocess
import sys
import time
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
from leap.training.training_report import REPORT

GRPO, FINETUNE = "scripts/training/run-grpo.py", "scripts/training/run-finetuning.py"
EVALUATE, MAKE = "scripts/evaluation/run_vlm_evaluation.py", "scripts/utils/make_demo_workspace.py"
RESULTS = "eva_reinforcement"
_TRIAL = 30  # steps of supervised training whose speed is measured
_ASKED = "--prompt leap --scorer leap --max_new_tokens 200 --batch_size 36 --dimension all"


def main() -> None:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--start", default="output/checkpoint-720", help="the checkpoint that all runs start from")
    add("--seeds", type=count, default=3, help="runs of each method")
    add("--methods", nargs="+", choices=("grpo", "supervised", "rft"), default=["grpo", "supervised"], help="which")
    add("--grpo_args", type=shlex.split, default=[], help="flags of run-grpo.py beside --recipe demo-grpo")
    add("--rft_args", type=shlex.split, default=[], help="the same beside --recipe demo-rft")
    add("--supervised_args", type=shlex.split, default=[], help="flags of run-finetuning.py beside --recipe demo")
    add("--examples_per_task", type=count, default=24, help="validation scenes of each of the 18 tasks")
    add("--output", type=Path, default=REPOSITORY / "benchmarks" / "results", help="folder to write to")
    arguments = parser.parse_args()
    workspace = WorkspaceConfig.find()

    scenes = validation_scenes(workspace.root, arguments.examples_per_task)
    seconds: dict[str, list[float]] = {}
    evaluated = {"start": [workspace.root / arguments.start]}
    for seed in range(1, arguments.seeds + 1):
        for method in sorted(arguments.methods):  # GRPO first: the supervised run takes as long
            folder = f"output/{method}_{seed}"
            limit = seconds["grpo"][-1] if method == "supervised" and "grpo" in seconds else None
            train(method, folder, seed, arguments, limit)
            report = read_json(workspace.root / folder / REPORT)
            seconds.setdefault(method, []).append(sum(one["seconds"] for one in report["throughput"]["sessions"]))
            evaluated.setdefault(method, []).append(newest(workspace.root / folder))
    names = {method: [evaluate(folder, scenes, method) for folder in found] for method, found in evaluated.items()}
    found = results(workspace.eva_results.with_name(RESULTS), names)
    where = {"device": device_name("cpu"), "command": command(), **git_state(REPOSITORY), "versions": versions()}
    write_json(arguments.output / "reinforcement-cpu.json", {**where, "seconds": seconds, **found})
    for name, row in found["comparisons"].items():
        print(f"{name}: {row['difference']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}], p {row['p']:.4f}")


def validation_scenes(root: Path, examples: int) -> Path:
    """A benchmark of other scenes, in a workspace of its own beside this one."""
    place = root.with_name(f"{root.name}_validation")
    call(MAKE, "--root", place, "--seed", 7, "--examples_per_task", examples, "--training_samples", 3)
    return place / "dataset" / "vlm_evaluation_v1.0"


def train(method: str, folder: str, seed: int, arguments: Any, limit: float | None) -> None:
    shared = ["--model_name_or_path", arguments.start, "--output_dir", folder, "--seed", seed]
    if method != "supervised":
        alone = ["--eval_benchmark", "null"]  # the others measure nothing meanwhile either
        call(GRPO, "--recipe", f"demo-{method}", *shared, *alone, *getattr(arguments, f"{method}_args"))
        return
    given = [*shared, *arguments.supervised_args]
    if limit is not None and "--max_steps" not in given:
        given += ["--max_steps", supervised_steps(limit, arguments)]
    call(FINETUNE, "--recipe", "demo", *given)


def supervised_steps(limit: float, arguments: Any) -> int:
    """How many steps take so many seconds, by a short run."""
    trial = "output/supervised_trial"
    begun = [
        "--model_name_or_path",
        arguments.start,
        "--output_dir",
        trial,
        "--max_steps",
        _TRIAL,
        "--save_steps",
        _TRIAL,
    ]
    call(FINETUNE, "--recipe", "demo", *begun, "--warmup_steps", 2, *arguments.supervised_args)
    (session,) = read_json(WorkspaceConfig.find().root / trial / REPORT)["throughput"]["sessions"]
    return max(100, round(limit * session["steps"] / session["seconds"]))


def newest(folder: Path) -> Path:
    return max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def evaluate(checkpoint: Path, scenes: Path, method: str) -> str:
    """Answer all scenes, with their own images and with another scene's; the name of the results."""
    name = method if method == "start" else checkpoint.parent.name
    where = ["--data_path", scenes, "--output_dir", WorkspaceConfig.find().eva_results.with_name(RESULTS)]
    for control in ("none", "swapped"):
        asked = ["--model_name", name, "--image_control", control, *where, *_ASKED.split()]
        call(EVALUATE, "--checkpoint", checkpoint, *asked)
    return name


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
    pairs = [(one, "start") for one in names if one != "start"] + [("grpo", "supervised"), ("grpo", "rft")]
    for ours, theirs in pairs:
        if {ours, theirs} <= names.keys():
            compared = compare(table, ours, theirs, "grounded").set_index("dimension").loc[MEAN]
            rows[f"{ours} - {theirs}"] = {name: float(compared[name]) for name in ("difference", "low", "high", "p")}
    means = table.groupby(["model", "dimension"])["grounded"].mean().groupby("model").mean()
    runs = scores.groupby(["model", "dimension"])[["grounded", "length_ratio"]].mean().groupby("model").mean()
    return {"grounded": means.to_dict(), "runs": runs.to_dict("index"), "comparisons": rows}


def call(script: str, *arguments: Any) -> None:
    """A script of LEAP's, which goes on where it was stopped. What it prints is shown."""
    words = [sys.executable, str(REPOSITORY / script), *map(str, arguments)]
    print("$ " + shlex.join(words[1:]), flush=True)
    started = time.monotonic()
    if code := subprocess.run(words, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=False).returncode:
        raise LeapError(f"{script}: it ended with {code}")
    print(f"({time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    run(main)
