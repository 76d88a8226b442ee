"""Optimiser state between FSDP2's shards and one process. `test_checkpointing.py` runs it:

python -m torch.distributed.run --standalone --nproc_per_node 2 tests/training/sharded_state.py FILE
"""

import gc
import sys

import torch
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

from leap.training.optimizer_state import gather_optimizer_state, restore_optimizer_state


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
    saved = get_model_state_dict(divided, options=whole), gather_optimizer_state(divided, optimizers[1])
    if distributed.get_rank() == 0:
        torch.save(saved, file)
    else:
        assert not saved[1], "only the first process has the gathered state"
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


def leave() -> None:
    """End gloo's threads before Python: one that still lets go of a tensor would be cut off, which aborts the process.

    Call it where no model is left: divided ones hold on to the group, and it ends its threads when nobody does.
    """
    gc.collect()
    distributed.barrier()  # nobody leaves while another still reads
    distributed.destroy_process_group()


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    check(sys.argv[1])
    leave()
