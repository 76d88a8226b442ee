"""The engines behind one set of options, for every script that asks a model. A new one is an entry of `ENGINES`, with
its own options in `add_engine_arguments`."""

import argparse
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from leap.cli import any_workers, count, device, some_seconds, some_workers, usd, whole
from leap.errors import UsageError
from leap.hardware import available_memory
from leap.inference.protocol import Engine
from leap.inference.vllm_server import MODEL_NAME

_KEPT = 8  # of the memory that is free, the share that prepared images may take, and as much what is seen in them
_LOCAL = ("device", "dtype", "batch_size", "workers", "base_model_path", "lora_adapter_path")


@dataclass(frozen=True)
class ModelToOpen:
    """A model in `folder` (an adapter's on `base`). Images lie under `data`, mostly; `log` is where a server writes,
    `name` what its requests call the model. A server may take `gpus` GPUs; `expected` requests come. The models in
    `others` will be asked the same."""

    folder: Path
    base: Path | None
    images: Any
    device: str
    dtype: str
    data: Path | None
    log: Path
    name: str = MODEL_NAME
    gpus: int = 1
    expected: int = 0
    others: tuple[Path, ...] = ()


@dataclass(frozen=True)
class EngineKind:
    """What an engine is to the scripts. It refuses all options but its own: a flag that does nothing would mislead.

    Without `open` it asks for the one model of a server (`EngineOptions.endpoint`).
    """

    options: tuple[str, ...]
    open: Callable[[dict[str, Any], ModelToOpen], Engine] | None = None
    examples_a_second: float | None = None  # on an H100, benchmarks/README.md
    own_flags: str | None = None  # the option that holds flags of the engine's own, which decide its responses


def _open_hf(given: dict[str, Any], model: ModelToOpen) -> Engine:
    from leap.inference.hf import HfEngine

    names = ("batch_size", "workers", "quantization", "trust_remote_code")
    chosen = {name: given[name] for name in names if name in given}
    keep = (available_memory() or 0) // _KEPT if model.others else 0
    return HfEngine(
        model.folder, model.images, model.device, model.dtype, model.base, expected=model.expected, keep=keep, **chosen
    )


def _open_vllm(given: dict[str, Any], model: ModelToOpen) -> Engine:
    from leap.inference.vllm import VllmEngine
    from leap.inference.vllm_server import VllmSettings

    settings = VllmSettings(
        model=model.base or model.folder,
        images=model.images,
        device=model.device,
        dtype=model.dtype,
        lora=model.folder if model.base else None,
        others=model.others,
        readable=model.data,
        name=model.name,
        gpus=model.gpus,
        extra=tuple(given.get("vllm_args", ())),
        api_servers=given.get("workers"),
        **({"max_num_seqs": given["batch_size"]} if "batch_size" in given else {}),
    )
    return VllmEngine(settings, model.log, given.get("vllm_python"))


ENGINES: Mapping[str, EngineKind] = MappingProxyType(
    {
        "hf": EngineKind((*_LOCAL, "quantization", "trust_remote_code"), _open_hf, 11.9),
        "vllm": EngineKind((*_LOCAL, "vllm_python", "vllm_args"), _open_vllm, 15.7, own_flags="vllm_args"),
        "openai": EngineKind(("base_url", "model", "concurrency", "timeout", "retries", "input_price", "output_price")),
    }
)
DEFAULT = "hf"


def add_engine_arguments(
    parser: argparse.ArgumentParser, find_model: Callable[[str], Any], default: str | None = DEFAULT
) -> None:
    """The options of the engines; `find_model` says what a model's name means. Without a `default` the script
    chooses one."""
    add = parser.add_argument_group("engine").add_argument
    add(
        "--engine",
        choices=list(ENGINES),
        default=default,
        help="transformers in this process, a vLLM server, or any server"
        + ("" if default else " (default: vllm where it is installed, or else hf)"),
    )
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
    add("--base_model_path", type=find_model, help="the base of a LoRA adapter (default: the one that it names)")
    add("--lora_adapter_path", type=find_model, help="a LoRA adapter's folder; --checkpoint takes it too")
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
        """Raises UsageError for an option that the chosen engine does not have."""
        names = dict.fromkeys(name for kind in ENGINES.values() for name in kind.options)
        given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
        if ignored := [name for name in given if name not in ENGINES[arguments.engine].options]:
            raise UsageError(f"--{ignored[0]} does nothing with --engine {arguments.engine}")
        if arguments.engine == "vllm" and given.get("workers") == 0:
            raise UsageError("--workers 0: a vLLM server needs at least 1")
        return cls(arguments.engine, given)

    @property
    def served(self) -> bool:
        """Whether the engine asks for what a server has, and loads no model."""
        return ENGINES[self.engine].open is None

    @property
    def prices(self) -> tuple[float | None, float | None]:
        """USD per million tokens of prompts and of answers."""
        return self.given.get("input_price"), self.given.get("output_price")

    @property
    def arguments(self) -> tuple[str, ...]:
        """Flags of the engine's own. Stored responses are used again under equal ones only."""
        own = ENGINES[self.engine].own_flags
        return tuple(self.given.get(own, ())) if own else ()

    def endpoint(self) -> Any:
        """The server's `Endpoint`. Raises LeapError where there is none."""
        from leap.inference.openai import find_endpoint

        return find_endpoint(**self.given)

    def open(self, model: ModelToOpen) -> Engine:
        """An engine for a model in a folder; not for one that is `served`."""
        opened = ENGINES[self.engine].open
        assert opened
        return opened(self.given, model)


class EngineOfSweep:
    """One engine for a model after the other: it stays, and takes the next one's weights, where that is possible."""

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._engine: Engine | None = None

    def __enter__(self) -> "EngineOfSweep":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def holding(self, model: ModelToOpen) -> Iterator[Engine]:
        """The engine with this model in it. After an error inside, the next model gets another one; a model that
        cannot be read leaves the engine to the next one."""
        engine = self._with(model)
        try:
            yield engine
        except BaseException:
            self.close()
            raise

    def _with(self, model: ModelToOpen) -> Engine:
        if self._engine and (reason := self._engine.load(model.folder, model.base, model.expected)):
            print(f"{model.folder}: the engine starts anew ({reason})")
            self.close()
        self._engine = self._engine or self._options.open(model)
        return self._engine

    def close(self) -> None:
        if self._engine:
            self._engine.close()
        self._engine = None
