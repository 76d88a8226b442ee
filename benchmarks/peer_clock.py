"""What peers.py runs in a peer's own environment: its trainer, timed with the clock that times LEAP's.

    PEER_PYTHON benchmarks/peer_clock.py JOB.json FOUND.json

Each of these trainers is a `transformers.Trainer`, so that one callback counts steps and seconds of all of them.
Samples (each has one image) and positions are counted where a micro-batch comes into `training_step`. LEAP is neither
imported nor needed.
"""

import functools
import importlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from training_watch import Clock, Count, DataWait, Losses
from transformers import Trainer, TrainerCallback


class TrainingEnded(Exception):
    """The last step is done: what a peer writes and evaluates afterwards is not timed."""


class Watch(TrainerCallback):
    """What a trainer really made of its settings; ends the run with its last step."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        weights, trained = Counter[str](), Counter[str]()
        for weight in model.parameters():
            weights[str(weight.dtype)] += weight.numel()
            trained[str(weight.dtype)] += weight.numel() * weight.requires_grad
        self.found = {
            "weights": dict(weights),
            "trained_weights": {dtype: number for dtype, number in trained.items() if number},
            "attention": model.config.get_text_config()._attn_implementation,
            "vision_attention": model.config.vision_config._attn_implementation,
            "optimizer": type(getattr(optimizer, "optimizer", optimizer)).__name__,
            "autocast": "bfloat16" if args.bf16 else None,
            "gradient_checkpointing": args.gradient_checkpointing,
        }

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        raise TrainingEnded


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    wait, count, losses, watch = DataWait(), Count(), Losses(), Watch()
    clock = Clock(job["warm_up"], job["window"], job["steps"], wait, log)
    found: dict[str, Any] = {"versions": versions(job["packages"])}
    try:
        if "flash_attention_4" in job["options"].values():  # ms-swift's way to name it
            take_lengths_of_any_kind()
        with wait.watching(), watching_trainers(count, [count, clock, losses, watch]):
            TRAINERS[job["trainer"]](job)
    except TrainingEnded:
        pass
    except BaseException as error:  # a refused setting, memory that does not suffice: the reason is a finding
        found["error"] = f"{type(error).__name__}: {str(error).strip()}"
        raise
    finally:
        timed = slice(job["warm_up"], job["warm_up"] + job["steps"])
        found |= {"seconds": clock.windows, "waits": clock.waits, "losses": losses.found, **watch.found}
        found |= {"samples": count.samples[timed], "positions": count.positions[timed], **memory()}
        Path(sys.argv[2]).write_text(json.dumps(found))


def log(text: str) -> None:
    print(text, flush=True)


def versions(packages: list[str]) -> dict[str, str | None]:
    """Of installed packages; None for one that is not."""
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def memory() -> dict[str, float | None]:
    if not torch.cuda.is_available():
        return {"peak_gb": None}
    return {"peak_gb": round(torch.cuda.max_memory_reserved() / 1e9, 1)}


@contextmanager
def watching_trainers(count: Count, callbacks: list[TrainerCallback]) -> Iterator[None]:
    """Whatever Trainer is made has the callbacks, and its micro-batches are counted."""
    make, train = Trainer.__init__, Trainer.training_step

    @functools.wraps(make)
    def made(self: Trainer, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        for callback in callbacks:
            self.add_callback(callback)

    @functools.wraps(train)
    def step(self: Trainer, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        count.add(len(inputs["image_grid_thw"]), inputs["input_ids"].numel())
        return train(self, model, inputs, *args, **kwargs)

    Trainer.__init__, Trainer.training_step = made, step
    try:
        yield
    finally:
        Trainer.__init__, Trainer.training_step = make, train


def take_lengths_of_any_kind() -> None:
    """FlashAttention 4 refuses the longest length as ms-swift gives it: not as an int of Python's."""
    cute = importlib.import_module("flash_attn.cute")
    attend = cute.flash_attn_varlen_func

    @functools.wraps(attend)
    def attend_with_ints(*args: Any, **kwargs: Any) -> Any:
        for name in ("max_seqlen_q", "max_seqlen_k"):
            if kwargs.get(name) is not None:
                kwargs[name] = int(kwargs[name])
        return attend(*args, **kwargs)

    cute.flash_attn_varlen_func = attend_with_ints


def train_swift(job: dict[str, Any]) -> None:
    from swift import sft_main

    words = []
    for name, value in job["options"].items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *(str(one).lower() if isinstance(one, bool) else str(one) for one in values)]
    sft_main(words)


def train_llama_factory(job: dict[str, Any]) -> None:
    from llamafactory.train.tuner import run_exp

    run_exp(job["options"])


def train_trl(job: dict[str, Any]) -> None:
    """As TRL's example for models that see has it."""
    from datasets import Image, Sequence, load_dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    options = dict(job["options"])
    model, data, lora = options.pop("model"), options.pop("dataset"), options.pop("lora", None)
    samples = load_dataset("json", data_files=data, split="train").cast_column("images", Sequence(Image()))
    adapters = LoraConfig(task_type="CAUSAL_LM", **lora) if lora else None
    SFTTrainer(model=model, args=SFTConfig(**options), train_dataset=samples, peft_config=adapters).train()


TRAINERS = {"ms-swift": train_swift, "llamafactory": train_llama_factory, "trl": train_trl}


if __name__ == "__main__":
    main()
