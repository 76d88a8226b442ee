"""Training speed beside other trainers: ms-swift, LLaMA-Factory and TRL at their best settings, on the same samples.

    python benchmarks/peers.py --mixed --ms_swift_python ~/peers/ms-swift/bin/python \\
        --llamafactory_python ~/peers/llamafactory/bin/python --trl_python ~/peers/trl/bin/python
    python benchmarks/peers.py --mixed --precisions bf16 --peers trl-sdpa --trl_python ~/peers/trl/bin/python
    python benchmarks/peers.py --device cpu --small --batch 2 1 --image 96 64 --image_tokens 4 16 --set bf16=false \\
        --precisions fp32 --steps 4 --window 2 --warm_up 1 --trl_python python

Every part is a process of its own: LEAP by training_throughput.py, a peer by peer_clock.py in its own environment
(benchmarks/README.md has the commands that make them). All train the same model on the same file of samples, as many
samples a step, in windows of as many steps after as many to warm up, in bfloat16 arithmetic. "bf16" has weights of
bfloat16 on both sides, "fp32" of float32, "lora" adapters on weights of bfloat16. Of a peer's micro-batches, without
activation checkpointing, the largest that fits is taken. One that fails is a finding with its reason. Each part is
written when it is done; the same command again takes up those that are missing, and --peers and --precisions choose.
Peers that are not tried are named in the result.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import installed  # noqa: F401
from compared import origin, result_path
from peer_settings import COMMON, PEERS, PLATFORM, PRECISIONS, TRAINERS, Peer
from training_throughput import MODES, add_arguments, check_arguments, image_sizes, prepare, teller, variant_name

from leap.cli import Parser, count, run
from leap.data.image import ImageSize
from leap.hardware import usable_cores
from leap.models.image_size import record_size
from leap.provenance import now
from leap.records.files import write_atomic
from leap.records.json_files import read_object, write_json
from leap.records.training import TrainingSample

HERE = Path(__file__).resolve().parent
SAME = ("device", "commit", "settings")  # of parts that may stand in one result


def main() -> int:
    arguments = parse_arguments()
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # whose GPU memory is free again for what is measured
        where = pool.submit(make_data, arguments).result()
    failed = []
    for precision in arguments.precisions:
        result = earlier_parts(new_result(arguments, where, precision), arguments.output)
        for name in ["LEAP", *arguments.peers]:
            log = teller(0, f"{precision}, {name}")
            if "samples_per_second" in result["systems"].get(name, {}):
                log("measured already")
                continue
            for found in measure(arguments, precision, name, result):
                result["systems"][name] = {"end": now(), **found}
                write_result(arguments.output, result, arguments.peers)
                log(found.get("error") or f"{found['samples_per_second']} samples/s, windows {found['windows']}")
            failed += [f"{precision}, {name}"] * ("error" in result["systems"][name])
    if failed:
        print(f"failed: {'; '.join(failed)}", flush=True)
    return 1 if failed else 0


def parse_arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    add_arguments(parser)
    add = parser.add_argument
    add("--precisions", nargs="+", choices=tuple(PRECISIONS), default=list(PRECISIONS), help="what is measured")
    add("--peers", nargs="+", choices=tuple(PEERS), help="settings of peers (default: of each whose Python is given)")
    add("--rows", type=count, help="samples of a peer's micro-batch at most (default: a step's)")
    add("--longest", type=count, default=900, help="seconds of a part at most (default %(default)s)")
    for trainer in TRAINERS:
        add(
            f"--{trainer.replace('-', '_')}_python",
            metavar="PYTHON",
            help=f"the interpreter of {trainer}'s environment",
        )
    arguments = check_arguments(parser)
    arguments.modes = list(MODES)
    able = [name for name, peer in PEERS.items() if python_of(arguments, peer)]
    arguments.peers = arguments.peers or able
    for name in arguments.peers:
        if name not in able:
            parser.error(f"{name} needs --{PEERS[name].trainer.replace('-', '_')}_python")
    if not able:
        parser.error("no peer's Python is given: --trl_python, for instance")
    return arguments


def python_of(arguments: argparse.Namespace, peer: Peer) -> str | None:
    """Absolute, since a peer runs in a folder of its own; a name is looked for on the PATH."""
    given = getattr(arguments, f"{peer.trainer.replace('-', '_')}_python")
    return given and os.path.abspath(shutil.which(given) or given)


def make_data(arguments: argparse.Namespace) -> dict[str, Any]:
    """The model and the samples, and both as the peers read them; returns where the figures will come from."""
    model, processor, samples = prepare(arguments, world=1)
    folder = arguments.workdir / "peers"
    shutil.rmtree(folder, ignore_errors=True)
    copy_model(model, folder / "model", processor, ImageSize(*arguments.image_tokens))
    root = arguments.workdir.resolve()
    for name, form in (("messages", as_messages), ("prompts", as_prompt)):
        write_atomic(folder / f"{name}.jsonl", "".join(json.dumps(form(sample, root)) + "\n" for sample in samples))
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages", "images": "images"}
    described = {"file_name": "messages.jsonl", "formatting": "sharegpt", "columns": columns, "tags": tags}
    write_json(folder / "dataset_info.json", {"leap": described})
    return origin("cuda:0" if arguments.device == "cuda" else arguments.device)


def copy_model(model: Path, folder: Path, processor: Any, size: ImageSize) -> None:
    """The same weights with a processor that gives images the size that LEAP's recipe gives them."""
    folder.mkdir(parents=True)
    for file in model.glob("*.safetensors*"):
        (folder / file.name).symlink_to(file.resolve())
    for name in ("config.json", "generation_config.json"):
        shutil.copy(model / name, folder)
    record_size(processor, size)
    processor.save_pretrained(folder)


