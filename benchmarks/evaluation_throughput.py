"""Evaluation speed: examples a second of every engine, and of the seed's setting, in one run on one machine.

    python benchmarks/evaluation_throughput.py --workdir /tmp/leap-speed
    python benchmarks/evaluation_throughput.py --engines vllm --vllm_python ~/vllm/bin/python
    python benchmarks/evaluation_throughput.py --model demo/models/leap-demo --device cpu --picture_tokens 64

The seed's setting is plain `generate`, one example after the other, pictures prepared in the same process. Every
example has two pictures of its own of 960x960 pixels and an instruction of its own; every answer has the same forced
length on both sides; time counts from the first request to the last answer, preparation of pictures included, after a
warm-up that is not timed. Without --model, a model of Qwen3-VL-2B's shape is made, of random weights.
"""

import argparse
import shlex
import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from full_size import make_model, make_requests

from leap.cli import run
from leap.data.pictures import PictureSize
from leap.inference.protocol import Answer, Decoding, Engine, Request
from leap.provenance import command, device_name, git_state, versions
from leap.records.files import write_json

REPOSITORY = Path(__file__).resolve().parent.parent
WINDOW = 64  # examples


def main() -> None:
    arguments = parse_arguments()
    where = origin(arguments.device)
    model = arguments.model or arguments.workdir / "qwen3-vl-2b"
    if not (model / "config.json").is_file():
        make_model(model, arguments.device)
    from leap.models.loading import load_processor

    requests = make_requests(
        arguments.workdir / "pictures", arguments.warm_up + arguments.examples, load_processor(model).tokenizer
    )
    size = PictureSize(*arguments.picture_tokens)
    decoding = Decoding(arguments.new_tokens, min_new_tokens=arguments.new_tokens)
    seed = measure_seed(model, size, arguments, requests[: arguments.seed_examples + 1], decoding)
    print(f"seed's setting: {seed['rate']:.3f} examples/s", flush=True)
    for name in arguments.engines:
        found = measure_engine(name, model, size, arguments, requests, decoding)
        result = {**where, **as_result(name, found, seed, arguments)}
        print(f"{name}: {result['ours']:.3f} examples/s, {result['ratio']:.1f} times", flush=True)
        stem = f"evaluation_throughput_{name}-{where['device'].replace(' ', '-').replace(',', '')}"
        write_json(arguments.output / f"{stem}.json", result)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, help="model folder (default: the full size, random weights)")
    add("--engines", nargs="+", choices=("hf", "vllm"), default=["hf"])
    add("--device", default="cuda")
    add("--dtype", help="default: bfloat16 on a GPU, float32 on a CPU")
    add("--examples", type=int, default=256, help="timed examples of each engine (default %(default)s)")
    add("--warm_up", type=int, default=64, help="examples before them (default %(default)s)")
    add("--seed_examples", type=int, default=12, help="timed examples of the seed's setting (default %(default)s)")
    add("--new_tokens", type=int, default=128)
    add("--picture_tokens", type=int, nargs=2, default=(256, 1024), metavar=("MIN", "MAX"))
    add("--batch_size", type=int, help="a cap for hf")
    add("--vllm_python", help="the interpreter of vLLM's environment")
    add("--vllm_args", type=shlex.split, default=[], help="vLLM's own flags")
    add("--workdir", type=Path, default=Path("/tmp/leap-speed"), help="model and pictures are made here")
    add("--output", type=Path, default=REPOSITORY / "benchmarks" / "results", help="folder to write to")
    return parser.parse_args()


def measure_seed(
    model: Path, size: PictureSize, arguments: argparse.Namespace, requests: Sequence[Request], decoding: Decoding
) -> dict[str, Any]:
    """The first request warms up; the others are timed one by one."""
    seconds, texts = [], {}
    for request, text, taken in plain_generation(model, size, arguments, requests, decoding):
        seconds.append(taken)
        texts[request.key] = text
    return {"rate": 1 / statistics.median(seconds[1:]), "seconds": seconds[1:], "texts": texts}


