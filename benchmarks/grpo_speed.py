"""Speed of GRPO: responses a second that are sampled, rewarded and learned from, with vLLM in the same process.

    python benchmarks/grpo_speed.py --systems leap-vllm leap --vllm_python ~/vllm/bin/python
    python benchmarks/grpo_speed.py --vllm_python ~/vllm/bin/python --swift_python ~/swift/bin/python
    python benchmarks/grpo_speed.py --systems leap-vllm --gpus 2 --vllm_python ~/vllm/bin/python

LEAP by run-grpo.py, with vLLM in its process and without; ms-swift's GRPO with vLLM in its process. All have the same
model, prompts of two images, responses, reward (a function of the text, so that all groups teach) and steps, and each
as many rows at once as memory holds. Several GPUs have as many prompts each. A model of Qwen3-VL-2B's shape is made, of
random weights, whose responses never end before their limit.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import installed  # noqa: F401
from compared import REPOSITORY, origin, result_path
from full_size import make_model, make_requests
from peers import copy_model

from leap.cli import Parser, count, image_tokens, run, share, whole
from leap.data.image import ImageSize
from leap.inference.protocol import Request
from leap.models.loading import load_processor
from leap.records.files import write_atomic
from leap.records.json_files import object_if_there, write_json

CLOCK = Path(__file__).with_name("grpo_clock.py")
SYSTEMS = ("leap-vllm", "leap", "ms-swift")
PLAN = '```json\n[{"name": "pick", "params": {"target_entity_name": 1}}]\n```'
REWARD = "def reward(response, reference=None):\n    return len(set(response)) / 100\n"
PLUGIN = """
from swift.rewards import ORM, orms

class Same(ORM):
    def __call__(self, completions, **others):
        return [reward(text) for text in completions]

orms["same"] = Same
"""


def main() -> None:
    arguments = parse_arguments()
    root = arguments.workdir.resolve()
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # whose GPU memory is free again for what is measured
        where = pool.submit(make_data, root, arguments).result()
    result = {"benchmark": "grpo_speed", **where, "settings": settings(arguments), "systems": {}}
    if arguments.gpus > 1:
        result["device"] = f"{arguments.gpus} x {where['device']}"
    for name in arguments.systems:
        for found in measure(name, root, arguments):
            result["systems"][name] = found
            print(f"{name}: {found.get('samples_per_second') or found['error']}", flush=True)
            write_json(result_path(arguments.output, result), with_ratio(result))


def parse_arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS, help="which are measured, in this order")
    add("--vllm_python", default=sys.executable, help="of an environment with LEAP's packages, TRL and vLLM")
    add("--swift_python", default=sys.executable, help="of an environment with ms-swift and vLLM")
    add("--steps", type=count, default=8, help="timed steps (default %(default)s)")
    add("--warm_up", type=whole, default=3, help="steps before them (default %(default)s)")
    add("--gpus", type=count, default=1, help="each with a process and a vLLM of its own (default %(default)s)")
    add("--prompts", type=count, default=8, help="of a step, on each GPU (default %(default)s)")
    add("--generations", type=count, default=8, help="responses to a prompt (default %(default)s)")
    rows = "responses that go through LEAP's and ms-swift's model at once, halved while memory is short (default 8 4)"
    add("--rows", type=count, nargs=2, default=(8, 4), metavar=("LEAP", "SWIFT"), help=rows)
    add("--new_tokens", type=count, default=128, help="of a response (default %(default)s)")
    add("--image_tokens", type=image_tokens, nargs=2, default=(256, 1024), metavar=("MIN", "MAX"), help="of an image")
    add("--memory", type=share, default=0.2, help="share of the GPU's memory that vLLM is given (default %(default)s)")
    add("--checkpointing", action="store_true", help="activations are computed again, not kept")
    add("--longest", type=count, default=600, help="seconds that a system may take (default %(default)s)")
    add("--small", action="store_true", help="a few narrow layers, for a CPU")
    add("--device", default="cuda", help="cuda or cpu")
    add("--workdir", type=Path, default=Path("/tmp/leap-grpo"), help="what is made for the benchmark lies here")
    add("--output", type=Path, default=REPOSITORY / "benchmarks" / "results", help="folder to write to")
    return parser.parse_args()


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("gpus", "steps", "warm_up", "prompts", "generations", "rows", "new_tokens", "image_tokens", "memory")
    return {name: getattr(arguments, name) for name in (*names, "checkpointing")}


def make_data(root: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The model, and the prompts of all steps as LEAP and as ms-swift read them; returns where figures come from."""
    base = root / "base"
    if not (base / "config.json").is_file():
        make_model(base, arguments.device, small=arguments.small)
    processor = load_processor(base)
    requests = make_requests(
        root / "images",
        arguments.gpus * arguments.prompts * (arguments.warm_up + arguments.steps),
        processor.tokenizer,
    )
    shutil.rmtree(root / "model", ignore_errors=True)
    copy_model(base, root / "model", processor, ImageSize(*arguments.image_tokens))
    for name, form in (("leap", as_sample), ("swift", as_messages)):
        write_atomic(root / f"{name}.jsonl", "".join(json.dumps(form(request, root)) + "\n" for request in requests))
    (root / "reward.py").write_text(REWARD)
    (root / "plugin.py").write_text(REWARD + PLUGIN)
    return origin(arguments.device)


