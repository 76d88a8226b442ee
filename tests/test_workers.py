"""Batches reach the main process without shared memory, and whatever happens to a worker ends in one line."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from traceback import clear_frames
from typing import Any

import pytest
import torch
from conftest import REPOSITORY
from torch.utils.data import DataLoader, Dataset

from leap.data.transfer import Arrays, tensors_of
from leap.errors import LeapError, UsageError
from leap.models.checkpoints import MARKER, find_checkpoints, is_resumable
from leap.workers import clear_worker_errors, default_loader_workers, start_loader_worker

FINETUNE = REPOSITORY / "scripts" / "training" / "run-finetuning.py"
# Batches of 2 MB, and more of them ahead than a small /dev/shm holds.
BATCHES = (
    "--recipe demo --max_steps 4 --save_steps 2 --warmup_steps 0 --logging_steps 1 --per_device_train_batch_size 4 "
    "--image_tokens_min 256 --image_tokens_max 256 --dataloader_num_workers 2"
).split()


class Made(Dataset):
    """Four batches; the second is what `make` gives."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"number": torch.tensor([index]), "more": self._make() if index == 1 else None}


def read(make: Callable[[], Any], workers: int = 2) -> list[dict[str, Any]]:
    loader = DataLoader(
        Made(make), batch_size=None, collate_fn=Arrays, num_workers=workers, worker_init_fn=start_loader_worker
    )
    with clear_worker_errors("--dataloader_num_workers"):
        return [tensors_of(batch) for batch in loader]


def test_a_gpu_has_workers_by_default_and_a_model_on_the_cpu_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leap.workers.usable_cores", lambda: 16)
    assert [default_loader_workers(True, ranks) for ranks in (1, 4, 16)] == [8, 3, 1]
    assert default_loader_workers(False, 1) == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_arrive_as_they_were(workers: int) -> None:
    pixels = torch.arange(6, dtype=torch.uint8).view(2, 3)
    values = {"bytes": pixels, "none": None, "ends": (3, 5), "empty": torch.ones(0)}
    batches = read(lambda: pixels, workers)
    assert [batch["number"].tolist() for batch in batches] == [[0], [1], [2], [3]]
    assert torch.equal(batches[1]["more"], pixels)
    found = tensors_of(Arrays(values))
    assert torch.equal(found.pop("bytes"), pixels)
    assert found.pop("empty").shape == (0,)
    assert found == {"none": None, "ends": (3, 5)}


def test_a_batch_on_its_way_holds_all_of_its_bytes() -> None:
    """A tensor would hold the name of a piece of shared memory."""
    pixels = torch.zeros(1_000_000, dtype=torch.uint8)
    assert len(ForkingPickler.dumps(Arrays({"pixels": pixels}))) > 1_000_000


def refuse(kind: type[Exception], *arguments: Any) -> Callable[[], None]:
    def make() -> None:
        raise kind(*arguments)

    return make


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "a data loader worker ended.*; most likely memory ran out"),
        (lambda: os._exit(3), "a data loader worker ended"),
        (lambda: lambda: None, "a data loader worker ended"),  # it cannot be pickled, so that the batch is lost
        (refuse(MemoryError), "a data loader worker's memory ran out"),
    ],
    ids=["killed", "ended", "lost", "memory"],
)
def test_a_worker_that_fails_is_one_line_that_says_what_to_do(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(LeapError, match=words) as error:
        read(make)
    assert "(--dataloader_num_workers; with 0 it is this process)" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_workers_disk_is_named() -> None:
    with pytest.raises(LeapError) as error:
        read(refuse(OSError, errno.EIO, "Input/output error", "lost.png"))
    assert "cannot read its data: [Errno 5] Input/output error: 'lost.png'; look at that disk" in str(error.value)


@pytest.mark.parametrize("kind", [LeapError, UsageError])
def test_a_workers_own_error_is_its_line(kind: type[LeapError]) -> None:
    with pytest.raises(kind) as error:
        read(refuse(kind, "train.jsonl:3: the LeapError: an image is gone"))
    assert str(error.value) == "train.jsonl:3: the LeapError: an image is gone"


def test_a_mistake_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError, match="Original Traceback") as error:
        read(lambda: 1 // 0)
    clear_frames(error.tb)  # they hold the loader, and to free it late takes 5 s a worker


def train(workspace: Path, output: str, memory: str | None = None) -> subprocess.Popen[str]:
    """A run with two workers in a session of its own; `memory` is the size of its /dev/shm."""
    command = [sys.executable, str(FINETUNE), *BATCHES, "--output_dir", output]
    if memory:
        mounted = f'mount -t tmpfs -o size={memory} tmpfs /dev/shm && exec "$@"'
        command = ["unshare", "-m", "sh", "-c", mounted, "sh", *command]
    environment = {**os.environ, "LEAP_ROOT": str(workspace), "OMP_NUM_THREADS": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **streams)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root, and unshare")
@pytest.mark.parametrize("memory", ["1m", "4k"])
def test_a_small_shared_memory_does_not_stop_a_run(workspace: Path, memory: str) -> None:
    """Docker gives a container 64 MB of it."""
    with train(workspace, f"output/shm_{memory}", memory) as process:
        said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert ("/dev/shm has no room for their semaphores" in said) == (memory == "4k")
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_signal_to_all_processes_of_a_job_saves_too(workspace: Path) -> None:
    """As a batch system sends it: the workers must go on until the step is done."""
    run = workspace / "output" / "job"
    with train(workspace, str(run)) as process:
        while not (run / "checkpoint-2" / MARKER).is_file():
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGTERM)
        said, _ = process.communicate(timeout=240)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "Traceback" not in said
    assert is_resumable(find_checkpoints(run)[-1])