def plain_generation(
    model: Path, size: PictureSize, arguments: argparse.Namespace, requests: Sequence[Request], decoding: Decoding
) -> Iterator[tuple[Request, str, float]]:
    """(request, answer, seconds) by the library's processor and `generate`, as its documentation shows them."""
    import torch

    from leap.data.pictures import open_picture
    from leap.models.loading import load_model, load_processor

    processor = load_processor(model)
    loaded = load_model(model, dtype_of(arguments), arguments.device).eval()
    unit = (processor.image_processor.patch_size * processor.image_processor.merge_size) ** 2
    bounds = {"shortest_edge": size.min_tokens * unit, "longest_edge": size.max_tokens * unit}
    for request in requests:
        started = time.perf_counter()
        pictures = [open_picture(source) for source in request.pictures]
        conversation = [
            {
                "role": message.role,
                "content": [{"type": part.type, "text": getattr(part, "text", None)} for part in message.parts()],
            }
            for message in request.messages
        ]
        text = processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        inputs = processor(text=[text], images=pictures, size=bounds, return_tensors="pt").to(arguments.device)
        with torch.inference_mode():
            output = loaded.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=decoding.max_new_tokens,
                min_new_tokens=decoding.min_new_tokens,
            )
        answer = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        yield request, answer, time.perf_counter() - started


def measure_engine(
    name: str,
    model: Path,
    size: PictureSize,
    arguments: argparse.Namespace,
    requests: Sequence[Request],
    decoding: Decoding,
) -> dict[str, Any]:
    started = time.perf_counter()
    engine = open_engine(name, model, size, arguments)
    try:
        print(f"{name}: loaded in {time.perf_counter() - started:.0f} s", flush=True)
        answers = list(engine.answers(requests[: arguments.warm_up], decoding))
        print(f"{name}: warm after {time.perf_counter() - started:.0f} s", flush=True)
        begin, ends = time.perf_counter(), []
        for answer in engine.answers(requests[arguments.warm_up :], decoding):
            answers.append(answer)
            ends.append(time.perf_counter() - begin)
        return {"ends": ends, "answers": answers, "describe": engine.describe(), "peak_gb": peak_gb(arguments.device)}
    finally:
        engine.close()


def open_engine(name: str, model: Path, size: PictureSize, arguments: argparse.Namespace) -> Engine:
    dtype = dtype_of(arguments)
    if name == "vllm":
        from leap.inference.vllm import VllmEngine
        from leap.inference.vllm_server import VllmSettings

        extra = tuple(arguments.vllm_args)
        settings = VllmSettings(
            model, size, arguments.device, dtype, max_model_len=4096, readable=arguments.workdir, extra=extra
        )
        return VllmEngine(settings, arguments.workdir / "vllm.log", arguments.vllm_python)
    from leap.inference.hf import HfEngine

    return HfEngine(model, size, arguments.device, dtype, batch_size=arguments.batch_size, compiled=True)


def as_result(name: str, found: dict[str, Any], seed: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    answers: list[Answer] = found["answers"]
    failed = [answer.error for answer in answers if answer.error is not None]
    if failed:
        raise SystemExit(f"{len(failed)} of {len(answers)} requests failed: {failed[0]}")
    rate = len(found["ends"]) / found["ends"][-1]
    same = [answer.text == seed["texts"][answer.key] for answer in answers if answer.key in seed["texts"]]
    return {
        "benchmark": f"evaluation_throughput_{name}",
        "settings": {
            "engine": found["describe"],
            "examples": len(found["ends"]),
            "warm_up": arguments.warm_up,
            "prompt_tokens": statistics.median(answer.prompt_tokens or 0 for answer in answers),
            "new_tokens": arguments.new_tokens,
        },
        "seed_setting": round(seed["rate"], 4),
        "seed_windows": [round(1 / seconds, 4) for seconds in seed["seconds"]],
        "ours": round(rate, 3),
        "unit": "examples per second",
        "ratio": round(rate / seed["rate"], 1),
        "peak_gb": found["peak_gb"],
        "windows": windows(found["ends"]),
        "parity": {"same_text_as_seed_setting": sum(same), "of": len(same)},
    }


def windows(ends: Sequence[float]) -> list[float]:
    """Examples a second in each window of WINDOW answers, by the times at which they came."""
    edges = [0.0, *ends[WINDOW - 1 :: WINDOW]]
    return [round(WINDOW / (b - a), 3) for a, b in pairwise(edges)]


def dtype_of(arguments: argparse.Namespace) -> str:
    from leap.models.loading import default_dtype

    return arguments.dtype or default_dtype(arguments.device)


def peak_gb(device: str) -> float | None:
    import torch

    return round(torch.cuda.max_memory_reserved(device) / 1e9, 1) if device.startswith("cuda") else None


def origin(device: str) -> dict[str, Any]:
    """Where the figures come from: the machine, the libraries, the code and the command."""
    return {"device": device_name(device), "versions": versions(), **git_state(REPOSITORY), "command": command()}


if __name__ == "__main__":
    run(main)
