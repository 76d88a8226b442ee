"""Training speed: samples a second of LEAP's training and of the seed's setting, in one run on one machine.

    python benchmarks/training_throughput.py --workdir /tmp/leap-speed
    python benchmarks/training_throughput.py --modes full --memory_limit_gb 24
    python benchmarks/training_throughput.py --modes full --skip_seed --mixed
    python benchmarks/training_throughput.py --modes full --skip_seed --profile --set gradient_checkpointing=false
    torchrun --nproc_per_node 2 benchmarks/training_throughput.py --modes full --skip_seed --one_gpu RESULT.json
    python benchmarks/training_throughput.py --device cpu --small --batch 2 2 --image 96 64 --image_tokens 4 16

The seed's setting is the library's Trainer on a bfloat16 model, 6 samples x 6 accumulated batches (LoRA: 4 x 9),
gradient checkpointing, images prepared in the main process. Ours is a recipe, trained by the code that users run. Both
train a model of Qwen3-VL-2B's shape, of random weights, on the same samples: an image of 640x480 pixels each, an
instruction and an answer of its own, none of them twice (`--mixed`: images of three sizes by turns, and answers of
log-normal lengths). Steps are timed in windows after a warm-up, the data loader
included; the seed's setting waits for the host's processor, so that its steps differ much where others use that host
too. Before, both take a few steps on the same 36 samples, whose losses are compared. What is known is written when a
side is done, to <result>.partial, so a run that is cut off loses nothing.
"""

import argparse
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import installed  # noqa: F401
import yaml
from compared import REPOSITORY, free_memory, origin, result_path
from full_size import MIXED_IMAGES, make_model, make_samples
from step_profile import as_markdown

from configs.config import WorkspaceConfig
from leap.cli import Parser, count, gigabytes, image_tokens, run, whole
from leap.data.chat_encoding import ChatFormat
from leap.data.image import ImageEncoder, ImageSize
from leap.hardware import peak_flops
from leap.models.loading import load_processor
from leap.progress import duration
from leap.records.files import write_atomic
from leap.records.json_files import read_object, write_json
from leap.records.training import TrainingSample
from leap.training.flops import EVERYTHING, Trained, sample_flops

if TYPE_CHECKING:
    from training_watch import Count

PROFILED_STEPS = 2
STARTED = time.perf_counter()


@dataclass(frozen=True)
class Mode:
    """One way to train, on both sides."""

    recipe: str
    batch: tuple[int, int]  # the seed's samples a batch, and accumulated batches
    trained: Trained


MODES = {
    "full": Mode("full", (6, 6), EVERYTHING),
    "lora": Mode("lora-standard", (4, 9), Trained(False, False, False, 16, ("q_proj", "k_proj", "v_proj", "o_proj"))),
}


@dataclass(frozen=True)
class Setting:
    """What both sides of a mode are measured on."""

    arguments: argparse.Namespace
    name: str
    mode: Mode
    model: Path
    processor: Any
    samples: list[TrainingSample]
    world: int

    @property
    def batch(self) -> tuple[int, int]:
        return tuple(self.arguments.batch) if self.arguments.batch else self.mode.batch

    @property
    def step_samples(self) -> int:
        """Samples of an optimiser step, on all ranks."""
        return self.batch[0] * self.batch[1] * self.world

    @property
    def values(self) -> dict[str, Any]:
        """Recipe values that the command line gives."""
        items = (item.partition("=") for item in self.arguments.set)
        return {key: yaml.safe_load(value) for key, _, value in items}

    @property
    def size(self) -> ImageSize:
        return ImageSize(*self.arguments.image_tokens)

    @property
    def images(self) -> tuple[tuple[int, int], ...]:
        """Width and height of the samples' images, by turns."""
        return image_sizes(self.arguments)