def as_sample(request: Request, root: Path) -> dict[str, Any]:
    images = iter(request.images)
    parts = [
        part.model_dump()
        if part.type == "text"
        else {"type": "image", "image": str(Path(str(next(images))).relative_to(root))}
        for part in request.messages[0].parts()
    ]
    return {"messages": [{"role": "user", "content": parts}], "target": {"steps": PLAN}}


def as_messages(request: Request, root: Path) -> dict[str, Any]:
    text = "".join(part.text if part.type == "text" else "<image>" for part in request.messages[0].parts())
    return {"messages": [{"role": "user", "content": text}], "images": [str(image) for image in request.images]}


def measure(name: str, root: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A system's figures or the reason why it has none; before it, of each number of rows that memory was short of."""
    rows, too_many = arguments.rows[name == "ms-swift"], list[int]()
    while rows:
        found = measure_rows(name, rows, root, arguments)
        short = "outofmemory" in found.get("error", "").replace(" ", "").lower()
        too_many += [rows] * short
        yield {**found, "rows": rows, "too_many_rows": too_many}
        rows = rows // 2 if short else 0


def measure_rows(name: str, rows: int, root: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    swift, vllm = name == "ms-swift", name != "leap"
    job, found_path, log = (root / f"{name}{end}" for end in (".job.json", ".found.json", ".log"))
    shutil.rmtree(root / "output" / name, ignore_errors=True)
    found_path.unlink(missing_ok=True)
    words = swift_words(rows, root, arguments) if swift else leap_words(name, rows, root, arguments)
    packages = ["trl", "torch", "transformers", *["vllm"] * vllm, *["ms-swift"] * swift]
    write_json(job, {"trainer": "ms-swift" if swift else "LEAP", "words": words, "packages": packages})
    ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(arguments.gpus)]
    python = arguments.swift_python if swift else arguments.vllm_python
    command = [python, *(ranks if arguments.gpus > 1 else []), str(CLOCK), str(job), str(found_path)]
    with log.open("w") as output:
        try:
            done = subprocess.run(
                command,
                stdout=output,
                stderr=output,
                env=environment(root, arguments),
                timeout=arguments.longest,
                check=False,
            )
            cut_off, reason = {}, f"exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            reason = f"it took more than {arguments.longest} s"
            cut_off = {"cut_off": reason}
    found = object_if_there(found_path) or {"seconds": []}
    enough = arguments.warm_up + (1 if cut_off else arguments.steps)
    if len(found["seconds"]) >= enough:
        return figures(found, arguments) | cut_off
    return {"error": f"{reason}: {last_lines(log.read_text(errors='replace'))}"}


def last_lines(log: str) -> str:
    """The end without progress bars, and before it what was said of memory, behind which a library may say more."""
    lines = [line.strip() for line in log.splitlines() if line.strip() and not re.search(r"\d+%\|", line)]
    short = [line for line in lines if "out of memory" in line.lower() or "OutOfMemory" in line]
    return "\n".join(dict.fromkeys([*short[-1:], *lines[-6:]]))[-1500:]


def environment(root: Path, arguments: argparse.Namespace) -> dict[str, str]:
    """With what ms-swift sizes images by."""
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    sizes = zip(("IMAGE_MIN_TOKEN_NUM", "IMAGE_MAX_TOKEN_NUM"), map(str, arguments.image_tokens), strict=True)
    return {**os.environ, **quiet, **dict(sizes), "LEAP_ROOT": str(root), "PYTHONPATH": path}


def leap_words(name: str, rows: int, root: Path, arguments: argparse.Namespace) -> list[str]:
    steps = arguments.warm_up + arguments.steps
    given: dict[str, Any] = {
        **common(rows, arguments),
        "recipe": "grpo",
        "model_name_or_path": "model",
        "train_file": "leap.jsonl",
        "reward_file": f"{root / 'reward.py'}:reward",
        "reward_weights": "{own: 1.0}",
        "image_tokens_min": arguments.image_tokens[0],
        "image_tokens_max": arguments.image_tokens[1],
        "output_dir": f"output/{name}",
        "save_steps": steps,
        "eval_benchmark": "null",
    }
    if name == "leap-vllm":
        given |= {"use_vllm": True, "vllm_gpu_memory_utilization": arguments.memory}
    return [str(REPOSITORY / "scripts" / "training" / "run-grpo.py"), *as_words(given)]


def swift_words(rows: int, root: Path, arguments: argparse.Namespace) -> list[str]:
    on_cpu = arguments.device == "cpu"
    given: dict[str, Any] = {
        **common(rows, arguments),
        "rlhf_type": "grpo",
        "model": str(root / "model"),
        "model_type": "qwen3_vl",
        "template": "qwen3_vl",
        "dataset": str(root / "swift.jsonl"),
        "load_from_cache_file": False,
        "split_dataset_ratio": 0,
        "external_plugins": str(root / "plugin.py"),
        "reward_funcs": "same",
        "tuner_type": "full",
        "freeze_vit": False,
        "freeze_aligner": False,
        "freeze_llm": False,
        "torch_dtype": "float32" if on_cpu else "bfloat16",
        "max_length": 4096,
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": arguments.memory,
        "vllm_max_model_len": 4096,
        "output_dir": str(root / "output" / "ms-swift"),
        "save_strategy": "no",
        "report_to": "none",
    }
    return as_words(given)


def common(rows: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Of both, whose names are TRL's."""
    return {
        "max_steps": arguments.warm_up + arguments.steps,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": arguments.prompts * arguments.generations // rows,
        "num_generations": arguments.generations,
        "max_completion_length": arguments.new_tokens,
        "temperature": 1.0,
        "beta": 0.0,
        "learning_rate": 1e-6,
        "warmup_steps": 0,
        "bf16": arguments.device != "cpu",
        "gradient_checkpointing": arguments.checkpointing,
        "logging_steps": 1,
    }


def as_words(given: dict[str, Any]) -> list[str]:
    return [
        word
        for name, value in given.items()
        for word in (f"--{name}", str(value).lower() if isinstance(value, bool) else str(value))
    ]


def figures(found: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Of the timed steps: responses a second of each, and what sampling takes of their time."""
    timed = slice(arguments.warm_up, arguments.warm_up + arguments.steps)
    seconds, sampling = found["seconds"][timed], found["sampling"][timed]
    lengths = found["lengths"]  # the last step's are not logged
    responses = arguments.gpus * arguments.prompts * arguments.generations
    return {
        "samples_per_second": round(responses / statistics.median(seconds), 3),
        "windows": [round(responses / one, 3) for one in seconds],
        "sampling_share": round(sum(sampling) / sum(seconds), 3),
        "sampled_per_second": round(responses * len(sampling) / sum(sampling), 3),
        "new_tokens": round(statistics.mean(lengths), 1) if lengths else None,
        "peak_gb": found["peak_gb"],
        "versions": found["versions"],
    }


def with_ratio(result: dict[str, Any]) -> dict[str, Any]:
    """LEAP with vLLM beside ms-swift, where both have figures."""
    rates = {name: found.get("samples_per_second") for name, found in result["systems"].items()}
    ours, theirs = rates.get("leap-vllm"), rates.get("ms-swift")
    named = {"ours": ours, "unit": "responses per second", "parts": {k: v for k, v in rates.items() if v}}
    if ours and theirs:
        named |= {"seed_setting": theirs, "compared_with": "as fast as ms-swift's", "ratio": round(ours / theirs, 2)}
    return {**result, **named}


if __name__ == "__main__":
    run(main)
