"""FSDP2 learns what DDP and one process learn, and their checkpoints are each other's."""

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PYTHONPATH, REPOSITORY, TINY_RECIPE, run_script
from safetensors.torch import load_file
from test_training import FINETUNE, losses

from leap.errors import LeapError
from leap.models.checkpoints import find_checkpoints
from leap.models.loading import load_model
from leap.records.json_files import read_object
from leap.training.recipe import read_recipe
from leap.training.sharding import check_sharding

RECIPES = REPOSITORY / "configs" / "recipes"
STEPS = (
    f"--recipe {TINY_RECIPE} --warmup_steps 0 --logging_steps 1 --learning_rate 1e-3 --report_to none "
    "--image_tokens_min 4 --image_tokens_max 9"
).split()
# Sums over other batches are rounded apart (1e-7 of a loss of 7), and Adam divides first gradients by their size.
CLOSE = 2e-4


ALONE = ["--standalone"]


def torchrun(where: list[str], script: str, *words: str) -> "subprocess.Popen[str]":
    launcher = [sys.executable, "-m", "torch.distributed.run", *where, "--nproc_per_node", "2"]
    return subprocess.Popen(
        [*launcher, f"tests/training/{script}", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHONPATH},
        cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def nodes_of_one_machine() -> list[list[str]]:
    """How torchrun is started twice, as on two nodes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    static = f"--nnodes 2 --master_addr 127.0.0.1 --master_port {port} --node_rank"
    return [[*static.split(), str(number)] for number in range(2)]


def all_done(*nodes: "subprocess.Popen[str]") -> None:
    for output, node in [(node.communicate(timeout=300)[1], node) for node in nodes]:
        assert node.returncode == 0, output


def together(workspace: Path, folder: Path, *commands: list[str], nodes: Sequence[list[str]] = (ALONE,)) -> list[str]:
    """What two processes, or two on each of two nodes, tell of these commands."""
    (folder / "commands.json").write_text(json.dumps([[*STEPS, *options] for options in commands]))
    files = (workspace, folder / "commands.json", folder / "results.json")
    all_done(*(torchrun(where, "together.py", *map(str, files)) for where in nodes))
    results: list[str] = json.loads((folder / "results.json").read_text())
    return results


def alone(workspace: Path, *options: str) -> str:
    done = run_script(FINETUNE, *STEPS, *options, root=workspace)
    assert done.returncode == 0, done.stderr
    return done.stderr


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(find_checkpoints(run)[-1] / "model.safetensors")


def assert_close(run: Path, other: Path) -> None:
    one, two = weights(run), weights(other)
    assert one.keys() == two.keys()
    assert {value.dtype for value in one.values()} == {torch.float32}
    far = [(one[name] - two[name]).abs().gt(1e-4).float().mean().item() for name in one]
    assert max(far) < 0.01, max(far)


THREE = "--max_steps 3 --save_steps 2 --val_file data/test_demo.jsonl --max_eval_samples 3 --eval_steps 2".split()
HALVES = ["--per_device_train_batch_size", "4"]


@pytest.fixture(scope="module")
def runs(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of three steps of eight rows: in one process, with DDP, and divided in several ways."""
    root = tmp_path_factory.mktemp("runs")
    alone(workspace, *THREE, "--per_device_train_batch_size", "8", "--output_dir", str(root / "one"))
    ways = {
        "ddp": HALVES,
        "fsdp": [*HALVES, "--fsdp"],
        "accumulated": "--per_device_train_batch_size 2 --gradient_accumulation_steps 2 --fsdp "
        "--gradient_checkpointing".split(),
        "padded": [*HALVES, "--fsdp", "--packing", "false"],
    }
    together(workspace, root, *([*THREE, *options, "--output_dir", str(root / name)] for name, options in ways.items()))
    return root


def logged(run: Path, key: str) -> list[float]:
    history = read_object(find_checkpoints(run)[-1] / "trainer_state.json")["log_history"]
    return [entry[key] for entry in history if key in entry]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ddp", "fsdp", "accumulated", "padded"])
def test_divided_models_learn_what_one_process_learns(runs: Path, way: str) -> None:
    for key in ("loss", "eval_loss", "grad_norm"):
        one = logged(runs / "one", key)
        assert len(one) == (2 if key == "eval_loss" else 3)
        assert logged(runs / way, key) == pytest.approx(one, rel=CLOSE), key
    assert_close(runs / way, runs / "one")


@pytest.mark.slow
def test_what_a_divided_run_leaves_is_an_ordinary_model(runs: Path) -> None:
    last = runs / "fsdp" / "checkpoint-3"
    assert read_object(last / "config.json") == read_object(runs / "one" / "checkpoint-3" / "config.json")
    model = load_model(last, "float32")
    saved = weights(runs / "fsdp")
    assert all(torch.equal(saved[name], value) for name, value in model.named_parameters())
    assert {path.name for path in last.iterdir()} == {path.name for path in (runs / "ddp" / "checkpoint-3").iterdir()}


def broken_off(run: Path, copy: Path) -> Path:
    """A run as it was after two of its steps."""
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoint-3"))
    return copy


@pytest.mark.slow
def test_checkpoints_go_between_divided_models_and_others(workspace: Path, runs: Path, tmp_path: Path) -> None:
    names = {"one-fsdp": "one", "fsdp-fsdp": "fsdp", "fsdp-ddp": "fsdp", "fsdp-one": "fsdp"}
    copies = {name: broken_off(runs / begun, tmp_path / name) for name, begun in names.items()}
    steps = [*THREE, *HALVES]
    divided = [[*steps, "--fsdp", "--output_dir", str(copies[name])] for name in ("one-fsdp", "fsdp-fsdp")]
    together(workspace, tmp_path, *divided, [*steps, "--output_dir", str(copies["fsdp-ddp"])])
    # A recipe with fsdp goes on in a single process too, which says so.
    message = alone(
        workspace, *THREE, "--per_device_train_batch_size", "8", "--fsdp", "--output_dir", str(copies["fsdp-one"])
    )
    assert "one rank has nobody to divide with" in message
    for name, copy in copies.items():
        assert logged(copy, "loss") == pytest.approx(logged(runs / "one", "loss"), rel=CLOSE), name
        assert_close(copy, runs / "one")
    assert all(torch.equal(value, weights(runs / "fsdp")[key]) for key, value in weights(copies["fsdp-fsdp"]).items())


@pytest.mark.slow
def test_nodes_that_each_divide_a_model_learn_what_one_process_learns(
    workspace: Path, runs: Path, tmp_path: Path
) -> None:
    """HSDP of two nodes with two ranks each, from the start and from another's checkpoint, which others go on from."""
    where = nodes_of_one_machine()
    all_done(*(torchrun(one, "sharded_state.py", str(workspace / "models" / "tiny")) for one in where))
    broken_off(runs / "one", tmp_path / "resumed")
    hybrid = [*THREE, "--per_device_train_batch_size", "2", "--fsdp", "--hybrid_shard", "--output_dir"]
    commands = [[*hybrid, str(tmp_path / name)] for name in ("begun", "resumed")]
    together(workspace, tmp_path, *commands, nodes=nodes_of_one_machine())
    for name in ("begun", "resumed"):
        assert logged(tmp_path / name, "loss") == pytest.approx(logged(runs / "one", "loss"), rel=CLOSE)
        assert logged(tmp_path / name, "grad_norm") == pytest.approx(logged(runs / "one", "grad_norm"), rel=CLOSE)
        assert_close(tmp_path / name, runs / "one")
    shutil.rmtree(tmp_path / "begun" / "checkpoint-3")
    alone(workspace, *THREE, "--per_device_train_batch_size", "8", "--output_dir", str(tmp_path / "begun"))
    assert_close(tmp_path / "begun", runs / "one")


def rows_with(images: int, workspace: Path, file: Path) -> Path:
    """Four rows, the first `images` of which keep theirs."""
    rows = [json.loads(line) for line in (workspace / "data" / "train_demo.jsonl").read_text().splitlines()[:4]]
    for row in rows[images:]:
        for message in row["messages"]:
            message["content"] = [part for part in message["content"] if part["type"] == "text"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.slow
def test_processes_whose_batches_have_no_image_keep_step(workspace: Path, tmp_path: Path) -> None:
    """All must use the same weights, or one would wait for ever for the others' gradients."""
    commands, expected = [], []
    for images, divided in ((1, ("true", "false")), (0, ("false",))):
        file = rows_with(images, workspace, tmp_path / f"{images}.jsonl")
        steps = ["--train_file", str(file), "--max_steps", "2", "--gradient_checkpointing", "--output_dir"]
        one = alone(workspace, *steps, str(tmp_path / f"{images}-one"), "--per_device_train_batch_size", "2")
        for fsdp, packing in itertools.product(divided, ("true", "false")):
            way = ["--fsdp", fsdp, "--packing", packing, "--per_device_train_batch_size", "1"]
            commands.append([*steps, str(tmp_path / f"{images}-{fsdp}-{packing}"), *way])
            expected.append(pytest.approx(losses(one), rel=CLOSE))
    found = [losses(message) for message in together(workspace, tmp_path, *commands)]
    assert len(found[0]) == 2
    assert found == expected


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"finetuning": "lora"}, "leave fsdp out of a LoRA run"),
        ({"optim": "adamw_bf16_stochastic", "bf16": True}, "float32 states"),
        ({"fp16": True}, "fsdp and fp16 exclude each other"),
        ({"deepspeed": "zero.json"}, "fsdp and deepspeed exclude each other"),
        ({"fsdp": False, "hybrid_shard": True}, "hybrid_shard says how fsdp divides"),
    ],
)
def test_what_cannot_be_divided_is_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(LeapError, match=problem):
        read_recipe(Path(TINY_RECIPE), {"fsdp": True, **values})


def test_what_stands_against_dividing_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = read_recipe(Path(TINY_RECIPE), {"fsdp": True})
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_sharding(recipe, "qwen3_vl")
    with pytest.raises(LeapError, match="this is a qwen2_vl model"):
        check_sharding(recipe, "qwen2_vl")
    with pytest.raises(LeapError, match="cannot go on with this run's optim=adamw_bf16_stochastic"):
        check_sharding(recipe.model_copy(update={"optim": "adamw_bf16_stochastic"}), "qwen3_vl")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(LeapError, match="accelerate launch is set to FSDP"):
        check_sharding(recipe, "qwen3_vl")
