"""Evaluation speed over several GPUs against one: the same requests over Ray, by one worker, then by one on each GPU.

    python benchmarks/evaluation_scaling.py --workdir /tmp/leap-speed
    python benchmarks/evaluation_scaling.py --device cpu --jobs 2 --model models/tiny --image_tokens 4 9 \\
        --new_tokens 8 --examples 96 --warm_up 16

The workers are those of `run_vlm_evaluation.py --ray_address local`, one a GPU, with the examples and the forced length
of evaluation_throughput.py. "ours" is over the time in which all are loaded and compiled: each worker's rate from its
answer --warm_up (a batch, whose time is compiling) to its last one, and the sum of these. "To the last answer" counts
from the last worker's warm-up, with the end, where one worker waits for another; "with start-up" is the whole, from
starting Ray on.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import installed  # noqa: F401
from compared import add_arguments, dtype_of, free_memory, origin, result_path
from evaluation_throughput import windows
from full_size import make_model, make_requests

from leap.cli import Parser, count, run
from leap.data.image import ImageSize
from leap.errors import LeapError, UsageError
from leap.evaluation.settings import EvaluatedModel
from leap.hardware import usable_cores, visible_gpus
from leap.inference.engines import EngineOptions, ModelToOpen
from leap.inference.protocol import Decoding, Request, Response
from leap.jobs.ray_cluster import LOCAL, connected
from leap.jobs.ray_pool import RayPool
from leap.models.checkpoints import small_files, weights_hash
from leap.models.loading import load_processor
from leap.records.json_files import write_json


@dataclass(eq=False)
class Asked:
    """All requests of a run, and when each worker gave its answers, in seconds from the run's start."""

    model: EvaluatedModel
    requests: list[Request]
    failure: LeapError | None = None
    worker: int = 0  # whose answers are recorded now
    ends: dict[int, list[float]] = field(default_factory=dict)
    responses: list[Response] = field(default_factory=list)
    engine: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def open(self) -> None: ...

    def close(self) -> None: ...

    def note_engine(self, described: dict[str, Any], again: bool = False) -> None:
        self.engine = described

    def sync(self) -> None: ...

    def record(self, response: Response, seconds: float, sync: bool = True) -> None:
        self.ends.setdefault(self.worker, []).append(time.perf_counter() - self.started)
        self.responses.append(response)


class TimedPool(RayPool):
    """The pool of an evaluation, which says whose answers come."""

    def _hear_shard(self, worker: Any, shard: Any, call: Any) -> None:
        shard.task.work.worker = worker.number
        super()._hear_shard(worker, shard, call)


def main() -> None:
    arguments = parse_arguments()
    on_gpus = arguments.device != "cpu"
    gpus = visible_gpus() if on_gpus else []
    jobs = arguments.jobs or len(gpus)
    if jobs < 2 or (on_gpus and jobs > len(gpus)):
        raise UsageError(f"{len(gpus)} GPU(s) are visible: two are needed, or --device cpu --jobs 2")
    where = origin(arguments.device)
    model = arguments.model or arguments.workdir / "qwen3-vl-2b"
    if not (model / "config.json").is_file():
        make_model(model, arguments.device)
    free_memory(arguments.device)
    requests = make_requests(arguments.workdir / "images", arguments.examples, load_processor(model).tokenizer)
    found = {number: measure(model, requests, gpus[:number], number, arguments) for number in (1, jobs)}
    result = {**where, **as_result(found[1], found[jobs], jobs, arguments)}
    result["device"] = f"{jobs} x {where['device']}" if on_gpus else where["device"]
    print(f"{jobs} workers: {result['ours']} examples/s, {result['scaling']} times one's {result['one_gpu']['ours']}")
    print("; ".join(f"{ratio} {name}" for name, ratio in result["parts"].items()))
    write_json(result_path(arguments.output, result), result)


def parse_arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    add_arguments(parser)
    add = parser.add_argument
    add("--model", type=Path, help="model folder (default: the full size, random weights)")
    add("--jobs", type=count, help="workers, one a GPU (default: all visible GPUs)")
    add("--examples", type=count, default=768, help="of each run; 512 and more are compiled (default %(default)s)")
    add("--warm_up", type=count, default=64, help="first answers of each worker, not timed (default %(default)s)")
    add("--new_tokens", type=count, default=128, help="of every answer (default %(default)s)")
    arguments = parser.parse_args()
    if len(arguments.engines) > 1:
        raise UsageError("--engines: one at a time")
    return arguments


