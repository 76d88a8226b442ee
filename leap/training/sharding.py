"""FSDP2: weights, gradients and optimiser state divided over the ranks, each layer put together while it is used.

PyTorch's `fully_shard` itself, not accelerate's wrapping of it, which does nothing on CPUs: there it can be tested.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from leap.environment import local_world_size, world_size
from leap.errors import LeapError
from leap.models import families
from leap.training.optimizers import weights_dtype
from leap.training.recipe import Recipe


def check_sharding(recipe: Recipe, family: str) -> None:
    """Raises LeapError where `fsdp` cannot be had: the `model_type` is another, or accelerate was asked for it."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise LeapError(
            "accelerate launch is set to FSDP, which LEAP does itself: launch with --multi_gpu and give --fsdp true "
            "(or fsdp: true in the recipe)"
        )
    if not recipe.fsdp:
        return
    if world_size() == 1:
        print("fsdp        one rank has nobody to divide with: it trains as without fsdp", file=sys.stderr)
        return
    if weights_dtype(recipe.optim) != "float32":  # one that "auto" found in the output folder
        raise LeapError(f"fsdp cannot go on with this run's optim={recipe.optim}: give --fsdp false")
    if not families.family(family).shards:
        raise LeapError(f"fsdp is for Qwen3-VL only, and this is a {family} model: leave fsdp out")


def shard(model: Any, device: torch.device, dtype: torch.dtype, nodes: int = 1) -> Any:
    """Divide a Qwen3-VL over all ranks, in place; the rest of it goes to `device`. All ranks call it.

    Of several `nodes` each has all of it, divided over its own ranks, and gradients are summed between them as well.

    Weights stay as they are and are put together in `dtype` (bfloat16: half the traffic); gradients are summed in
    float32. What lies outside of layers and blocks is put together for the whole step: embeddings and head are one.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mixed = MixedPrecisionPolicy(
        param_dtype=None if dtype == torch.float32 else dtype,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,  # autocast decides, as without FSDP
    )
    world = torch.distributed.get_world_size()
    shape, names = ((world,), ("shard",)) if nodes == 1 else ((nodes, world // nodes), ("replicate", "shard"))
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=names)
    for unit in (*sharded_units(model), model):
        fully_shard(unit, mesh=mesh, mp_policy=mixed)
    return model


def shards(recipe: Recipe) -> int:
    """Ranks that one copy of weights and states is divided among."""
    if not recipe.fsdp:
        return 1
    return local_world_size() if recipe.hybrid_shard else world_size()


def sharded_units(model: Any) -> list[nn.Module]:
    """The modules of a Qwen3-VL that are put together one by one."""
    return [*model.model.visual.blocks, *model.model.language_model.layers]


class Sharded(nn.Module):
    """What stands where DDP stands for a model that is not divided: the Trainer calls it to train.

    `keeps_gradients`: those of a step's micro-batches are added up whole in each rank and summed over all once.
    """

    def __init__(self, module: Any, keeps_gradients: bool) -> None:
        super().__init__()
        self.module, self._keeps_gradients = module, keeps_gradients

    def forward(self, **inputs: Any) -> Any:
        return self.module(**inputs)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """The Trainer's way to say that another micro-batch of the step will follow."""
        self.module.set_requires_gradient_sync(not self._keeps_gradients)
        try:
            yield
        finally:
            self.module.set_requires_gradient_sync(True)