def main() -> int:
    arguments = parse_arguments()
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if arguments.device.startswith("cuda"):
        arguments.device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        limit_memory(arguments.device, arguments.memory_limit_gb)
    model, processor, samples = prepare(arguments, world)
    failed = []
    for name in arguments.modes:
        setting = Setting(arguments, name, MODES[name], model, processor, samples, world)
        result = {**describe(setting)}
        for side, measure in (("seed", measure_seed), ("ours", measure_ours)):
            if side in arguments.skip:
                continue
            found = attempt(measure, setting, teller(rank, f"{name}, {side}"))
            failed += [f"{name}, {side}"] * ("error" in found)
            result |= as_result(setting, side, found, result)
            if rank == 0:
                write_result(setting, result, finished=side == "ours" and "error" not in found)
    if failed:
        print(f"failed: {'; '.join(failed)}", flush=True)
    return 1 if failed else 0


def parse_arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    add_arguments(parser)
    add = parser.add_argument
    add("--modes", nargs="+", choices=tuple(MODES), default=list(MODES), help="what is trained")
    add("--seed_steps", type=count, default=12, help="timed steps of the seed's, each a window (default %(default)s)")
    add(
        "--parity_steps",
        type=whole,
        default=3,
        help="compared steps on the same samples; 0: none (default %(default)s)",
    )
    add("--skip_seed", dest="skip", action="append_const", const="seed", default=[], help="measure ours alone")
    add("--skip_ours", dest="skip", action="append_const", const="ours", help="measure the seed's setting alone")
    add(
        "--memory_limit_gb",
        type=gigabytes,
        help="let PyTorch take so many gigabytes (10^9 bytes) of the GPU at the most",
    )
    add("--profile", action="store_true", help=f"trace {PROFILED_STEPS} more steps of ours")
    add("--one_gpu", type=Path, metavar="RESULT", help="one rank's result from this machine, to say how ours scales")
    return check_arguments(parser)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is trained on and how long is measured: peers.py has these flags as well."""
    add = parser.add_argument
    add("--device", default="cuda", help="cuda (each process its own) or cpu")
    add("--steps", type=count, default=24, help="timed steps of ours (default %(default)s)")
    add("--window", type=count, default=4, help="steps of ours in a window (default %(default)s)")
    add("--warm_up", type=count, default=6, help="steps of ours before them (default %(default)s)")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="recipe values of ours")
    add("--samples", type=count, help="samples of the training file (default: 1500, or more where the steps need them)")
    add("--batch", type=count, nargs=2, metavar=("ROWS", "ACCUMULATED"), help="on both sides, in place of the modes'")
    add("--image", type=count, nargs=2, default=(640, 480), metavar=("WIDTH", "HEIGHT"), help="in pixels")
    add("--mixed", action="store_true", help="images of three sizes in place of --image's, and log-normal answers")
    add("--image_tokens", type=image_tokens, nargs=2, default=(256, 768), metavar=("MIN", "MAX"), help="of an image")
    add("--small", action="store_true", help="few and narrow layers, to try the benchmark itself")
    add("--workdir", type=Path, default=Path("/tmp/leap-speed"), help="what is made for the benchmark lies here")
    add("--output", type=Path, default=REPOSITORY / "benchmarks" / "results", help="folder to write to")


def check_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    arguments = parser.parse_args()
    if arguments.steps % arguments.window:
        parser.error(f"--steps {arguments.steps} is no multiple of --window {arguments.window}")
    return arguments


def image_sizes(arguments: argparse.Namespace) -> tuple[tuple[int, int], ...]:
    return MIXED_IMAGES if arguments.mixed else (tuple(arguments.image),)


def variant_name(arguments: argparse.Namespace) -> str:
    """What a result's name has after the benchmark's, for other samples or another model."""
    return "_mixed" * arguments.mixed + "_small" * arguments.small


def limit_memory(device: str, gigabytes: float | None) -> None:
    import torch

    torch.cuda.set_device(device)
    if gigabytes is not None:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gigabytes * 1e9 / total), device)


def teller(rank: int, what: str) -> Callable[[str], None]:
    """Prints with the time since the start, on the first process."""

    def log(text: str) -> None:
        if rank == 0:
            print(f"[{duration(time.perf_counter() - STARTED)}] {what}: {text}", flush=True)

    return log


def prepare(arguments: argparse.Namespace, world: int) -> tuple[Path, Any, list[TrainingSample]]:
    """The model and the samples; the first process makes them, the others wait."""
    from accelerate import PartialState

    model = arguments.workdir / ("qwen3-vl-small" if arguments.small else "qwen3-vl-2b")
    state = PartialState(cpu=arguments.device == "cpu")
    with state.main_process_first():
        if not (model / "config.json").is_file():
            make_model(model, arguments.device, small=arguments.small)
        processor = load_processor(model)
        largest = max(MODES[name].batch[0] * MODES[name].batch[1] for name in arguments.modes) * world
        needed = largest * (arguments.warm_up + arguments.steps + PROFILED_STEPS)
        wanted = arguments.samples or (64 if arguments.small else max(1500, needed))
        samples = make_samples(arguments.workdir, wanted, processor, image_sizes(arguments), arguments.mixed)
    teller(state.process_index, "data")(f"{len(samples)} samples")
    return model, processor, samples


def attempt(measure: Callable[..., dict[str, Any]], setting: Setting, log: Callable[[str], None]) -> dict[str, Any]:
    """A side's figures, or why it has none: memory that does not suffice is a finding."""
    import torch

    free_memory(setting.arguments.device)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        found = measure(setting, log)
    except torch.OutOfMemoryError as error:
        found = {"error": str(error).splitlines()[0]}
        log(f"out of memory: {found['error']}")
    return {**found, **memory()}


