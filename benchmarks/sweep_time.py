"""Wall time of a sweep: several checkpoints on the whole benchmark in one command, with this commit and an older one.

    git worktree add /tmp/leap-before COMMIT
    python benchmarks/sweep_time.py --before /tmp/leap-before --workspace demo --rounds 3 -- --device cpu
    python benchmarks/sweep_time.py --before /tmp/leap-before -- --engine vllm --max_new_tokens 128

Both sides run the same command as a user does, from its start to its end, by turns. The checkpoints lie between the
first and the last of the workspace's own, and were never trained. Without --workspace one is made: Qwen3-VL-2B's shape
with random weights, and examples of two 960x960 images each. Responses of both sides are compared one by one. What
stands behind -- goes to every command. Cut off, the same command goes on with the runs that are missing.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import installed  # noqa: F401
from compared import REPOSITORY, origin, result_path
from full_size import make_model, make_requests

from leap.cli import Parser, count, run
from leap.errors import LeapError
from leap.evaluation.predictions import read_predictions
from leap.models.checkpoints import find_checkpoints
from leap.models.loading import load_processor
from leap.records.json_files import object_if_there, write_json
from leap.vlabench.dimensions import DIMENSIONS

SCRIPT = Path("scripts", "evaluation", "run_vlm_evaluation.py")


def main() -> None:
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    arguments, options = parse_arguments(words[:end]), words[end + 1 :]
    root = arguments.workdir / "workspace"
    if not (root / "output").is_dir():
        make_workspace(root, arguments)
    checkouts = {"ours": REPOSITORY, "before": arguments.before.resolve()}
    kept = arguments.workdir / "seconds.json"
    seconds = object_if_there(kept) or {side: [] for side in checkouts}
    for number in range(arguments.rounds):
        for side in sorted(checkouts, reverse=number % 2 == 0):
            if number == len(seconds[side]):
                results = arguments.workdir / f"results-{side}-{number}"
                seconds[side].append(sweep(checkouts[side], root, results, arguments.checkpoints, options))
                write_json(kept, seconds)
            print(f"{side}: {seconds[side][number][0]:.1f} s, CPU {seconds[side][number][1]:.1f} s", flush=True)
    found = as_result(arguments, options, seconds)
    print(f"{found['ratio']} times as fast; the same {found['parity']['same_text']} of {found['parity']['of']}")
    write_json(result_path(arguments.output, found), found)


def parse_arguments(words: list[str]) -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--before", type=Path, required=True, help="a checkout of the commit to compare with")
    add("--workspace", type=Path, help="with dataset/, models/ and output/checkpoint-N (default: one of full size)")
    add("--checkpoints", type=count, default=5, help="models of the sweep (default %(default)s)")
    add("--examples", type=count, default=450, help="of a workspace that is made (default %(default)s)")
    add("--rounds", type=count, default=1, help="runs of each side (default %(default)s)")
    add("--device", default="cuda", help="that makes the model and is named in the result; -- --device is the runs'")
    add("--name", default="", help="added to the result's name")
    add("--workdir", type=Path, default=Path("/tmp/leap-sweep"), help="what is made for the benchmark lies here")
    add("--output", type=Path, default=REPOSITORY / "benchmarks" / "results", help="folder to write to")
    return parser.parse_args(words)


def make_workspace(root: Path, arguments: argparse.Namespace) -> None:
    if arguments.workspace is None:
        make_model(root / "models" / "model", arguments.device)
        make_examples(root, arguments.examples)
        ends = [root / "models" / "model"] * 2
    else:
        for part in ("dataset", "models"):
            shutil.copytree(arguments.workspace / part, root / part)
        checkpoints = find_checkpoints(arguments.workspace / "output")
        if not checkpoints:
            raise LeapError(f"{arguments.workspace / 'output'}: no checkpoint-N folder there; train first")
        ends = [checkpoints[0], checkpoints[-1]]
    for number in range(arguments.checkpoints):
        make_checkpoint(*ends, number / max(1, arguments.checkpoints - 1), root / "output" / f"checkpoint-{number + 1}")


def make_examples(root: Path, number: int) -> None:
    """The benchmark's folders, with images and instructions that were made for measuring."""
    requests = make_requests(root / "images", number, load_processor(root / "models" / "model").tokenizer)
    plan = {"skill_sequence": [{"name": "pick", "params": {"target_entity_name": 1}}]}
    for index, request in enumerate(requests):
        dimension = DIMENSIONS[index % len(DIMENSIONS)].name
        folder = root / "dataset" / "vlm_evaluation_v1.0" / dimension / "speed" / f"example{index // len(DIMENSIONS)}"
        write_json(folder / "output" / "operation_sequence.json", plan)
        (folder / "input").mkdir()
        for image, name in zip(request.images, ("input.png", "input_mask.png"), strict=True):
            shutil.move(str(image), folder / "input" / name)
        (folder / "input" / "instruction.txt").write_text(f"Put fruit {index} where the person looks for it first.")