def as_messages(sample: TrainingSample, root: Path) -> dict[str, Any]:
    text, images = question_of(sample, root)
    user, assistant = (
        {"role": "user", "content": "<image>" + text},
        {"role": "assistant", "content": sample.target.steps},
    )
    return {"messages": [user, assistant], "images": images}


def as_prompt(sample: TrainingSample, root: Path) -> dict[str, Any]:
    text, images = question_of(sample, root)
    completion = [{"role": "assistant", "content": sample.target.steps}]
    return {"prompt": [{"role": "user", "content": text}], "completion": completion, "images": images}


def question_of(sample: TrainingSample, root: Path) -> tuple[str, list[str]]:
    """The text, and the image before it."""
    (message,) = sample.messages
    image, text = message.parts()
    return text.text, [str(root / image.image)]


def new_result(arguments: argparse.Namespace, where: dict[str, Any], precision: str) -> dict[str, Any]:
    return {
        "benchmark": f"training_peers_{precision}{variant_name(arguments)}",
        **where,
        "settings": {
            "precision": precision,
            "samples_a_step": step_samples(arguments, precision),
            "image": [list(size) for size in image_sizes(arguments)],
            "image_tokens": list(arguments.image_tokens),
            "steps": arguments.steps,
            "window": arguments.window,
            "warm_up": arguments.warm_up,
        },
        "unit": "samples per second",
        "systems": {},
    }


def step_samples(arguments: argparse.Namespace, precision: str) -> int:
    rows, accumulated = arguments.batch or MODES[PRECISIONS[precision].mode].batch
    return rows * accumulated


def partial_path(output: Path, result: dict[str, Any]) -> Path:
    path = result_path(output, result)
    return path.with_name(path.name + ".partial")


def earlier_parts(result: dict[str, Any], output: Path) -> dict[str, Any]:
    """With the parts that are measured already, by this code on this machine in this way."""
    for path in (partial_path(output, result), result_path(output, result)):
        if path.is_file():
            found = read_object(path)
            if all(found[key] == result[key] for key in SAME):
                return result | {"systems": found["systems"]}
    return result