def memory() -> dict[str, Any]:
    import torch

    if not torch.cuda.is_available():
        return {"peak_gb": None, "peak_allocated_gb": None}
    reserved, allocated = torch.cuda.max_memory_reserved(), torch.cuda.max_memory_allocated()
    return {"peak_gb": round(reserved / 1e9, 1), "peak_allocated_gb": round(allocated / 1e9, 1)}


def measure_seed(setting: Setting, log: Callable[[str], None]) -> dict[str, Any]:
    """Timed steps first, then the steps whose losses are compared."""
    from seed_training import train_as_seed
    from training_watch import Clock, DataWait

    wait = DataWait()
    steps = setting.arguments.seed_steps
    clock = Clock(warm_up=1, window=1, steps=steps, wait=wait, log=log)
    common = (setting.model, setting.processor, setting.size)
    place = (setting.arguments.workdir, setting.name, setting.batch)
    with wait.watching():
        train_as_seed(*common, setting.samples, *place, steps=steps + 1, warmup_steps=800, callbacks=[clock])
    found = {"windows": clock.windows, "waits": clock.waits, "window": 1}
    if setting.arguments.parity_steps:
        free_memory(setting.arguments.device)
        same = setting.samples[: setting.step_samples]
        steps = setting.arguments.parity_steps
        found["losses"] = train_as_seed(*common, same, *place, steps=steps, warmup_steps=0, callbacks=[])
        log(f"losses {', '.join(f'{loss:.4f}' for loss in found['losses'])}")
    return found


def measure_ours(setting: Setting, log: Callable[[str], None]) -> dict[str, Any]:
    from training_watch import Clock, Count, DataWait, Losses, StepProfile

    asked = setting.arguments
    found: dict[str, Any] = {"window": asked.window}
    if asked.parity_steps:
        losses = Losses()
        values = {"max_steps": asked.parity_steps, "warmup_steps": 0, "logging_steps": 1}
        train_ours(setting, "parity", setting.samples[: setting.step_samples], values, [losses], log)
        found["losses"] = losses.found
        log(f"losses {', '.join(f'{loss:.4f}' for loss in losses.found)}")
        free_memory(asked.device)
    wait = DataWait()
    clock = Clock(asked.warm_up, asked.window, asked.steps, wait, log)
    traced = asked.profile and os.environ.get("RANK", "0") == "0"  # one rank's file
    profile = StepProfile(PROFILED_STEPS, asked.workdir / "trace.json") if traced else None
    counted = Count()
    total = asked.warm_up + asked.steps + (PROFILED_STEPS + 1 if asked.profile else 0)
    with wait.watching(), patch("leap.training.loop.forward_backward", counting(counted)):
        values = {"max_steps": total, "warmup_steps": 0}  # a whole run has more steps than 800
        callbacks = [counted, clock, *([profile] if profile else [])]
        recipe = train_ours(setting, "timed", setting.samples, values, callbacks, log)
    timed = slice(asked.warm_up, asked.warm_up + asked.steps)
    found |= {"windows": clock.windows, "waits": clock.waits, "recipe": recipe}
    found |= {"samples": counted.samples[timed], "positions": counted.positions[timed]}
    if profile and profile.summary:
        found["profile"] = profile.summary
        log("where the time goes\n" + as_markdown(profile.summary))
    return found


