"""Evaluation speed: examples a second of every engine, and of the seed's setting, in one run on one machine.

    python benchmarks/evaluation_throughput.py --workdir /tmp/leap-speed
    python benchmarks/evaluation_throughput.py --engines vllm --vllm_python ~/vllm/bin/python --vllm_chat
    python benchmarks/evaluation_throughput.py --engines vllm --lmms_eval ~/lmms/bin/python \\
        --data demo/dataset/vlm_evaluation_v1.0 --model demo/output/checkpoint-720
    python benchmarks/evaluation_throughput.py --device cpu --image_tokens 64 64 --warm_up 32 --examples 76 \\
        --model demo/output/checkpoint-720 --data demo/dataset/vlm_evaluation_v1.0

The seed's setting is plain `generate`, one example after the other, images prepared in the same process. Every
example has two images of its own of 960x960 pixels and an instruction of its own; every answer has the same forced
length on both sides; time counts from the first request to the last answer, preparation of images included, after a
warm-up that is not timed. "With start-up" is the whole from opening an engine to its last answer, warm-up included.
--vllm_chat times vLLM's own offline class as well, as a user calls it, on the same examples; --lmms_eval lmms-eval with
its vLLM backend, by its own command, on the first examples of each dimension of --data (docs/evaluation.md has what its
environment needs, and vLLM beside that). Without --model, a model of Qwen3-VL-2B's shape is made, of random weights.
With --data, the examples are a benchmark's (`sweep_time.py` makes one).
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import installed  # noqa: F401
from compared import (
    REPOSITORY,
    add_arguments,
    dtype_of,
    free_memory,
    open_engine,
    origin,
    plain_generation,
    result_path,
)
from full_size import make_model, make_requests
from limits import examples_per_second

from leap.cli import Parser, count, run, whole
from leap.data.image import ImageEncoder, ImageSize, load_image
from leap.errors import LeapError
from leap.evaluation.requests import build_requests
from leap.evaluation.settings import EvaluationSettings
from leap.hardware import ALLOCATOR
from leap.inference.chat_protocol import chat_messages
from leap.inference.protocol import Decoding, Request, Response
from leap.inference.vllm_server import find_interpreter
from leap.models.loading import load_processor
from leap.records.json_files import read_object, write_json
from leap.vlabench.dimensions import DIMENSIONS
from leap.vlabench.examples import find_examples
from leap.vlabench.prompts import leap_instructions

HERE = Path(__file__).resolve().parent
TASKS = REPOSITORY / "integrations" / "lmms_eval"
VERSION = "from importlib.metadata import version; print(version('lmms_eval'))"
WINDOW = 64  # examples
QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def main() -> None:
    arguments = parse_arguments()
    where = origin(arguments.device)
    model = arguments.model or arguments.workdir / "qwen3-vl-2b"
    if not (model / "config.json").is_file():
        make_model(model, arguments.device)
    size = ImageSize(*arguments.image_tokens)
    decoding = Decoding(arguments.new_tokens, min_new_tokens=0 if arguments.natural_end else arguments.new_tokens)
    requests = make_or_read_requests(model, size, arguments)
    seed = measure_seed(model, size, arguments, requests[: arguments.seed_examples + 1], decoding)
    print(f"seed's setting: {seed['rate']:.3f} examples/s", flush=True)
    measured = []
    for name in arguments.engines:
        found = measure_engine(name, model, size, arguments, requests, decoding)
        result = {**where, **as_result(name, found, seed, arguments)}
        result |= share_of_limit(model, size, where["device"], requests[0], result)
        print(f"{name}: {result['ours']:.3f} examples/s, {result['ratio']:.1f} times", flush=True)
        write_json(result_path(arguments.output, result), result)
        measured.append((found, result))
    few = requests[: arguments.warm_up + (arguments.peer_examples or arguments.examples)]
    others: dict[str, Callable[[], dict[str, Any]]] = {}
    if arguments.vllm_chat:
        others["vllm_chat"] = lambda: measure_vllm_chat(model, size, arguments, few, decoding)
    if arguments.lmms_eval:
        others["lmms_eval"] = lambda: measure_lmms_eval(model, size, arguments, decoding)
    for other, measure in others.items():
        theirs = measure()
        for found, result in measured:  # as they come, since a run may be cut off
            result[other] = beside(found, theirs)
            write_json(result_path(arguments.output, result), result)


def parse_arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    add_arguments(parser)
    add = parser.add_argument
    add("--model", type=Path, help="model folder (default: the full size, random weights)")
    add("--data", type=Path, help="a benchmark's folder to take examples from")
    add("--examples", type=count, default=256, help="timed examples of each engine (default %(default)s)")
    add("--warm_up", type=whole, default=64, help="examples before them (default %(default)s)")
    add("--seed_examples", type=count, default=12, help="timed examples of the seed's setting (default %(default)s)")
    add("--new_tokens", type=count, default=128, help="of every answer (default %(default)s)")
    add("--vllm_chat", action="store_true", help="time vLLM's LLM.chat too, in the environment of --vllm_python")
    add("--lmms_eval", help="time lmms-eval too: the interpreter of its environment, which has vLLM")
    add("--peer_examples", type=count, help="timed examples of LLM.chat and lmms-eval (default: --examples)")
    add("--natural_end", action="store_true", help="answers end where the model ends them, --new_tokens at the latest")
    arguments = parser.parse_args()
    if arguments.lmms_eval and arguments.data is None:
        parser.error("--lmms_eval needs --data: its tasks read a benchmark's folder")
    return arguments


def make_or_read_requests(model: Path, size: ImageSize, arguments: argparse.Namespace) -> list[Request]:
    count = arguments.warm_up + arguments.examples
    if arguments.data is None:
        return make_requests(arguments.workdir / "images", count, load_processor(model).tokenizer)
    examples = [example for dimension in DIMENSIONS for example in find_examples(arguments.data, dimension)]
    settings = EvaluationSettings(arguments.data, leap_instructions(), size, Decoding())
    requests = build_requests(examples, examples, settings)
    random.Random(0).shuffle(requests)  # tasks in a row have answers of one length
    return requests[:count]


def measure_seed(
    model: Path, size: ImageSize, arguments: argparse.Namespace, requests: Sequence[Request], decoding: Decoding
) -> dict[str, Any]:
    """The first request warms up; the others are timed one by one."""
    seconds, texts = [], {}
    for request, text, taken in plain_generation(model, size, arguments, requests, decoding):
        seconds.append(taken)
        texts[request.key] = text
    return {"rate": 1 / statistics.median(seconds[1:]), "seconds": seconds[1:], "texts": texts}


def measure_engine(
    name: str,
    model: Path,
    size: ImageSize,
    arguments: argparse.Namespace,
    requests: Sequence[Request],
    decoding: Decoding,
) -> dict[str, Any]:
    started = time.perf_counter()
    engine = open_engine(name, model, size, arguments, arguments.data or arguments.workdir, compiled=True)
    try:
        print(f"{name}: loaded in {time.perf_counter() - started:.0f} s", flush=True)
        responses = list(engine.responses(requests[: arguments.warm_up], decoding))
        begin, ends = time.perf_counter(), []
        print(f"{name}: warm after {begin - started:.0f} s", flush=True)
        for response in engine.responses(requests[arguments.warm_up :], decoding):
            responses.append(response)
            ends.append(time.perf_counter() - begin)
        return {
            "ends": ends,
            "start_up_seconds": begin - started,
            "answers": responses,
            "describe": engine.describe(),
            "peak_gb": peak_gb(name, arguments.device),
        }
    finally:
        engine.close()


def measure_vllm_chat(
    model: Path, size: ImageSize, arguments: argparse.Namespace, requests: Sequence[Request], decoding: Decoding
) -> dict[str, Any]:
    """vLLM's offline class on the same examples, which it reads from their files."""
    options = chat_options(model, size, arguments)
    readable = Path(options["allowed_local_media_path"])
    job = {
        "options": options,
        "warm_up": arguments.warm_up,
        "max_tokens": decoding.max_new_tokens,
        "min_tokens": decoding.min_new_tokens,
        "conversations": [chat_messages(request, size, readable) for request in requests],
    }
    found = chat_in_its_environment(job, arguments)
    rate = len(found["texts"]) / found["seconds"]
    print(f"LLM.chat: {rate:.3f} examples/s, warm after {found['start_up_seconds']:.0f} s", flush=True)
    return {
        "version": found["version"],
        "options": options,
        "rate": round(rate, 3),
        "examples": len(found["texts"]),
        **with_start_up(found["start_up_seconds"], found["seconds"], arguments.warm_up, len(found["texts"])),
        "prompt_tokens": statistics.median(found["prompt_tokens"]),
        "new_tokens": statistics.mean(found["new_tokens"]),
        "texts": dict(zip((request.key for request in requests[arguments.warm_up :]), found["texts"], strict=True)),
    }


