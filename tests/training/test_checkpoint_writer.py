"""Checkpoints that are written while training goes on: their step's state, one at a time, and failures told."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from conftest import PYTHONPATH, REPOSITORY, TINY_RECIPE, Finished, run_script, run_script_apart
from safetensors.torch import load_file
from tiny_models import save_tiny_model
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerState

from leap.errors import LeapError
from leap.hardware import available_memory
from leap.models.checkpoints import MARKER, find_checkpoints
from leap.training import checkpoint_writer
from leap.training.checkpoint_folder import partial_folder
from leap.training.checkpoint_writer import FAILED, SAVED, CheckpointWriter
from leap.training.checkpointing import LossSum, Training
from leap.training.host_copy import HostCopy
from leap.training.ranks import Ranks

FINETUNE = "scripts/training/run-finetuning.py"
STEPS = (
    f"--recipe {TINY_RECIPE} --max_steps 5 --save_steps 2 --warmup_steps 0 --logging_steps 1 --learning_rate 1e-3 "
    "--per_device_train_batch_size 2 --image_tokens_min 4 --image_tokens_max 9"
).split()


def test_a_copy_is_of_its_moment_in_storages_of_its_own() -> None:
    whole = torch.arange(12.0)
    state = {
        "a": {"x": whole[2:6], "tied": whole[2:6]},
        "b": torch.ones(3, dtype=torch.bfloat16),
        "none": torch.ones(0),
    }
    state |= {"step": torch.tensor(3.0), "rate": 0.1}
    copies = HostCopy()
    first = copies.of(state)
    whole += 1
    assert first["a"]["x"].tolist() == [2, 3, 4, 5]
    assert first["a"]["tied"] is first["a"]["x"]
    assert first["a"]["x"].untyped_storage().nbytes() == 16  # torch.save writes whole storages
    assert (first["b"].dtype, first["none"].shape, first["step"].item(), first["rate"]) == (
        torch.bfloat16,
        (0,),
        3,
        0.1,
    )
    again = copies.of(state)
    assert again["a"]["x"].data_ptr() == first["a"]["x"].data_ptr()  # the same memory
    assert again["a"]["x"].tolist() == [3, 4, 5, 6]
    assert copies.of({"larger": torch.arange(1000)})["larger"].tolist() == [*range(1000)]


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return made_training(save_tiny_model("qwen3_vl", tmp_path / "model", ["words"] * 3))


def made_training(folder: Path) -> Training:
    """The model of a folder in float32 with the optimiser's state of two steps."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = LambdaLR(optimizer, lambda step: 1.0)
    processor = AutoProcessor.from_pretrained(folder)
    training = Training(model, model, optimizer, scheduler, Accelerator(cpu=True), processor, "")
    go_on(training, 2)
    return training


def go_on(training: Training, steps: int) -> None:
    for step in range(steps):
        for weight in training.model.parameters():
            weight.grad = torch.full_like(weight, 0.1 + step)
        training.optimizer.step()


def state_of(training: Training) -> tuple[dict[str, Tensor], list[Tensor]]:
    """(weights, moments and steps), as they are now."""
    moments = [value.clone() for values in training.optimizer.state.values() for value in values.values()]
    return {name: value.clone() for name, value in training.model.named_parameters()}, moments


def stored(folder: Path) -> tuple[dict[str, Tensor], list[Tensor]]:
    saved = torch.load(folder / "optimizer.pt", weights_only=True)["state"]
    return load_file(folder / "model.safetensors"), [value for values in saved.values() for value in values.values()]


def writer_of(training: Training, run: Path) -> CheckpointWriter:
    return CheckpointWriter(training, run, {"data": "d"}, None, Ranks())


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The writer's large files wait for it."""
    event, original = threading.Event(), checkpoint_writer.save_weights

    def gated(*arguments: Any) -> None:
        assert event.wait(60)
        original(*arguments)

    monkeypatch.setattr(checkpoint_writer, "save_weights", gated)
    yield event
    event.set()