def counting(counted: "Count") -> Callable[..., Iterator[Any]]:
    """The training loop's step, whose samples and positions are counted; those done again in smaller batches once."""
    from leap.training.loop import forward_backward

    def step(job: Any, model: Any, step_batches: list[dict[str, Any]], number: int) -> Iterator[Any]:
        for batch, done in zip(step_batches, forward_backward(job, model, step_batches, number), strict=True):
            counted.add(len(done[0]), batch["input_ids"].numel())
            yield done

    return step


def train_ours(
    setting: Setting,
    name: str,
    samples: Sequence[TrainingSample],
    values: dict[str, Any],
    callbacks: Sequence[Any],
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Train on these samples as the scripts do; returns the recipe's values."""
    from accelerate import PartialState

    from leap.training.dry_run import describe as plan
    from leap.training.fine_tune import check_run, train
    from leap.training.recipe import read_recipe

    root = setting.arguments.workdir
    output = root / "output" / f"{setting.name}-{name}"
    file = root / f"{setting.name}-{name}.jsonl"
    state = PartialState()
    if state.is_main_process:
        shutil.rmtree(output, ignore_errors=True)
        write_atomic(file, "".join(sample.model_dump_json(exclude_none=True) + "\n" for sample in samples))
    state.wait_for_everyone()
    least, most = setting.arguments.image_tokens
    values = {
        "model_name_or_path": str(setting.model),
        "train_file": str(file),
        "val_file": None,
        "image_root": str(root),
        "output_dir": str(output),
        "image_tokens_min": least,
        "image_tokens_max": most,
        "report_to": "none",
        "save_steps": 1_000_000,
        **values,
    }
    if setting.arguments.batch:
        values |= dict(zip(("per_device_train_batch_size", "gradient_accumulation_steps"), setting.batch, strict=True))
    recipe = read_recipe(WorkspaceConfig.find().recipes / f"{setting.mode.recipe}.yaml", values | setting.values)
    checked = check_run(recipe, root, root / "cache")
    if name == "timed":
        log("the plan\n" + plan(checked))
    train(checked, REPOSITORY, root / "logs", callbacks)
    return recipe.model_dump(mode="json")


def describe(setting: Setting) -> dict[str, Any]:
    """What a mode's result says before anything is measured: the machine, and what a sample costs."""
    tokens, labels, patches, flops = [], [], [], []
    chat, encoder = ChatFormat(setting.processor), ImageEncoder(setting.processor, setting.size)
    config = read_object(setting.model / "config.json")
    of_images = [encoder.tokens(height, width) for width, height in setting.images]
    merge = config["vision_config"]["spatial_merge_size"] ** 2
    for sample, of_image in zip(setting.samples, cycle(of_images)):
        encoded = chat.encode(sample.messages, sample.target.steps, [of_image])
        tokens.append(len(encoded.input_ids))
        labels.append(len(chat.answer_ids(sample.target.steps)))
        patches.append(of_image * merge)
        flops.append(sample_flops(config, tokens[-1], labels[-1], [patches[-1]], setting.mode.trained))
    where = origin(setting.arguments.device)
    peak = peak_flops(where["device"])
    if setting.world > 1:
        where["device"] = f"{setting.world} x {where['device']}"
    limit = setting.arguments.memory_limit_gb
    variant = variant_name(setting.arguments) + "_fsdp" * bool(setting.values.get("fsdp"))
    return {
        "benchmark": f"training_throughput_{setting.name}{variant}" + (f"_{limit:g}gb" if limit else ""),
        **where,
        "settings": {
            "mode": setting.name,
            "processes": setting.world,
            "seed_batch": list(setting.batch),
            "rows": len(setting.samples),
            "image": [list(size) for size in setting.images] if setting.arguments.mixed else setting.images[0],
            "image_tokens": of_images if setting.arguments.mixed else of_images[0],
            "tokens": round(statistics.mean(tokens), 1),
            "label_tokens": round(statistics.mean(labels), 1),
            "tflop_a_sample": round(statistics.mean(one.total for one in flops) / 1e12, 4),
            "vision_share": round(sum(one.vision for one in flops) / sum(one.total for one in flops), 4),
            "peak_tflops_a_gpu": peak and peak / 1e12,
            "memory_limit_gb": limit,
        },
        "unit": "samples per second",
    }


def as_result(setting: Setting, side: str, found: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """The result's keys that a side adds: the figure itself, and everything else under seed_* or its own name."""
    prefix = "seed_" if side == "seed" else ""
    figure = "seed_setting" if side == "seed" else "ours"
    added = {f"{prefix}{key}": found[key] for key in ("peak_gb", "peak_allocated_gb", "error") if key in found}
    if "error" in found:
        return {figure: None, **added}
    rates = [
        samples / seconds for samples, seconds in zip(window_samples(setting, found), found["windows"], strict=True)
    ]
    rate, settings = statistics.median(rates), result["settings"]
    peak = settings["peak_tflops_a_gpu"]
    added |= {
        figure: round(rate, 3),
        f"{prefix}windows": [round(one, 3) for one in rates],
        f"{prefix}tokens_per_second": round(rate * settings["tokens"]),
        f"{prefix}mfu": peak and round(rate * settings["tflop_a_sample"] / (peak * setting.world), 4),
        f"{prefix}data_wait_share": round(sum(found["waits"]) / sum(found["windows"]), 4),
        f"{prefix}losses": found.get("losses", []),
    }
    if side == "seed":
        return added
    added["recipe"] = found["recipe"]
    added["samples_a_step"] = statistics.mean(found["samples"]) * setting.world
    added["positions_a_step"] = round(statistics.mean(found["positions"]) * setting.world)
    if "profile" in found:
        added["profile"] = found["profile"]
    if setting.arguments.one_gpu:
        added |= scaling(rate, read_object(setting.arguments.one_gpu))
    if result.get("seed_setting"):
        added["ratio"] = round(rate / result["seed_setting"], 2)
        added["parity"] = parity(result["seed_losses"], found.get("losses", []))
    return added


def scaling(rate: float, one: dict[str, Any]) -> dict[str, Any]:
    """How many times as fast as one process, whose result it keeps the main part of."""
    kept = ("device", "command", "ours", "windows", "mfu", "peak_gb")
    return {"one_gpu": {key: one[key] for key in kept}, "scaling": round(rate / one["ours"], 3)}


def window_samples(setting: Setting, found: dict[str, Any]) -> list[int]:
    """Samples of each window: ours counts them, since its recipe's may differ from the seed's."""
    window = found["window"]
    steps = found.get("samples") or [setting.batch[0] * setting.batch[1]] * (window * len(found["windows"]))
    return [sum(steps[first : first + window]) * setting.world for first in range(0, len(steps), window)]


def parity(seed: Sequence[float], ours: Sequence[float]) -> dict[str, Any]:
    """Losses of the same steps on the same samples from the same weights: bfloat16 there, our recipe here."""
    differences = [abs(a - b) / abs(a) for a, b in zip(seed, ours, strict=False)]
    if not differences:
        return {}
    return {"first_step_loss_difference": differences[0], "largest_loss_difference": max(differences)}


def write_result(setting: Setting, result: dict[str, Any], finished: bool) -> None:
    """The result's file, or <file>.partial while a side is still to come or has failed."""
    limit = setting.arguments.memory_limit_gb
    path = result_path(setting.arguments.output, result)
    partial = path.with_name(path.name + ".partial")
    write_json(path if finished else partial, result)
    if finished:
        partial.unlink(missing_ok=True)
    figures = {key: result.get(key) for key in ("seed_setting", "ours", "ratio", "mfu", "peak_gb", "parity")}
    print(f"{path if finished else partial}: {figures}{f', at most {limit:g} GB' if limit else ''}", flush=True)


if __name__ == "__main__":
    run(main)
