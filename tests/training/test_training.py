"""What one optimiser step learns does not depend on how its samples are cut into batches and spread over processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, TINY_RECIPE, run_script
from safetensors.torch import load_file

FINETUNE = "scripts/training/run-finetuning.py"
# Without clipping, which would hide a gradient of another size.
STEPS = (
    f"--recipe {TINY_RECIPE} --max_steps 3 --save_steps 3 --warmup_steps 0 --logging_steps 1 --learning_rate 1e-3 "
    "--image_tokens_min 4 --image_tokens_max 9 --max_grad_norm 0"
).split()


def weights(workspace: Path, run: str) -> dict[str, torch.Tensor]:
    return load_file(workspace / "output" / run / "checkpoint-3" / "model.safetensors")


def losses(stderr: str) -> list[float]:
    return [float(line.split("loss ")[1].split()[0]) for line in stderr.splitlines() if line.startswith("step ")]


@pytest.fixture(scope="module")
def whole_batches(workspace: Path) -> tuple[dict[str, torch.Tensor], list[float]]:
    done = run_script(
        FINETUNE, *STEPS, "--per_device_train_batch_size", "8", "--output_dir", "output/eights", root=workspace
    )
    assert done.returncode == 0, done.stderr
    return weights(workspace, "eights"), losses(done.stderr)


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    # Adam's first steps divide by the gradient's size: rounding of a gradient near zero moves a weight by a rate.
    far = [(one[name] - other[name]).abs().gt(1e-5).float().mean().item() for name in one]
    assert max(far) < 0.01, max(far)


def test_accumulated_batches_weigh_every_label_alike(
    workspace: Path, whole_batches: tuple[dict[str, torch.Tensor], list[float]]
) -> None:
    """Samples of plans and of short steps have unlike numbers of labels: a mean of means would differ."""
    options = "--per_device_train_batch_size 2 --gradient_accumulation_steps 4 --output_dir output/twos".split()
    done = run_script(FINETUNE, *STEPS, *options, root=workspace)
    assert done.returncode == 0, done.stderr
    assert losses(done.stderr) == pytest.approx(whole_batches[1], abs=2e-4)
    assert_close(weights(workspace, "twos"), whole_batches[0])


@pytest.mark.slow
def test_two_processes_learn_what_one_does(
    workspace: Path, whole_batches: tuple[dict[str, torch.Tensor], list[float]]
) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    options = "--per_device_train_batch_size 4 --output_dir output/fours".split()
    environment = {**os.environ, "LEAP_ROOT": str(workspace), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(REPOSITORY / FINETUNE), *STEPS, *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert losses(done.stderr) == pytest.approx(whole_batches[1], abs=2e-4)
    assert_close(weights(workspace, "fours"), whole_batches[0])