def measure(
    folder: Path, requests: Sequence[Request], gpus: Sequence[str], jobs: int, arguments: argparse.Namespace
) -> Asked:
    given = {name: getattr(arguments, name) for name in ("batch_size", "vllm_python", "vllm_args")}
    options = EngineOptions(arguments.engines[0], {name: value for name, value in given.items() if value})
    model = EvaluatedModel("model", folder, weights=weights_hash(folder), files=small_files(folder))
    decoding = Decoding(arguments.new_tokens, min_new_tokens=arguments.new_tokens)
    asked = Asked(model, list(requests))
    to_open = partial(opened, arguments=arguments, log=arguments.workdir / f"vllm-{jobs}.log")
    with connected(LOCAL, jobs, gpus=gpus):
        list(TimedPool(options, int(bool(gpus)), jobs).answer([asked], decoding, to_open))
    failed = [response.error for response in asked.responses if response.error]
    if asked.failure or failed:
        raise asked.failure or LeapError(f"{len(failed)} of {len(requests)} requests failed: {failed[0]}")
    for worker, ends in sorted(asked.ends.items()):
        print(f"{jobs} at once, worker {worker}: {len(ends)} answers, {ends[0]:.0f} s to {ends[-1]:.0f} s", flush=True)
    return asked


def opened(model: EvaluatedModel, arguments: argparse.Namespace, log: Path) -> ModelToOpen:
    size, dtype = ImageSize(*arguments.image_tokens), dtype_of(arguments)
    return ModelToOpen(model.folder, None, size, arguments.device, dtype, arguments.workdir, log)


def as_result(one: Asked, all_of_them: Asked, jobs: int, arguments: argparse.Namespace) -> dict[str, Any]:
    alone, together = (rates(asked.ends, arguments.warm_up) for asked in (one, all_of_them))
    if len(together["workers"]) < jobs:
        raise LeapError(f"{len(together['workers'])} of {jobs} workers answered: give more --examples")
    tokens = [response.new_tokens or 0 for response in all_of_them.responses]
    engine = arguments.engines[0]
    return {
        "benchmark": f"evaluation_scaling_{engine}",
        "settings": {
            "engine": all_of_them.engine,
            "workers": jobs,
            "cores": usable_cores(),
            "examples": len(tokens),
            "warm_up": arguments.warm_up,
            "prompt_tokens": median(response.prompt_tokens or 0 for response in all_of_them.responses),
            "new_tokens": sum(tokens) / len(tokens),
        },
        "unit": "examples per second",
        "timed": "ours: the sum of each worker's rate from its answer warm_up to its last; to_the_last_answer: all "
        "answers from the last worker's warm_up on, with the end; with_start_up: all, from starting Ray on",
        **together,
        "one_gpu": alone,
        "scaling": round(together["ours"] / alone["ours"], 3),
        "parts": {
            f"times one GPU, {name}": round(together[key] / alone[key], 3)
            for name, key in (("to the last answer", "to_the_last_answer"), ("with start-up", "with_start_up"))
        },
    }


def rates(ends: dict[int, list[float]], warm_up: int) -> dict[str, Any]:
    """Answers a second, by the seconds at which each worker gave its answers."""
    if any(len(times) <= warm_up for times in ends.values()):
        raise LeapError(f"a worker gave {min(map(len, ends.values()))} answers, all warm-up: give more --examples")
    each = [(len(times) - warm_up) / (times[-1] - times[warm_up - 1]) for _, times in sorted(ends.items())]
    warm = max(times[warm_up - 1] for times in ends.values())
    everything = sorted(time for times in ends.values() for time in times)
    after = [time for time in everything if time > warm]
    return {
        "ours": round(sum(each), 3),
        "to_the_last_answer": round(len(after) / (everything[-1] - warm), 3),
        "with_start_up": round(len(everything) / everything[-1], 3),
        "warm_after_seconds": round(warm, 1),
        "seconds": round(everything[-1], 1),
        "windows": [windows([time - times[warm_up - 1] for time in times[warm_up:]]) for times in ends.values()],
        "workers": [round(rate, 3) for rate in each],
    }


if __name__ == "__main__":
    run(main)
