"""AdamW in bfloat16 throughout, for GPUs on which float32 weights and states do not fit: 8 bytes a weight, not 16.

A bfloat16 number has 8 bits of precision, so an update below a 512th of a weight is lost when it is rounded to the
nearest. Here weights and moments are rounded up or down at random, in proportion to what lies between, so that they are
right on average and small updates add up (Zamirai et al. 2020, "Revisiting BFloat16 Training"). The random bits are a
hash of seed, step and place, so a run that is continued from a checkpoint rounds as it would have without the break.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

_CHUNK = 1 << 24  # weights at a time, which bounds the memory of what lies between


class StochasticAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter 2019, decoupled weight decay) over weights of any format, moments in bfloat16."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "seed": seed})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = closure_loss(closure)
        place = 0  # of a weight among all
        for group in self.param_groups:
            numbers: dict[tuple[int, torch.device], Tensor] = {}
            for weights in group["params"]:
                if weights.grad is not None:
                    step = self._advance(weights)
                    if (step, weights.device) not in numbers:
                        numbers[step, weights.device] = _numbers(group, step).to(weights.device)
                    self._update(weights, place, numbers[step, weights.device], _key(group["seed"], step))
                place += weights.numel()
        return loss

    def _advance(self, weights: Tensor) -> int:
        state = self.state[weights]
        if not state:
            state["step"] = torch.tensor(0.0)
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(weights, dtype=torch.bfloat16)
        state["step"] += 1
        return int(state["step"].item())  # it lies on the CPU

    def _update(self, weights: Tensor, place: int, numbers: Tensor, key: int) -> None:
        state = self.state[weights]
        components = [_local(tensor) for tensor in (weights, weights.grad, state["exp_avg"], state["exp_avg_sq"])]
        assert all(
            component.is_contiguous() for component in (components[0], *components[2:])
        )  # else `reshape` would copy them
        flat = [component.reshape(-1) for component in components]
        update = _compiled() if weights.is_cuda and find_spec("triton") else _adamw
        flat_weights, *others = flat
        for begin in range(0, flat_weights.numel(), _CHUNK):
            cut = slice(begin, begin + _CHUNK)
            grad, first, second = (component[cut] for component in others)
            update(flat_weights[cut], grad, first, second, numbers, _on(weights.device, key + place + begin))


def closure_loss(closure: Callable[[], Any] | None) -> Any:
    """What a `step` gives back."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _local(tensor: Any) -> Tensor:
    """This rank's part of a tensor that FSDP2 spreads over several."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _numbers(group: dict[str, Any], step: int) -> Tensor:
    """What a step's update needs, as a tensor: as numbers, every change would compile it anew."""
    beta1, beta2 = group["betas"]
    size = group["lr"] / (1 - beta1**step)
    decay = 1 - group["lr"] * group["weight_decay"]
    return torch.tensor([beta1, beta2, size, decay, (1 - beta2**step) ** 0.5, group["eps"]], dtype=torch.float32)


def _key(seed: int, step: int) -> int:
    """Where the random bits of a step begin: far from those of the steps beside it."""
    return (seed * 0x9E3779B1 + step * 0x632BE59BD9B4E019) % (1 << 32)


def _on(device: torch.device, key: int) -> Tensor:
    """The key as a tensor: compiled as a number, it is one of 64 bits on a GPU, and so is what it is added to."""
    return torch.full((), _int32(key), dtype=torch.int32, device=device)


def _adamw(weights: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, numbers: Tensor, key: Tensor) -> None:
    beta1, beta2, size, decay, correction, eps = numbers.unbind()
    gradient = grad.float()
    first = exp_avg.float() * beta1 + gradient * (1 - beta1)
    second = exp_avg_sq.float() * beta2 + gradient * gradient * (1 - beta2)
    updated = weights.float() * decay - size * first / (second.sqrt() / correction + eps)
    bits = _hash(torch.arange(weights.numel(), device=weights.device, dtype=torch.int32) + key)
    exp_avg.copy_(_rounded(first, bits))
    exp_avg_sq.copy_(_rounded(second, _hash(bits)))
    weights.copy_(_rounded(updated, bits >> 16) if weights.dtype == torch.bfloat16 else updated)


def _rounded(values: Tensor, bits: Tensor) -> Tensor:
    """float32 to bfloat16, up or down at random: 16 random bits added below the last kept one carry as often as due."""
    raised = values.contiguous().view(torch.int32) + (bits & 0xFFFF)
    return (raised & -65536).view(torch.float32).to(torch.bfloat16)


def _hash(numbers: Tensor) -> Tensor:
    """Well mixed bits of int32 numbers (the multipliers are those of C. Wellons' "lowbias32")."""
    numbers = (numbers ^ ((numbers >> 16) & 0xFFFF)) * 0x7FEB352D
    numbers = (numbers ^ ((numbers >> 15) & 0x1FFFF)) * _int32(0x846CA68B)
    return numbers ^ ((numbers >> 16) & 0xFFFF)


def _int32(number: int) -> int:
    """The number of 32 bits with a sign that has the same lowest bits."""
    return (number + (1 << 31)) % (1 << 32) - (1 << 31)


@lru_cache
def _compiled() -> Callable[..., None]:
    return torch.compile(_adamw, dynamic=True)