def make_checkpoint(first: Path, last: Path, part: float, folder: Path) -> None:
    """Weights `part` of the way from the first model to the last; where there is one model, a little larger."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(last, folder, ignore=shutil.ignore_patterns("*.pt", "*.pth", "*.safetensors", "trainer_state.json"))
    for file in last.glob("*.safetensors"):
        there, here = load_file(first / file.name), load_file(file)
        step = part if first != last else part / 50
        mixed = {name: (one + step * (here[name] - one if first != last else one)) for name, one in there.items()}
        save_file(mixed, folder / file.name, {"format": "pt"})


def sweep(checkout: Path, root: Path, results: Path, checkpoints: int, options: list[str]) -> tuple[float, float]:
    """(seconds, CPU seconds) of the whole command."""
    shutil.rmtree(results, ignore_errors=True)
    command = [sys.executable, str(checkout / SCRIPT), "--batch_mode", "--skip_baseline", "--output_dir", str(results)]
    command += ["--max_checkpoints", str(checkpoints), *options]
    environment = {**with_code_of(checkout), "LEAP_ROOT": str(root)}
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LeapError(f"{checkout}: the sweep ended with exit code {done.returncode}: {done.stderr[-2000:]}")
    taken, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def with_code_of(checkout: Path) -> dict[str, str]:
    """The environment in which Python takes LEAP from there."""
    path = os.pathsep.join([str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def as_result(arguments: argparse.Namespace, options: list[str], seconds: dict[str, Any]) -> dict[str, Any]:
    ours, before = (statistics.median(whole for whole, _ in seconds[side]) for side in ("ours", "before"))
    cpu, cpu_before = (statistics.median(cpu for _, cpu in seconds[side]) for side in ("ours", "before"))
    texts = {side: responses(arguments.workdir / f"results-{side}-0") for side in seconds}
    same = [text == texts["before"].get(key) for key, text in texts["ours"].items()]
    return {
        "benchmark": f"sweep_time{arguments.name and '_'}{arguments.name}",
        **origin(arguments.device),
        "settings": {"checkpoints": arguments.checkpoints, "responses": len(same), "options": options},
        "seed_setting": round(before, 1),
        "compared_with": "as fast as an older commit's",
        "ours": round(ours, 1),
        "unit": "seconds",
        "ratio": round(before / ours, 2),
        "parts": {"CPU seconds": round(cpu, 1), "of the older commit": round(cpu_before, 1)},
        "windows": [[round(one, 1) for one in pair] for pair in seconds["ours"]],
        "windows_before": [[round(one, 1) for one in pair] for pair in seconds["before"]],
        "parity": {"same_text": sum(same), "of": len(same)},
    }


def responses(results: Path) -> dict[tuple[str, ...], str | None]:
    return {
        (*path.parts[-3:-1], *key): prediction.text
        for path in results.glob("*/*/predictions.jsonl")
        for key, prediction in read_predictions(path).items()
    }


if __name__ == "__main__":
    run(main)