def measure_lmms_eval(
    model: Path, size: ImageSize, arguments: argparse.Namespace, decoding: Decoding
) -> dict[str, Any]:
    """Its whole command, from start to end, on as many examples of each dimension; the rate is by its own clock, which
    leaves out that images are written into its messages."""
    each = (arguments.peer_examples or arguments.examples) // len(DIMENSIONS)
    folder = arguments.workdir.resolve() / "lmms_eval"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    options = chat_options(model, size, arguments)
    given = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in options.items()}
    given |= {"gpu_memory_utilization": 0.9, "max_new_tokens": decoding.max_new_tokens}  # it takes 4096 for fewer
    command = [arguments.lmms_eval, "-m", "lmms_eval", "--include_path", str(TASKS), "--tasks", "leap_vlabench"]
    command += ["--model", "vllm", "--model_args", ",".join(f"{name}={value}" for name, value in given.items())]
    command += ["--batch_size", str(each * len(DIMENSIONS)), "--limit", str(each), "--log_samples"]
    command += ["--gen_kwargs", f"max_new_tokens={decoding.max_new_tokens}", "--output_path", str(folder)]
    seconds = in_its_environment(command, folder / "log.txt", arguments, {"LEAP_ROOT": str(arguments.data.parents[1])})
    results = next(folder.rglob("*_results.json"), None)
    if results is None:  # it ends with exit code 0 all the same
        raise LeapError(f"lmms-eval wrote no results; {folder / 'log.txt'} says why")
    read = read_object(results)
    samples = [json.loads(line) for file in folder.rglob("*_samples_*.jsonl") for line in file.open()]
    found, number = read["throughput"], len(samples)
    print(f"lmms-eval: {number / found['total_elapsed_time']:.3f} examples/s, {seconds:.0f} s in all", flush=True)
    return {
        "version": subprocess.check_output([arguments.lmms_eval, "-c", VERSION], text=True).strip(),
        "options": given,
        "examples": number,
        "rate": round(number / found["total_elapsed_time"], 3),
        "start_up_seconds": round(seconds - found["total_elapsed_time"], 1),
        "with_start_up": round(number / seconds, 3),
        "new_tokens": found["total_gen_tokens"] / number,
        "texts": {key_of(Path(sample["input_media"][0])): sample["filtered_resps"] for sample in samples},
    }


