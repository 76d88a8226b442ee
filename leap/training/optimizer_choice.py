"""Which optimiser "auto" means: the plain one where its fp32 weights and states leave room for activations."""

from pathlib import Path

from leap.models.checkpoints import read_marker
from leap.training import memory
from leap.training.optimizers import STOCHASTIC
from leap.training.ranks import Ranks
from leap.training.recipe import Recipe
from leap.training.sharding import shards

_ROOM = 0.8  # of a GPU's memory: what states may take, so that activations have the rest


def choose_optimizer(recipe: Recipe, model: Path, output: Path, ranks: Ranks) -> str:
    """The recipe's optimiser; for "auto", the one that the run in `output` began with, or what fits every rank's GPU.

    All ranks come to the same: with unlike GPUs, what the smallest one holds.
    """
    if recipe.optim != "auto":
        return recipe.optim
    if begun := ranks.first(read_marker(output).get("recipe", {}).get("optim")):
        return str(begun)
    limits = [limit for limit in ranks.gather(_gpu_bytes()) if limit is not None]
    limit = min(limits, default=None)
    if limit is None:
        return "adamw_torch"
    if shards(recipe) > 1:  # each holds a part of them only
        return "adamw_torch_fused"
    needed = memory.state_bytes(memory.count_weights(model), 0, "adamw_torch_fused", recipe.bf16)
    fits = recipe.finetuning == "lora" or needed <= _ROOM * limit
    return "adamw_torch_fused" if fits or not recipe.bf16 else STOCHASTIC


def _gpu_bytes() -> float | None:
    """Of memory that this rank may use on its own GPU; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    from leap.training.memory_plan import device_limit

    return device_limit(torch.device("cuda"))
