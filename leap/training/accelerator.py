"""accelerate, set up for a recipe: device, precision, DDP, DeepSpeed, trackers."""

import os
from pathlib import Path
from typing import Any

from leap.errors import LeapError, first_line
from leap.training.recipe import Recipe
from leap.training.schedule import check_reports

# bucket_cap_mb, MB of gradients that ranks sum at once: the kernels of more and smaller sums take the GPU from the
# backward pass.
_BUCKET = 400


def make_accelerator(recipe: Recipe, root: Path, scalars: Path, find_unused: bool) -> Any:
    """For this rank. TensorBoard files go under `scalars`, unless TENSORBOARD_LOGGING_DIR says where.

    `find_unused`: not every step uses every weight, so that DDP must look which gradients to wait for. Raises LeapError
    where accelerate cannot do what the recipe asks.
    """
    import torch
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    refuse_several_gpus(f"NUM_GPUS={torch.cuda.device_count()} bash scripts/training/run-training.sh")
    # DDP's buckets are to be the gradients themselves, not a second copy of them.
    ddp = DistributedDataParallelKwargs(
        find_unused_parameters=find_unused,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        bucket_cap_mb=_BUCKET,
    )
    AcceleratorState._reset_state(reset_partial_state=True)  # another run of this process had settings of its own
    try:
        return Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision="bf16" if recipe.bf16 else "fp16" if recipe.fp16 else "no",
            log_with=check_reports(recipe.report_to) or None,
            project_dir=os.environ.get("TENSORBOARD_LOGGING_DIR", str(scalars)),
            deepspeed_plugin=_deepspeed(recipe, root) if recipe.deepspeed else None,
            kwargs_handlers=[ddp],
        )
    except (ValueError, ImportError, RuntimeError, FileNotFoundError) as error:
        raise LeapError(f"accelerate refuses this recipe here: {first_line(error)}") from error


def refuse_several_gpus(start: str) -> None:
    """Raise LeapError where one process sees several GPUs; `start` is a command that starts one for each."""
    import torch

    if torch.cuda.device_count() > 1 and "WORLD_SIZE" not in os.environ:
        raise LeapError(
            f"{torch.cuda.device_count()} GPUs are visible to one process: start one process a GPU ({start}), "
            "or set CUDA_VISIBLE_DEVICES=0"
        )


def _deepspeed(recipe: Recipe, root: Path) -> Any:
    from accelerate import DeepSpeedPlugin

    assert recipe.deepspeed is not None
    return DeepSpeedPlugin(
        hf_ds_config=str(root / recipe.deepspeed),
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        gradient_clipping=recipe.max_grad_norm,
    )
