"""The optimiser's and the scheduler's state under the parameters' names.

So it fits any division into parameter groups and any number of ranks: one, DDP, or FSDP2's shards.
"""

from typing import Any

import torch
from torch import Tensor, nn

from leap.errors import LeapError


def is_sharded(model: nn.Module) -> bool:
    """Whether each rank holds a part of the weights only (FSDP2)."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def shard_count(model: nn.Module) -> int:
    """Ranks that one copy of its weights is divided among; 1 where each holds all of them."""
    from torch.distributed.tensor import DTensor

    meshes = (parameter.device_mesh for parameter in model.parameters() if isinstance(parameter, DTensor))
    mesh = next(meshes, None)
    return mesh.shape[-1] if mesh else 1


def gather_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, keep: bool = True) -> dict[str, Any]:
    """{"state": {name: {key: whole tensor}}, "param_groups": [{…, "params": names}]}.

    All ranks call it. Shards are gathered on the CPU of those ranks that `keep` them; others get an empty dictionary.
    """
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    state = dict(get_optimizer_state_dict(model, optimizer))
    # Whole tensors stay where they are: torch.save copies them one by one, which needs less memory than all at once.
    return gather_whole(state, keep) if is_sharded(model) else state


def gather_whole(values: dict[str, Any], keep: bool) -> dict[str, Any]:
    """Divided tensors put together, and all copied to the CPU one by one; {} in ranks that do not `keep` them.

    Not torch's full_state_dict, which copies them to the first rank alone, or leaves all of them on every GPU.
    """
    from torch.distributed.tensor import DTensor

    found: dict[str, Any] = {}
    for name, value in values.items():
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        if isinstance(whole, dict):
            whole = gather_whole(whole, keep)
        elif isinstance(whole, Tensor) and keep:
            whole = whole.detach().to("cpu", copy=True)
        if keep:
            found[name] = whole
    return found


def restore_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Give an optimiser the state that `gather_optimizer_state` wrote, whatever its groups and ranks were then.

    torch's set_optimizer_state_dict is not used: it cannot split a saved group, and gives a parameter that had no
    gradient yet (and so has no state) the state of one that had. Raises LeapError where a parameter is not in `saved`.
    """
    settings = {name: group for group in saved["param_groups"] for name in group["params"]}
    names = {parameter: name.replace("_orig_mod.", "") for name, parameter in model.named_parameters()}
    state: dict[int, dict[str, Any]] = {}
    groups: list[dict[str, Any]] = []
    index = 0
    for group in optimizer.param_groups:
        first = index
        for parameter in group["params"]:
            name = names[parameter]
            if name not in settings:
                raise LeapError(f"the saved optimiser state has nothing for {name}: another LEAP or model wrote it")
            if name in saved["state"]:
                state[index] = {key: _placed(value, parameter) for key, value in saved["state"][name].items()}
            index += 1
        kept = settings[names[group["params"][0]]] if group["params"] else group
        groups.append({**kept, "params": list(range(first, index))})
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _placed(value: Any, parameter: Tensor) -> Any:
    """A saved value where the optimiser needs it: this rank's part of it, where the parameter is divided.

    Always a copy: the saved one may be a file's pages, which a CPU's optimiser would go on to work in.
    """
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(value, Tensor):
        return value
    if value.shape != parameter.shape:  # the count of steps, say
        return value.clone()
    copy = value.to(parameter.device, copy=True)
    if isinstance(parameter, DTensor):
        return distribute_tensor(copy, parameter.device_mesh, parameter.placements)
    return copy


def restore_scheduler_state(scheduler: Any, saved: dict[str, Any]) -> None:
    """Take up a schedule. What a scheduler keeps of each parameter group is its own, as the groups may be others."""
    own = scheduler.state_dict()
    ours = {key: own[key] for key in ("base_lrs", "lr_lambdas") if key in own}
    rates = [group["lr"] for group in scheduler.optimizer.param_groups]
    scheduler.load_state_dict({**saved, **ours, "_last_lr": rates})