def test_a_checkpoint_has_its_steps_state_although_training_went_on(
    training: Training, tmp_path: Path, gate: threading.Event
) -> None:
    run, state = tmp_path / "run", TrainerState(global_step=2, log_history=[{"loss": 1.0, "step": 2}])
    weights, moments = state_of(training)
    with writer_of(training, run) as writer:
        assert writer.save(state, LossSum(torch.zeros(())))
        go_on(training, 3)
        state.log_history.append({"loss": 0.5, "step": 5})
        assert writer.news == 0
        assert find_checkpoints(run) == []  # none that is not whole
        gate.set()
        saved = writer.finish()
    assert saved is not None
    assert [entry["step"] for entry in saved.log_history] == [2]
    assert writer.finish() is None
    found, found_moments = stored(run / "checkpoint-2")
    assert found.keys() <= weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in found)
    assert all(torch.equal(one, two) for one, two in zip(found_moments, moments, strict=True))
    now, _ = state_of(training)
    assert not any(torch.equal(found[name], now[name]) for name in found)


def test_without_room_for_a_copy_training_waits_and_writes_the_same(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = []
    for name, available in (("beside", None), ("stopping", 1000)):
        monkeypatch.setattr(checkpoint_writer, "available_memory", lambda available=available: available)
        with writer_of(training, tmp_path / name) as writer:
            for step in (1, 2):
                goes_on = writer.save(TrainerState(global_step=step), LossSum(torch.zeros(())))
                assert goes_on == (name == "beside")
                writer.finish()
        folders.append(tmp_path / name / "checkpoint-2")
    one, two = ({file.name: file.read_bytes() for file in folder.iterdir()} for folder in folders)
    assert one == two
    assert capsys.readouterr().err.count("checkpoints stop training: a copy of ") == 1


def test_a_failure_of_the_writer_is_news_and_an_error(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with writer_of(training, tmp_path) as writer:
        writer.save(TrainerState(global_step=1), LossSum(torch.zeros(())))
        writer._join()
        assert writer.news == SAVED
        writer.finish()
        assert writer.news == 0
        monkeypatch.setattr(checkpoint_writer, "save_weights", full)
        writer.save(TrainerState(global_step=2), LossSum(torch.zeros(())))
        with pytest.raises(LeapError, match=r"the disk is full: checkpoint-2 needs .* checkpoint-1 is whole"):
            writer._join()
        assert writer.news == FAILED
        with pytest.raises(LeapError, match="the disk is full"):
            writer.finish()
    assert [folder.name for folder in find_checkpoints(tmp_path)] == ["checkpoint-1"]


def test_what_ends_a_run_lets_its_checkpoint_become_whole(training: Training, tmp_path: Path) -> None:
    def end() -> None:
        with writer_of(training, tmp_path) as writer:
            writer.save(TrainerState(global_step=1), LossSum(torch.zeros(())))
            raise LeapError("another error")

    with pytest.raises(LeapError, match="another error"):
        end()
    assert (tmp_path / "checkpoint-1" / MARKER).is_file()


def train(workspace: Path, output: str, *options: str) -> Finished:
    return run_script(FINETUNE, *STEPS, "--output_dir", output, *options, root=workspace)


def test_a_run_ends_with_its_writers_error(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def full(*_: Any) -> None:
        calls.append(threading.current_thread().name)
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(checkpoint_writer, "save_weights", full)
    done = train(workspace, "output/failing")
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error"))
    assert "the disk is full: checkpoint-2 needs" in line
    assert "there is no whole checkpoint yet" in line
    assert calls == ["checkpoint"]
    assert not partial_folder(workspace / "output" / "failing" / "checkpoint-2").exists()


@pytest.mark.slow
def test_one_at_a_time_and_callbacks_hear_of_whole_ones(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report is written at each save: it speaks of a checkpoint that is there."""
    from leap.training.training_report import TrainingReport

    heard, writing, original = [], threading.Lock(), checkpoint_writer.save_weights

    def alone(*arguments: Any) -> None:
        assert writing.acquire(blocking=False)
        original(*arguments)
        writing.release()

    def on_save(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        whole = (args.output / f"checkpoint-{state.global_step}" / MARKER).is_file()
        heard.append((state.global_step, whole, max(entry["step"] for entry in state.log_history)))

    monkeypatch.setattr(checkpoint_writer, "save_weights", alone)
    monkeypatch.setattr(TrainingReport, "on_save", on_save)
    done = train(workspace, "output/heard", "--save_steps", "1")
    assert done.returncode == 0, done.stderr
    assert heard == [(step, True, step) for step in range(1, 6)]


INTERRUPTED = """
import time, torch
from leap.cli import run
from leap.training.checkpoint_writer import CheckpointWriter
def main():
    with CheckpointWriter(None, None, {}, None, None) as writer:
        tensors = {str(n): torch.zeros(25_000_000) for n in range(8)}
        writer._start(lambda: [torch.save(tensors, "FOLDER/state.pt") for _ in range(1000)])
        time.sleep(0.2)
        raise KeyboardInterrupt
run(main)
"""


@pytest.mark.slow
def test_a_second_interrupt_does_not_wait_for_the_writer(tmp_path: Path) -> None:
    """Nor does Python abort, as it would while a thread is in C++ code."""
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED.replace("FOLDER", str(tmp_path)))
    done = run_script_apart(str(script), root=tmp_path)
    assert done.returncode == 130, done.stderr
    assert "interrupted; the same command continues" in done.stderr


def system(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


MACHINE = {"proc/meminfo": "MemTotal: 100 kB\nMemAvailable:   50 kB\nHugePages_Free: 0\n"}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, None),
        (MACHINE, 51_200),
        (
            {
                **MACHINE,
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/memory.max": "30000\n",
                "sys/fs/cgroup/job/memory.current": "25000\n",
                "sys/fs/cgroup/job/memory.stat": "anon 9\nactive_file 100\ninactive_file 900\n",
                "sys/fs/cgroup/job/step/memory.max": "max\n",
                "sys/fs/cgroup/job/step/memory.current": "25000\n",
            },
            6_000,
        ),
        (
            {
                **MACHINE,
                "proc/self/cgroup": "5:devices:/\n4:cpu,memory:/docker/abc\n0::/\n",  # seen from within a container
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "20000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "15000\n",
                "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 500\ntotal_active_file 0\n",
            },
            5_500,
        ),
    ],
)
def test_memory_is_what_the_machine_and_each_control_group_leave(
    tmp_path: Path, files: dict[str, str], free: int | None
) -> None:
    assert available_memory(system(tmp_path, files)) == free


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux's /proc")
def test_this_machines_memory_is_known() -> None:
    found = available_memory()
    assert found is not None
    assert found > 1e6


@pytest.mark.slow
def test_a_kill_always_leaves_a_checkpoint_that_all_disks_have(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {**os.environ, "PYTHONPATH": PYTHONPATH, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    save_tiny_model("qwen3_vl", tmp_path / "model", ["words"] * 3)
    command = [sys.executable, "tests/training/own_disks.py", str(tmp_path)]
    ranks = [
        subprocess.Popen(command, env={**common, "RANK": str(rank)}, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    first, second = ((rank.communicate(timeout=300)[1], rank.returncode) for rank in ranks)
    assert second[1] == -signal.SIGKILL, second
    assert first[1] == 1, first
    assert "gloo" in first[0]
    steps = [[folder.name for folder in find_checkpoints(tmp_path / str(rank))] for rank in range(2)]
    assert steps == [["checkpoint-4", "checkpoint-6"], ["checkpoint-4"]]
