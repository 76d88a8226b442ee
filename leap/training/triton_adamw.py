"""AdamW of float32 weights on a GPU as one kernel over all of them, which clips gradients as it reads them.

PyTorch's fused AdamW takes many launches of fewer bytes each, and clipping reads and writes every gradient once more.
States, groups and so checkpoints are PyTorch's own; a run may go on with either.
"""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from leap.training.stochastic_adamw import closure_loss
from leap.training.weight_table import BLOCK, BLOCKS, weight_table

_MOMENTS = "exp_avg", "exp_avg_sq"


class TritonAdamW(torch.optim.AdamW):
    """torch.optim.AdamW(fused=True) for contiguous float32 weights of one device."""

    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, **settings, fused=True)
        self._scale: Tensor | None = None

    def clip(self, limit: float) -> Tensor:
        """The norm of all gradients, []; the next step takes them as clip_grad_norm_ would have left them."""
        weights = [weights for group in self.param_groups for weights in group["params"]]
        norm = torch.nn.utils.get_total_norm([one.grad for one in weights if one.grad is not None])
        self._scale = (limit / (norm + 1e-6)).clamp(max=1.0)
        return norm

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = closure_loss(closure)
        for group in self.param_groups:
            weights = [weights for weights in group["params"] if weights.grad is not None]
            if weights:
                self._update(weights, group)
        self._scale = None
        return loss

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        device = weights[0].device
        states = [self._state(one) for one in weights]
        torch._foreach_add_([state["step"] for state in states], 1)
        beta1, beta2 = group["betas"]
        steps = torch.stack([state["step"] for state in states]).to(device).double()
        corrections = torch.stack([1 - beta1**steps, (1 - beta2**steps).sqrt()]).float()
        scale = torch.ones((), device=device) if self._scale is None else self._scale
        columns: list[list[Any]] = [
            weights,
            [one.grad for one in weights],
            *([s[name] for s in states] for name in _MOMENTS),
        ]
        assert all(one.dtype == torch.float32 for column in columns for one in column)
        table, programs, aligned = weight_table(columns)
        _adamw[(len(programs),)](
            table, programs, corrections, scale, len(weights),
            group["lr"], group["weight_decay"], beta1, beta2, group["eps"], aligned, BLOCK, BLOCKS, num_warps=4,
        )  # fmt: skip

    def _state(self, weights: Tensor) -> dict[str, Any]:
        state = self.state[weights]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=weights.device)
            state |= {name: torch.zeros_like(weights) for name in _MOMENTS}
        return state


@triton.jit
def _adamw(  # type: ignore[no-untyped-def]
    table, programs, corrections, scale, count, lr, decay, beta1, beta2, eps,
    ALIGNED: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Decoupled weight decay (Loshchilov and Hutter 2019), in the order of PyTorch's own kernel."""
    program = tl.program_id(0).to(tl.int64)
    index = tl.load(programs + 2 * program)
    chunk = tl.load(programs + 2 * program + 1)
    weights = tl.load(table + index).to(tl.pointer_type(tl.float32))
    grads = tl.load(table + count + index).to(tl.pointer_type(tl.float32))
    firsts = tl.load(table + 2 * count + index).to(tl.pointer_type(tl.float32))
    seconds = tl.load(table + 3 * count + index).to(tl.pointer_type(tl.float32))
    size = tl.load(table + 4 * count + index)
    if ALIGNED:
        weights, grads = tl.multiple_of(weights, 16), tl.multiple_of(grads, 16)
        firsts, seconds = tl.multiple_of(firsts, 16), tl.multiple_of(seconds, 16)
        size = tl.multiple_of(size, 16)
    step_size = lr / tl.load(corrections + index)
    correction = tl.load(corrections + count + index)
    factor = tl.load(scale)
    for block in range(BLOCKS):
        place = (chunk * BLOCKS + block).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = place < size
        grad = tl.load(grads + place, inside) * factor
        weight = tl.load(weights + place, inside) * (1 - lr * decay)
        first = tl.load(firsts + place, inside)
        second = tl.load(seconds + place, inside)
        first += (1 - beta1) * (grad - first)
        second = beta2 * second + (1 - beta2) * grad * grad
        weight -= step_size * first / (tl.sqrt(second) / correction + eps)
        tl.store(weights + place, weight, inside)
        tl.store(firsts + place, first, inside)
        tl.store(seconds + place, second, inside)
