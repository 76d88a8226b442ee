"""Does learning from rewards teach a model to look, more than as much further supervised training?

    LEAP_ROOT=demo python benchmarks/reinforcement.py --seeds 1 --arms "grpo --learning_rate 1e-4" "supervised"
    LEAP_ROOT=demo python benchmarks/reinforcement.py --arms "rft --num_generations 8" answers --labels best answers

From one checkpoint of the demo, each arm trains once for each seed, for the same time on two CPU cores: `grpo` on fresh
scenes; `supervised` on the demo's training file and `answers` on the reference answers of GRPO's own prompts, both by
LEAP's own trainer; `rft` samples responses to these prompts and learns what it keeps. Flags of the training script may
stand behind a name. GRPO is stopped where the time is up (give `--max_steps`, which its rate is scheduled by); how many
supervised steps it is, a short run says, and with `--gpu` a GPU takes them. `rft` does what its flags ask for
(`--num_prompts`, `--max_steps`), and the result says how long that took, sampling too. All are evaluated on scenes that
none was trained on, with their own images and with another scene's. These are more than the demo's own 108: a workspace
of another seed is made for them. Differences of `grounded` are paired by example, after each example's mean over the
seeds. Finished parts are not repeated.
"""

import os
import platform
import queue
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path
from statistics import fmean
from textwrap import fill
from typing import Any

import installed  # noqa: F401
import pandas as pd
from matplotlib.figure import Figure

from configs.config import REPOSITORY, WorkspaceConfig
from leap.cli import Parser, count, run, whole
from leap.errors import LeapError
from leap.provenance import command, device_name, git_state, versions
from leap.records.json_files import read_json, read_object, write_json
from leap.report.results import read_scores
from leap.report.style import GREY, PALETTE, clean, new_figure, save
from leap.statistics.comparison import compare
from leap.statistics.means import MEAN
from leap.supervise import start
from leap.tabletop.demo_workspace import make_fresh_samples
from leap.training.training_report import REPORT

GRPO, FINETUNE = "scripts/training/run-grpo.py", "scripts/training/run-finetuning.py"
EVALUATE, MAKE = "scripts/evaluation/run_vlm_evaluation.py", "scripts/utils/make_demo_workspace.py"
RESULTS = "eva_reinforcement"
ARMS = {"grpo": "demo-grpo", "rft": "demo-rft", "supervised": "demo", "answers": "demo"}  # and their recipes
_TRIAL = 40  # supervised steps whose speed is measured
_SAMPLED = "rewards/grounded/mean"
_TO_SAVE = 300.0  # seconds for the step at hand and a checkpoint
_ONE_TRIAL = threading.Lock()
_ON_CPU = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2"}
_TWO_RANKS = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "NUM_GPUS": "2"}  # small steps gain little by threads
_ASKED = "--prompt leap --scorer leap --max_new_tokens 200 --batch_size 108 --dimension all --dtype float32"


def main() -> None:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--start", default="output/checkpoint-720", help="the checkpoint that all runs start from")
    add("--arms", nargs="+", default=["grpo", "supervised"], help=f"{', '.join(ARMS)}, each with flags of its own")
    add("--labels", nargs="+", help="what the arms are called in the results and the figure (default: as given)")
    add("--seeds", type=count, default=3, help="runs of each arm")
    add("--seconds", type=count, default=600, help="that each run trains")
    add("--at_once", type=count, default=1, help="runs at the same time, on two cores each")
    add("--gpu", action="store_true", help="supervised runs take their steps on the GPU")
    add("--prompts", type=count, default=2000, help="fresh scenes that GRPO asks about")
    add("--examples_per_task", type=count, default=24, help="validation scenes of each of the 18 tasks")
    add("--validation_seed", type=whole, default=7, help="of these scenes (default %(default)s)")
    add("--output", type=Path, default=REPOSITORY / "benchmarks" / "results", help="folder to write to")
    arguments = parser.parse_args()
    if len(arguments.labels or arguments.arms) != len(arguments.arms):
        parser.error(f"--labels: one for each of the {len(arguments.arms)} arms")
    labels = dict(zip(arguments.arms, arguments.labels or arguments.arms, strict=True))
    workspace = WorkspaceConfig.find()
    root, start = workspace.root, workspace.root / arguments.start

    scenes = validation_scenes(root, arguments.examples_per_task, arguments.validation_seed)
    prompts = make_fresh_samples(root, arguments.prompts, seed=1)
    bench = Bench(root, start, prompts, arguments.seconds, arguments.gpu)
    runs = [Run(arm, seed) for arm in arguments.arms for seed in range(1, arguments.seeds + 1)]
    pool = Cores(arguments.at_once)
    pool.each(bench.train, runs)
    pool.each(
        lambda one: evaluate(one[0], one[1], scenes, {} if arguments.gpu else _ON_CPU),
        [("start", start), *((one.name, bench.newest(one)) for one in runs)],
    )
    names, seconds = {"start": ["start"]}, dict[str, list[float]]()
    for one in runs:
        names.setdefault(labels[one.arm], []).append(one.name)
        seconds.setdefault(labels[one.arm], []).append(bench.seconds_of(one))
    rewarded = {labels[one.arm] for one in runs if one.method in ("grpo", "rft")}
    found = results(workspace.eva_results.with_name(RESULTS), names, rewarded)
    aside = {"supervised_and_evaluated_on": device_name("cuda" if arguments.gpu else "cpu")}
    where = {
        "device": f"{platform.machine()} CPU, 2 threads",
        **aside,
        "command": command(),
        **git_state(REPOSITORY),
        "versions": versions(),
    }
    found["sampled"] = {labels[arm]: bench.sampled(runs, arm) for arm in arguments.arms if arm.startswith("grpo")}
    ours, *others = labels.values()
    means = {arm: found["grounded"][arm] for arm in ("start", *others)}
    page = {"benchmark": "reinforcement", "ours": found["grounded"][ours], "unit": f"grounded, {ours}", "parts": means}
    write_json(arguments.output / "reinforcement-cpu.json", {**page, **where, "seconds": seconds, **found})
    save(figure(found), arguments.output / "reinforcement", ["png"])
    for name, row in found["comparisons"].items():
        print(f"{name}: {row['difference']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}], p {row['p']:.4f}")


