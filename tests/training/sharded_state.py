"""Optimiser state between FSDP2's shards and one process. `test_checkpointing.py` runs it:

python -m torch.distributed.run --standalone --nproc_per_node 2 tests/training/sharded_state.py FILE

With a model's folder, and four processes as two nodes: what each has of it (HSDP).
"""

import gc
import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

from leap.models.loading import load_model
from leap.training.optimizer_state import (
    gather_optimizer_state,
    gather_whole,
    restore_optimizer_state,
    shard_count,
)
from leap.training.sharding import shard


def train(model: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        torch.manual_seed(seed)
        optimizer.zero_grad()
        model(torch.randn(4, 6)).square().mean().backward()
        optimizer.step()


def build(sharded: bool, weights: dict[str, torch.Tensor] | None = None) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5))
    if weights:
        model.load_state_dict(weights)
    if sharded:
        for layer in model:
            fully_shard(layer)
        fully_shard(model)
    return model


def check(file: str) -> None:
    plain, divided = build(False), build(True)
    optimizers = [torch.optim.AdamW(model.parameters(), lr=0.01) for model in (plain, divided)]
    for model, optimizer in zip((plain, divided), optimizers, strict=True):
        train(model, optimizer, range(3))
    whole = StateDictOptions(full_state_dict=True)
    keep = distributed.get_rank() == 0
    saved = get_model_state_dict(divided, options=whole), gather_optimizer_state(divided, optimizers[1], keep)
    if distributed.get_rank() == 0:
        torch.save(saved, file)
    else:
        assert not saved[1], "only those have the gathered state that keep it"
    distributed.barrier()
    train(plain, optimizers[0], range(3, 6))
    weights, state = torch.load(file, weights_only=True, mmap=True)
    for sharded in (False, True):
        model = build(sharded, weights)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
        restore_optimizer_state(model, optimizer, state)
        train(model, optimizer, range(3, 6))
        for name, value in get_model_state_dict(model, options=whole).items():
            assert torch.allclose(value, plain.state_dict()[name], atol=1e-6), (sharded, name)


def check_hybrid(folder: Path) -> None:
    """Both nodes have all weights, each rank half of them; and every rank that keeps them gathers them."""
    whole = load_model(folder, "float32")
    model = shard(load_model(folder, "float32"), torch.device("cpu"), torch.float32, nodes=2)
    assert shard_count(model) == 2
    own = sum(weight.to_local().numel() for weight in model.parameters())
    assert 0.4 < own / sum(weight.numel() for weight in whole.parameters()) < 0.6
    found = gather_whole(dict(model.named_parameters()), keep=distributed.get_rank() > 1)
    assert bool(found) == (distributed.get_rank() > 1)
    assert all(torch.equal(value, whole.get_parameter(name)) for name, value in found.items())


def leave() -> None:
    """End gloo's threads before Python: one that still lets go of a tensor would be cut off, which aborts the process.

    Call it where no model is left: divided ones hold on to the group, and it ends its threads when nobody does.
    """
    gc.collect()
    distributed.barrier()  # nobody leaves while another still reads
    distributed.destroy_process_group()


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    given = Path(sys.argv[1])
    if given.is_dir():
        check_hybrid(given)
    else:
        check(str(given))
    leave()