def key_of(image: Path) -> tuple[str, str, str]:
    """An example's, by the place of its image: <dimension>/<task>/exampleN/input/input.png"""
    dimension, task, example = image.parts[-5:-2]
    return dimension, task, example.removeprefix("example")


def chat_options(model: Path, size: ImageSize, arguments: argparse.Namespace) -> dict[str, Any]:
    """vLLM's defaults, but for what makes it answer the same question as LEAP's engines."""
    return {
        "model": str(model.resolve()),
        "dtype": dtype_of(arguments),
        "max_model_len": 4096,
        "limit_mm_per_prompt": {"image": 2, "video": 0},
        "mm_processor_kwargs": {"size": ImageEncoder(load_processor(model), size).size},
        "allowed_local_media_path": str((arguments.data or arguments.workdir).resolve()),
        "generation_config": "vllm",
        "enforce_eager": arguments.device == "cpu",
    }


def chat_in_its_environment(job: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    folder = arguments.workdir.resolve() / "vllm_chat"
    write_json(folder / "job.json", job)
    python = find_interpreter(arguments.vllm_python).path
    command = [python, str(HERE / "vllm_chat.py"), str(folder / "job.json"), str(folder / "found.json")]
    in_its_environment(command, folder / "log.txt", arguments)
    return read_object(folder / "found.json")


def in_its_environment(
    command: list[str], log: Path, arguments: argparse.Namespace, more: Mapping[str, str] = {}
) -> float:
    """The seconds that a command takes, without what is set for LEAP alone."""
    environment = {name: value for name, value in os.environ.items() if name != ALLOCATOR} | QUIET | more
    if arguments.device == "cpu":
        environment |= {"TORCH_COMPILE_DISABLE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    free_memory(arguments.device)
    started = time.perf_counter()
    with log.open("w") as output:
        done = subprocess.run(command, stdout=output, stderr=output, env=environment, check=False)
    if done.returncode:
        raise LeapError(f"{command[0]} ended with exit code {done.returncode}; {log} says why")
    return time.perf_counter() - started


def with_start_up(start_up: float, seconds: float, warm_up: int, examples: int) -> dict[str, float]:
    """Seconds until an engine is warm, and examples a second of the whole, warm-up and all."""
    whole = (warm_up + examples) / (start_up + seconds)
    return {"start_up_seconds": round(start_up, 1), "with_start_up": round(whole, 3)}


def beside(found: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """What was found of another program; the engine's own rate over its first answers, as many as the other gave, since
    the first come while all is filled; and to how many examples it gave the same text, but for blanks around it."""
    texts = theirs["texts"]
    ours = [(response.text or "", texts[response.key]) for response in found["answers"] if response.key in texts]
    same = [one.strip() == other.strip() for one, other in ours]
    kept = {key: value for key, value in theirs.items() if key != "texts"}
    many = min(len(texts), len(found["ends"]))
    as_many = round(many / found["ends"][many - 1], 3)
    return {**kept, "ours_over_as_many": as_many, "same_text": sum(same), "of": len(same)}


def as_result(name: str, found: dict[str, Any], seed: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    responses: list[Response] = found["answers"]
    failed = [response.error for response in responses if response.error is not None]
    if failed:
        raise SystemExit(f"{len(failed)} of {len(responses)} requests failed: {failed[0]}")
    rate = len(found["ends"]) / found["ends"][-1]
    same = [response.text == seed["texts"][response.key] for response in responses if response.key in seed["texts"]]
    return {
        "benchmark": f"evaluation_throughput_{name}",
        "settings": {
            "engine": found["describe"],
            "examples": len(found["ends"]),
            "warm_up": arguments.warm_up,
            "prompt_tokens": statistics.median(response.prompt_tokens or 0 for response in responses),
            "new_tokens": statistics.mean(response.new_tokens or 0 for response in responses),
        },
        "seed_setting": round(seed["rate"], 4),
        "seed_windows": [round(1 / seconds, 4) for seconds in seed["seconds"]],
        "ours": round(rate, 3),
        **with_start_up(found["start_up_seconds"], found["ends"][-1], arguments.warm_up, len(found["ends"])),
        "unit": "examples per second",
        "ratio": round(rate / seed["rate"], 1),
        "peak_gb": found["peak_gb"],
        "windows": windows(found["ends"]),
        "parity": {"same_text_as_seed_setting": sum(same), "of": len(same)},
    }


def share_of_limit(
    model: Path, size: ImageSize, device: str, request: Request, result: dict[str, Any]
) -> dict[str, Any]:
    encoder = ImageEncoder(load_processor(model), size)
    _, grid = encoder.encode_bytes([load_image(source) for source in request.images])
    asked = result["settings"]
    limit = examples_per_second(model, device, asked["prompt_tokens"], grid.prod(dim=-1).tolist(), asked["new_tokens"])
    return {"limit": limit and round(limit, 2), "share_of_limit": limit and round(result["ours"] / limit, 3)}


def windows(ends: Sequence[float]) -> list[float]:
    """Examples a second in each window of WINDOW answers, by the times at which they came."""
    edges = [0.0, *ends[WINDOW - 1 :: WINDOW]]
    return [round(WINDOW / (b - a), 3) for a, b in pairwise(edges)]


def peak_gb(name: str, device: str) -> float | None:
    """Of this process: a server takes what it is given."""
    import torch

    return (
        round(torch.cuda.max_memory_reserved(device) / 1e9, 1) if name == "hf" and device.startswith("cuda") else None
    )


if __name__ == "__main__":
    run(main)