@dataclass(frozen=True)
class Run:
    """One of an arm's runs. `arm` is a method's name and its own flags."""

    arm: str
    seed: int

    @property
    def method(self) -> str:
        return self.arm.split()[0]

    @property
    def name(self) -> str:
        """Of its folder and of its results."""
        return "_".join([re.sub(r"[^\w.]+", "_", self.arm), str(self.seed)])


@dataclass(frozen=True)
class Bench:
    """What all runs have in common: where they start, the prompts, and the time that each has."""

    root: Path
    start: Path
    prompts: Path
    seconds: int
    gpu: bool

    def train(self, run: Run) -> None:
        """Where it was stopped short of its time, for the rest of it."""
        done = self.root / "output" / f"{run.name}.done"
        if not done.is_file():
            started = time.monotonic()
            self._train(run)
            write_json(done, {"seconds": time.monotonic() - started})

    def _train(self, run: Run) -> None:
        given = ["--recipe", ARMS[run.method], "--model_name_or_path", self.start, "--seed", run.seed]
        if run.method != "supervised":
            given += ["--train_file", self.prompts]
        if run.method == "grpo":
            given += ["--eval_benchmark", "null", "--logging_steps", 1]  # the others measure nothing meanwhile either
        given += [*shlex.split(run.arm)[1:], "--output_dir", f"output/{run.name}"]
        if run.method in ("grpo", "rft"):
            limit = max(1.0, self.seconds - self.seconds_of(run)) if run.method == "grpo" else None
            call(GRPO, *given, environment=_TWO_RANKS if run.method == "grpo" else _ON_CPU, limit=limit)
            return
        steps = self._steps_in_time()
        call(FINETUNE, *given, "--max_steps", steps, "--save_steps", steps, environment={} if self.gpu else _ON_CPU)

    def _steps_in_time(self) -> int:
        """How many supervised steps two cores take in the time."""
        with _ONE_TRIAL:
            return self._try_steps()

    def _try_steps(self) -> int:
        flags = ["--recipe", "demo", "--model_name_or_path", self.start, "--output_dir", "output/trial"]
        steps = ["--max_steps", _TRIAL, "--save_steps", _TRIAL, "--warmup_steps", 2]
        call(FINETUNE, *flags, *steps, environment=_ON_CPU)
        sessions = read_json(self.root / "output" / "trial" / REPORT)["throughput"]["sessions"]
        speed = sum(one["steps"] for one in sessions) / sum(one["seconds"] for one in sessions)
        return max(_TRIAL, round(self.seconds * speed))

    def newest(self, run: Run) -> Path:
        folder = self.root / "output" / run.name
        found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        if not found:
            raise LeapError(f"{folder}: no checkpoint; give more --seconds")
        return found[-1]

    def seconds_of(self, run: Run) -> float:
        """That its newest checkpoint has trained; of rejection sampling that all of it took, sampling too."""
        done = self.root / "output" / f"{run.name}.done"
        if run.method == "rft" and done.is_file():
            return float(read_object(done)["seconds"])
        report = self.root / "output" / run.name / REPORT
        return sum(one["seconds"] for one in read_json(report)["throughput"]["sessions"]) if report.is_file() else 0.0

    def sampled(self, runs: Sequence[Run], arm: str) -> list[float]:
        """`grounded` of the responses that were learned from, at each step, mean over the seeds."""
        reports = [read_json(self.root / "output" / run.name / REPORT) for run in runs if run.arm == arm]
        logged = [[one[_SAMPLED] for one in report["history"] if _SAMPLED in one] for report in reports]
        return [100 * fmean(step) for step in zip(*logged, strict=False)]


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


def validation_scenes(root: Path, examples: int, seed: int) -> Path:
    """A benchmark of other scenes, in a workspace of its own beside this one."""
    place = root.with_name(f"{root.name}_validation")
    call(MAKE, "--root", place, "--seed", seed, "--examples_per_task", examples, "--training_samples", 3)
    return place / "dataset" / "vlm_evaluation_v1.0"


