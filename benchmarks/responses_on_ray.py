"""How many responses a second one evaluation over Ray can take: its driver alone writes those of all workers.

    python benchmarks/responses_on_ray.py --workspace demo --checkpoint demo/output/checkpoint-400

Workers load no model and answer at once, all with one text. The rest is that of `run_vlm_evaluation.py --ray_address
local`: Ray, what is kept of each response, and the disk of --workdir. Timed is from the first response to the last.
"""

import argparse
import runpy
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import installed  # noqa: F401
from compared import REPOSITORY, origin, result_path

from leap.cli import Parser, count, run
from leap.evaluation.evaluate import ModelRun
from leap.inference.engines import ModelToOpen
from leap.inference.protocol import Decoding, Request, Response
from leap.jobs import ray_pool
from leap.models.checkpoints import small_files, weights_hash
from leap.records.json_files import write_json

SCRIPT = REPOSITORY / "scripts" / "evaluation" / "run_vlm_evaluation.py"
STEP = '{"name": "pick", "params": {"target_entity_name": 1}}'
TEXT = f"[{', '.join([STEP] * 6)}]"  # about 128 tokens


class AnswersAtOnce(ray_pool.ModelHolder):
    def load(self, model: ModelToOpen, longest: Sequence[Request], decoding: Decoding) -> dict[str, Any]:
        folder = model.folder
        same = ray_pool._same_everywhere(folder, weights_hash(folder, model.base), small_files(folder, model.base))
        return {"engine": {"engine": "hf"}, "node": socket.gethostname(), "same": same}

    def answer(self, requests: Sequence[Request], decoding: Decoding) -> Iterator[Response]:
        for request in requests:
            yield Response(request.key, text=TEXT, finish="stop", prompt_tokens=500, new_tokens=128)


ENDS: list[float] = []  # when responses were recorded, the last of each batch when it was on disk, in seconds


class Timed(ModelRun):
    def record(self, *given: Any, **named: Any) -> None:
        super().record(*given, **named)
        ENDS.append(time.perf_counter())

    def sync(self) -> None:
        super().sync()
        ENDS[-1:] = [time.perf_counter()]


def main() -> None:
    arguments = parse_arguments()
    where, rates = origin("cpu"), []
    ray_pool.ModelHolder = AnswersAtOnce  # type: ignore[misc]
    sys.modules["leap.evaluation.evaluate"].ModelRun = Timed  # type: ignore[attr-defined]
    for number in range(arguments.rounds):
        ENDS.clear()
        evaluate(arguments, arguments.workdir / f"results-{time.time_ns()}-{number}")
        rates.append(len(ENDS) / (ENDS[-1] - ENDS[0]))
        print(f"{len(ENDS)} responses, {rates[-1]:.0f} a second", flush=True)
    settings = {"workers": arguments.jobs, "responses": len(ENDS), "characters": len(TEXT)}
    result = {"benchmark": "responses_on_ray", **where, "settings": settings, "unit": "responses per second"}
    result |= {"ours": round(sorted(rates)[len(rates) // 2]), "windows": [round(rate) for rate in rates]}
    write_json(result_path(arguments.output, result), result)


def parse_arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--workspace", type=Path, required=True, help="with dataset/ and models/ (the demo's)")
    add("--checkpoint", type=Path, required=True, help="a model folder, which is hashed and not loaded")
    add("--jobs", type=count, default=2, help="workers (default %(default)s)")
    add("--repeats", type=count, default=100, help="of each example (default %(default)s)")
    add("--rounds", type=count, default=3, help="evaluations (default %(default)s)")
    add("--workdir", type=Path, default=Path("/tmp/leap-responses"), help="where the results go")
    add("--output", type=Path, default=REPOSITORY / "benchmarks" / "results", help="folder to write to")
    return parser.parse_args()


def evaluate(arguments: argparse.Namespace, results: Path) -> None:
    data = arguments.workspace / "dataset" / "vlm_evaluation_v1.0"
    words = f"--ray_address local --jobs {arguments.jobs} --device cpu --temperature 1 --repeats {arguments.repeats}"
    paths = ["--checkpoint", arguments.checkpoint, "--data_path", data, "--output_dir", results]
    kept, sys.argv = sys.argv, [str(SCRIPT), *words.split(), *map(str, paths)]
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            raise
    finally:
        sys.argv = kept


if __name__ == "__main__":
    run(main)
