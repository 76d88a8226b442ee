"""What the speed benchmarks share: the engines, plain generation, which they are compared with, and results' names."""

import argparse
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from leap.cli import count, image_tokens
from leap.data.image import ImageSize
from leap.inference.protocol import Decoding, Engine, Request
from leap.provenance import command, device_name, git_state, versions

REPOSITORY = Path(__file__).resolve().parent.parent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--engines", nargs="+", choices=("hf", "vllm"), default=["hf"], help="which are measured")
    add("--device", default="cuda", help="cuda or cpu")
    add("--dtype", help="default: bfloat16 on a GPU, float32 on a CPU")
    add("--image_tokens", type=image_tokens, nargs=2, default=(256, 1024), metavar=("MIN", "MAX"), help="of an image")
    add("--batch_size", type=count, help="a cap for hf")
    add("--vllm_python", help="the interpreter of vLLM's environment")
    add("--vllm_args", type=shlex.split, default=[], help="vLLM's own flags")
    add("--workdir", type=Path, default=Path("/tmp/leap-speed"), help="what is made for the benchmark lies here")
    add("--output", type=Path, default=REPOSITORY / "benchmarks" / "results", help="folder to write to")


def plain_generation(
    model: Path, size: ImageSize, arguments: argparse.Namespace, requests: Sequence[Request], decoding: Decoding
) -> Iterator[tuple[Request, str, float]]:
    """(request, answer, seconds) by the library's processor and `generate`, as its documentation shows them."""
    import torch

    from leap.data.image import load_image
    from leap.models.loading import load_model, load_processor

    processor = load_processor(model)
    loaded = load_model(model, dtype_of(arguments), arguments.device).eval()
    unit = (processor.image_processor.patch_size * processor.image_processor.merge_size) ** 2
    bounds = {"shortest_edge": size.min_tokens * unit, "longest_edge": size.max_tokens * unit}
    for request in requests:
        started = time.perf_counter()
        images = [load_image(source) for source in request.images]
        conversation = [
            {
                "role": message.role,
                "content": [{"type": part.type, "text": getattr(part, "text", None)} for part in message.parts()],
            }
            for message in request.messages
        ]
        text = processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        inputs = processor(text=[text], images=images, size=bounds, return_tensors="pt").to(arguments.device)
        with torch.inference_mode():
            output = loaded.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=decoding.max_new_tokens,
                min_new_tokens=decoding.min_new_tokens,
            )
        response = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        yield request, response, time.perf_counter() - started


def open_engine(
    name: str, model: Path, size: ImageSize, arguments: argparse.Namespace, readable: Path, compiled: bool = False
) -> Engine:
    dtype = dtype_of(arguments)
    free_memory(arguments.device)
    if name == "vllm":
        from leap.inference.vllm import VllmEngine
        from leap.inference.vllm_server import VllmSettings

        extra = tuple(arguments.vllm_args)
        settings = VllmSettings(
            model, size, arguments.device, dtype, max_model_len=4096, readable=readable, extra=extra
        )
        return VllmEngine(settings, arguments.workdir / "vllm.log", arguments.vllm_python)
    from leap.inference.hf import HfEngine

    return HfEngine(model, size, arguments.device, dtype, batch_size=arguments.batch_size, compiled=compiled)


def free_memory(device: str) -> None:
    """What the last model left, which a server of its own would find taken."""
    import gc

    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def result_path(output: Path, result: dict[str, Any]) -> Path:
    """<benchmark>-<device>.json"""
    return output / f"{result['benchmark']}-{result['device'].replace(' ', '-').replace(',', '')}.json"


def dtype_of(arguments: argparse.Namespace) -> str:
    from leap.models.loading import pick_dtype

    return pick_dtype(arguments.dtype, arguments.device)


def origin(device: str) -> dict[str, Any]:
    """Where the figures come from: the machine, the libraries, the code and the command."""
    return {"device": device_name(device), "versions": versions(), **git_state(REPOSITORY), "command": command()}