def evaluate(name: str, checkpoint: Path, scenes: Path, environment: Mapping[str, str]) -> None:
    """Answer all scenes, with their own images and with another scene's."""
    where = ["--data_path", scenes, "--output_dir", WorkspaceConfig.find().eva_results.with_name(RESULTS)]
    for control in ("none", "swapped"):
        asked = ["--model_name", name, "--image_control", control, *where, *_ASKED.split()]
        call(EVALUATE, "--checkpoint", checkpoint, *asked, environment=environment)


def results(folder: Path, names: dict[str, list[str]], rewarded: Collection[str]) -> dict[str, Any]:
    """Means of `grounded`, and paired differences of methods, each example's score being its mean over the seeds: of
    each from the start, and of those that learn from rewards from the others too."""
    scores = read_scores(folder)
    frames = []
    for method, runs in names.items():
        for suffix, label in (("", method), ("_swapped", f"{method}, other images")):
            mine = scores[scores["model"].isin([f"{run}{suffix}" for run in runs])]
            keys = ["dimension", "task", "example"]
            frames.append(mine.groupby(keys, as_index=False)["grounded"].mean().assign(model=label))
    table = pd.concat(frames)
    rows: dict[str, Any] = {}
    arms = [one for one in names if one != "start"]
    pairs = [(one, "start") for one in arms]
    pairs += [(one, other) for one in arms for other in arms if one in rewarded and other != one]
    for ours, theirs in pairs:
        compared = compare(table, ours, theirs, "grounded").set_index("dimension").loc[MEAN]
        rows[f"{ours} - {theirs}"] = {name: float(compared[name]) for name in ("difference", "low", "high", "p")}
    means = table.groupby(["model", "dimension"])["grounded"].mean().groupby("model").mean()
    runs = scores.groupby(["model", "dimension"])[["grounded", "length_ratio"]].mean().groupby("model").mean()
    return {"grounded": means.to_dict(), "runs": runs.to_dict("index"), "comparisons": rows}


def figure(found: Mapping[str, Any]) -> Figure:
    """How far each arm lies above the start; what it has with its scenes' own images and with other ones; and what
    GRPO's own responses named right meanwhile."""
    panels = 3 if found["sampled"] else 2
    shown = new_figure(2 + 4 * panels, 3.2, "Learning from rewards, and supervised training for the same time")
    left, middle, *right = shown.subplots(1, panels)
    arms = [name.removesuffix(" - start") for name in found["comparisons"] if name.endswith(" - start")]
    colours = dict(zip(arms, cycle(PALETTE), strict=False)) | {"start": GREY}
    for place, arm in enumerate(reversed(arms)):
        row = found["comparisons"][f"{arm} - start"]
        left.plot([row["low"], row["high"]], [place, place], color=colours[arm], linewidth=2)
        left.plot([row["difference"]], [place], color=colours[arm], marker="o", linestyle="")
    clean(left, "x").axvline(0, color=GREY, linewidth=1)
    left.set_yticks(range(len(arms)), [fill(arm, 28) for arm in reversed(arms)])
    left.set_ylim(-0.6, len(arms) - 0.4)
    left.set_xlabel("grounded, above the start (95 % interval)")
    names = [*reversed(arms), "start"]
    for place, arm in enumerate(names):
        own, other = found["grounded"][arm], found["grounded"][f"{arm}, other images"]
        middle.plot([other, own], [place, place], color=colours[arm], linewidth=1)
        middle.plot([own], [place], color=colours[arm], marker="o")
        middle.plot([other], [place], color=colours[arm], marker="o", markerfacecolor="white")
    clean(middle, "x").set_yticks(range(len(names)), [fill(arm, 28) for arm in names])
    middle.set_ylim(-0.6, len(names) - 0.4)
    middle.set_xlim(left=0)
    middle.set_xlabel("grounded: own images (full), others (empty)")
    for axes, (arm, values) in product(right, found["sampled"].items()):
        smooth = pd.Series(values).rolling(12, center=True, min_periods=4).mean()
        clean(axes, "both").plot(smooth, color=colours[arm], label=arm)
        axes.set_xlabel("step (fresh prompts, running mean of 12)")
        axes.set_ylabel("grounded of sampled responses")
    return shown


def call(script: str, *arguments: Any, environment: Mapping[str, str] = {}, limit: float | None = None) -> None:
    """A script of LEAP's, which goes on where it was stopped; after `limit` seconds it is asked to save and end. What
    it prints is shown."""
    words = [sys.executable, "-m", "leap.launch", str(REPOSITORY / script), *map(str, arguments)]
    print("$ " + shlex.join(words[3:]), flush=True)
    started = time.monotonic()
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = start(words, _TO_SAVE, env={**os.environ, "PYTHONPATH": path, **environment})
    right = 0
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        process.terminate()
        code, right = process.wait(), 128 + signal.SIGTERM  # what a script says that has saved
    if code not in (0, right):
        raise LeapError(f"{script}: it ended with {code}")
    print(f"({time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    run(main)
