"""AdamW in bfloat16 throughout, for GPUs on which float32 weights and states do not fit: 8 bytes a weight, not 16.

A bfloat16 number has 8 bits of precision, so an update below a 512th of a weight is lost when it is rounded to the
nearest. Here weights and moments are rounded up or down at random, in proportion to what lies between, so that they are
right on average and small updates add up (Zamirai et al. 2020, "Revisiting BFloat16 Training"). The random bits are a
hash of seed, step and place, so a run that is continued from a checkpoint rounds as it would have without the break.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
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
            alike: dict[Any, tuple[list[int], list[list[Tensor]]]] = defaultdict(lambda: ([], []))  # one kernel for all
            for weights in group["params"]:
                if weights.grad is not None:
                    step = self._advance(weights)
                    parts = self._parts(weights)
                    if parts[0].numel():
                        keys, tensors = alike[step, parts[0].device, parts[0].dtype, parts[1].dtype]
                        keys.append(_int32(_key(group["seed"], step) + place))
                        tensors.append(parts)
                place += weights.numel()
            for (step, device, *_), (keys, tensors) in alike.items():
                _update(device)(tensors, keys, _numbers(group, step))
        return loss

    def _advance(self, weights: Tensor) -> int:
        state = self.state[weights]
        if not state:
            state["step"] = torch.tensor(0.0)
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(weights, dtype=torch.bfloat16)
        state["step"] += 1
        return int(state["step"].item())  # it lies on the CPU

    def _parts(self, weights: Tensor) -> list[Tensor]:
        """Weights, gradient and moments, as far as this rank holds them, each in one dimension."""
        state = self.state[weights]
        parts = [_local(tensor) for tensor in (weights, weights.grad, state["exp_avg"], state["exp_avg_sq"])]
        # `reshape` would copy all but the gradient, of which a copy does
        assert all(part.is_contiguous() for part in (parts[0], *parts[2:]))
        return [part.reshape(-1) for part in parts]


def closure_loss(closure: Callable[[], Any] | None) -> Any:
    """What a `step` gives back."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _local(tensor: Any) -> Tensor:
    """This rank's part of a tensor that FSDP2 spreads over several."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _update(device: torch.device) -> Callable[[list[list[Tensor]], list[int], list[float]], None]:
    """What updates weights there, given `_parts` and a key of each, and `_numbers`."""
    if device.type == "cuda" and find_spec("triton"):
        from leap.training.triton_stochastic import update_together

        return update_together
    return _update_by_turns


def _update_by_turns(tensors: list[list[Tensor]], keys: list[int], numbers: list[float]) -> None:
    for parts, key in zip(tensors, keys, strict=True):
        for begin in range(0, parts[0].numel(), _CHUNK):
            weights, grad, first, second = (part[begin : begin + _CHUNK] for part in parts)
            _adamw(weights, grad, first, second, numbers, _int32(key + begin))


def _numbers(group: dict[str, Any], step: int) -> list[float]:
    """beta1, beta2, the step's size, what decay leaves, the root of the second moment's correction, eps."""
    beta1, beta2 = group["betas"]
    size = group["lr"] / (1 - beta1**step)
    decay = 1 - group["lr"] * group["weight_decay"]
    return [beta1, beta2, size, decay, (1 - beta2**step) ** 0.5, group["eps"]]


def _key(seed: int, step: int) -> int:
    """Where the random bits of a step begin: far from those of the steps beside it."""
    return (seed * 0x9E3779B1 + step * 0x632BE59BD9B4E019) % (1 << 32)


def _adamw(weights: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, numbers: list[float], key: int) -> None:
    beta1, beta2, size, decay, correction, eps = numbers
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
