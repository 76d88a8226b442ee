"""The three engines behind one set of options, for every script that asks a model."""

import argparse
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leap.cli import any_workers, count, device, some_seconds, some_workers, usd, whole
from leap.errors import UsageError
from leap.inference.protocol import Engine

ENGINES = ("hf", "vllm", "openai")
_LOCAL = ("hf", "vllm")

# Option -> the engines that heed it. Any other engine refuses it: a flag that does nothing would mislead.
_HEEDED_BY = {
    "device": _LOCAL,
    "dtype": _LOCAL,
    "batch_size": _LOCAL,
    "workers": _LOCAL,
    "base_model_path": _LOCAL,
    "lora_adapter_path": _LOCAL,
    "quantization": ("hf",),
    "trust_remote_code": ("hf",),
    "vllm_python": ("vllm",),
    "vllm_args": ("vllm",),
    "base_url": ("openai",),
    "model": ("openai",),
    "concurrency": ("openai",),
    "timeout": ("openai",),
    "retries": ("openai",),
    "input_price": ("openai",),
    "output_price": ("openai",),
}


def add_engine_arguments(parser: argparse.ArgumentParser, find: Callable[[str], Path]) -> None:
    """The options of the engines; `find` says where a path is."""
    add = parser.add_argument_group("engine").add_argument
    add("--engine", choices=ENGINES, default="hf", help="transformers in this process, a vLLM server, or any server")
    add("--device", type=device, help="cuda, cuda:1, cpu (default: the first GPU, or else the CPU)")
    add(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="default: bfloat16 on a GPU (float16 before Ampere), else float32",
    )
    add("--batch_size", type=count, help="a cap (default: as many as the memory holds; 32 on a CPU)")
    add(
        "--workers",
        type=any_workers,
        help="processes that prepare images (default: from the CPU cores; hf: 0 is none)",
    )
    add("--base_model_path", type=find, help="the base of a LoRA adapter (default: the one that it names)")
    add("--lora_adapter_path", type=find, help="a LoRA adapter's folder; --checkpoint takes it too")
    add("--quantization", choices=("4bit", "8bit"), help="hf: load the weights quantized, with bitsandbytes")
    add("--trust_remote_code", action="store_true", default=None, help="hf: run the code that lies with the model")
    add("--vllm_python", help="vllm: the Python of its environment (default: $LEAP_VLLM_PYTHON)")
    add("--vllm_args", type=shlex.split, help='vllm: its own flags, "--max-num-seqs 64 --seed 1", say')
    add(
        "--base_url",
        help="openai: the server's address, up to /v1 (default: $OPENAI_BASE_URL, or OpenAI's; key: $OPENAI_API_KEY)",
    )
    add("--model", help="openai: the model's name there (default: the only one)")
    add("--concurrency", type=some_workers, help="openai: requests at once, at most (default: 32)")
    add("--timeout", type=some_seconds, help="openai: seconds a request may take (default: 600)")
    add("--retries", type=whole, help="openai: tries after a failed one (default: 8)")
    add("--input_price", type=usd, help="openai: USD per million tokens of prompts, for the manifest's cost")
    add("--output_price", type=usd, help="openai: USD per million tokens of answers")


@dataclass(frozen=True)
class EngineOptions:
    """What was chosen; None where the engine decides."""

    engine: str
    given: dict[str, Any]

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "EngineOptions":
        """Raises UsageError for an option that the chosen engine does not heed."""
        given = {name: getattr(arguments, name) for name in _HEEDED_BY if getattr(arguments, name) is not None}
        for name in given:
            if arguments.engine not in _HEEDED_BY[name]:
                raise UsageError(f"--{name} does nothing with --engine {arguments.engine}")
        if arguments.engine == "vllm" and given.get("workers") == 0:
            raise UsageError("--workers 0: a vLLM server needs at least 1")
        return cls(arguments.engine, given)

    @property
    def prices(self) -> tuple[float | None, float | None]:
        """USD per million tokens of prompts and of answers."""
        return self.given.get("input_price"), self.given.get("output_price")

    def endpoint(self) -> Any:
        """The server's `Endpoint`. Raises LeapError where there is none."""
        from leap.inference.openai import find_endpoint

        return find_endpoint(**self.given)


def open_local(
    options: EngineOptions,
    folder: Path,
    base: Path | None,
    images: Any,
    device: str,
    dtype: str,
    data: Path,
    log: Path,
) -> Engine:
    """An engine for the model in `folder` (an adapter's on `base`).

    Images lie under `data`, mostly; `log` is where a server writes.
    """
    given = options.given
    if options.engine == "vllm":
        from leap.inference.vllm import VllmEngine
        from leap.inference.vllm_server import VllmSettings

        settings = VllmSettings(
            model=base or folder,
            images=images,
            device=device,
            dtype=dtype,
            lora=folder if base else None,
            readable=data,
            extra=tuple(given.get("vllm_args", ())),
            api_servers=given.get("workers"),
            **({"max_num_seqs": given["batch_size"]} if "batch_size" in given else {}),
        )
        return VllmEngine(settings, log, given.get("vllm_python"))
    from leap.inference.hf import HfEngine

    names = ("batch_size", "workers", "quantization", "trust_remote_code")
    return HfEngine(folder, images, device, dtype, base, **{name: given[name] for name in names if name in given})