def measure(
    arguments: argparse.Namespace, precision: str, name: str, result: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """A system's figures or the reason why it has none; each micro-batch for which memory did not suffice before."""
    if name == "LEAP":
        yield measure_leap(arguments, precision)
        return
    total = result["settings"]["samples_a_step"]
    too_large = list(result["systems"].get(name, {}).get("too_large", []))
    for rows in sorted((rows for rows in range(1, total + 1) if total % rows == 0), reverse=True):
        if rows in too_large or rows > (arguments.rows or total):
            continue
        found = measure_peer(arguments, precision, name, (rows, total // rows), result)
        short = "outofmemory" in found.get("error", "").replace(" ", "").lower()
        too_large += [rows] * short
        yield found | {"too_large": too_large}
        if not short:
            return


def measure_leap(arguments: argparse.Namespace, precision: str) -> dict[str, Any]:
    """By the benchmark of training, alone."""
    chosen, output = PRECISIONS[precision], arguments.workdir / "peers" / f"leap-{precision}"
    shutil.rmtree(output, ignore_errors=True)
    words = [sys.executable, str(HERE / "training_throughput.py"), "--skip_seed", "--parity_steps", 0]
    words += ["--modes", chosen.mode, "--output", output, "--workdir", arguments.workdir, "--device", arguments.device]
    for name in ("steps", "window", "warm_up"):
        words += [f"--{name}", getattr(arguments, name)]
    for name in ("image", "image_tokens", "batch"):
        words += [f"--{name}", *getattr(arguments, name)] if getattr(arguments, name) else []
    words += ["--samples", arguments.samples] if arguments.samples else []
    words += [flag for flag in ("--mixed", "--small") if getattr(arguments, flag[2:])]
    words += ["--set", *chosen.values, *arguments.set] if chosen.values or arguments.set else []
    reason = call(words, output.with_suffix(".log"), dict(os.environ), Path.cwd(), arguments.longest)
    files = list(output.glob("training_throughput_*"))
    found = read_object(files[0]) if files else {}
    if reason or "ours" not in found:
        return {"error": found.get("error") or reason}
    kept = ("windows", "mfu", "peak_gb", "data_wait_share", "samples_a_step", "positions_a_step", "versions", "recipe")
    settings = {key: found["settings"][key] for key in ("tokens", "tflop_a_sample", "peak_tflops_a_gpu")}
    attention = f"packed, {found['recipe']['attn_implementation']}"
    figures = {"samples_per_second": found["ours"], "attention": attention}
    return figures | {key: found[key] for key in kept} | settings


def measure_peer(
    arguments: argparse.Namespace, precision: str, name: str, batch: tuple[int, int], result: dict[str, Any]
) -> dict[str, Any]:
    peer = PEERS[name]
    trainer, folder = TRAINERS[peer.trainer], arguments.workdir.resolve() / "peers"
    part = folder / f"{name}-{precision}"
    options = options_of(arguments, precision, peer, batch, folder)
    pins = dict(pin.split("==") for pin in (*PLATFORM, *trainer.versions))
    job = {"trainer": peer.trainer, "options": options, "packages": list(pins)}
    write_json(part / "job.json", job | {key: getattr(arguments, key) for key in ("steps", "window", "warm_up")})
    found_path = part / "found.json"
    found_path.unlink(missing_ok=True)
    least, most = arguments.image_tokens
    environment = {
        **os.environ,  # with LEAP's setting of PyTorch's allocator, so that larger micro-batches fit
        **trainer.environment,
        "HF_HOME": str(folder / "cache"),
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[
            0
        ],  # else they divide a batch
        "IMAGE_MIN_TOKEN_NUM": str(least),  # ms-swift's bounds of an image
        "IMAGE_MAX_TOKEN_NUM": str(most),
    }
    words = [python_of(arguments, peer), HERE / "peer_clock.py", part / "job.json", found_path]
    reason = call(words, part / "log.txt", environment, part, arguments.longest)
    found = read_object(found_path) if found_path.is_file() else {}
    described = {"options": options, "micro_batch": batch[0], "versions": found.get("versions", {})}
    reason = found.get("error") or reason or uneven(found, result["settings"]["samples_a_step"])
    if reason:
        return {**described, "error": " ".join(reason.split())[:400]}
    return {**described, **rates(found, arguments.window, result)}


def options_of(
    arguments: argparse.Namespace, precision: str, peer: Peer, batch: tuple[int, int], folder: Path
) -> dict[str, Any]:
    """A trainer's options under its own names."""
    on_cpu = arguments.device == "cpu"
    options = {
        **COMMON,
        **TRAINERS[peer.trainer].options,
        **peer.options,
        "max_steps": arguments.warm_up + arguments.steps,
        "per_device_train_batch_size": batch[0],
        "gradient_accumulation_steps": batch[1],
        "output_dir": str(folder / "output"),
        "use_cpu": on_cpu,
        **TRAINERS[peer.trainer].precisions[precision],
    }
    options["bf16"] = options["bf16"] and not on_cpu
    options["dataloader_num_workers"] = min(options["dataloader_num_workers"], usable_cores())
    model = str(folder / "model")
    if peer.trainer == "ms-swift":
        return options | {"model": model, "dataset": str(folder / "messages.jsonl")}
    if peer.trainer == "trl":
        loading = {key: options.pop(key) for key in ("dtype", "attn_implementation")}
        return options | {"model": model, "dataset": str(folder / "prompts.jsonl"), "model_init_kwargs": loading}
    edge = 32**2  # pixels of an image's token
    least, most = (tokens * edge for tokens in arguments.image_tokens)
    data = {"dataset": "leap", "dataset_dir": str(folder), "image_min_pixels": least, "image_max_pixels": most}
    return options | {"model_name_or_path": model, **data}


def call(words: Sequence[Any], log: Path, environment: dict[str, str], folder: Path, longest: int) -> str | None:
    """Run a part of `longest` seconds at most, whose output goes to `log`; returns why it failed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("w") as output:
            code = subprocess.run(
                [str(word) for word in words],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=folder,
                timeout=longest,
                check=False,
            ).returncode
    except (FileNotFoundError, PermissionError) as error:
        return f"{words[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"took longer than {longest} s; {log} has its output"
    last = (log.read_text(errors="replace").split("\n\n")[-1].strip().splitlines() or [""])[-1]
    return f"exit code {code}: {last} ({log})" if code else None


def uneven(found: dict[str, Any], wanted: int) -> str | None:
    """Why the figures are not to be compared: a step of other samples than everybody's."""
    if not found["seconds"] or set(found["samples"]) != {wanted}:
        return f"counted {sorted(set(found['samples']))} samples a step, not {wanted}"
    return None


def rates(found: dict[str, Any], window: int, result: dict[str, Any]) -> dict[str, Any]:
    """A peer's figures, under the names that LEAP's have."""
    samples = [sum(found["samples"][first : first + window]) for first in range(0, len(found["samples"]), window)]
    windows = [number / seconds for number, seconds in zip(samples, found["seconds"], strict=True)]
    rate, leap = statistics.median(windows), result["systems"].get("LEAP", {})
    peak = leap.get("peak_tflops_a_gpu")
    kept = ("weights", "trained_weights", "autocast", "attention", "vision_attention", "optimizer", "losses", "peak_gb")
    return {
        "samples_per_second": round(rate, 3),
        "windows": [round(one, 3) for one in windows],
        "mfu": round(rate * leap["tflop_a_sample"] / peak, 4) if peak else None,
        "data_wait_share": round(sum(found["waits"]) / sum(found["seconds"]), 4),
        "samples_a_step": statistics.mean(found["samples"]),
        "positions_a_step": round(statistics.mean(found["positions"])),
        **{key: found[key] for key in kept},
    }


def write_result(output: Path, result: dict[str, Any], asked: Sequence[str]) -> None:
    """The result's file; <file>.partial as long as an asked peer has not been tried, or there is no ratio."""
    systems = result["systems"]
    result["not_tried"] = [name for name in PEERS if name not in systems]
    rate = {name: found["samples_per_second"] for name, found in systems.items() if "samples_per_second" in found}
    others = [name for name in rate if name != "LEAP"]
    if "LEAP" in rate and others:
        fastest = max(others, key=lambda name: rate[name])
        result |= {
            "ours": rate["LEAP"],
            "seed_setting": rate[fastest],
            "compared_with": f"the fastest peer{' tried' * bool(result['not_tried'])}, {fastest}",
            "ratio": round(rate["LEAP"] / rate[fastest], 2),
            **{key: systems["LEAP"][key] for key in ("mfu", "peak_gb", "windows")},
        }
    path, partial = result_path(output, result), partial_path(output, result)
    complete = "ratio" in result and set(asked) <= set(systems)
    write_json(path if complete else partial, result)
    if complete:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    run(main)
