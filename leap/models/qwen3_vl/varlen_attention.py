"""Attention within the segments of one packed batch: no padding, no mask, no token sees another sample.

A GPU of compute capability 8 or newer runs PyTorch's variable-length flash attention, or FlashAttention 4 where that
is asked for; in float32, or on an older one, PyTorch's memory-efficient attention. On a CPU every segment is asked by
itself of plain scaled-dot-product attention, which computes the same.
"""

import inspect
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn

_attend = torch.nn.functional.scaled_dot_product_attention
# Newer releases need to know that query heads share key heads; older ones just take them.
_GROUPED: Any = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


class Segments(NamedTuple):
    """Where the segments of a packed batch end, on the device and on the host (which is never asked to wait for it)."""

    ends: Tensor  # [segments + 1] int32, from 0
    lengths: tuple[int, ...] | None  # None where flash attention runs: it needs the ends alone
    longest: int  # no segment is longer
    equal: int = 0  # the length of every segment, where all are of one and cuDNN's faster attention can have them
    flash4: bool = False  # FlashAttention 4's kernels


def has_flash(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether variable-length flash attention runs there in that dtype."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    return torch.cuda.get_device_capability(device)[0] >= 8


def has_flash4(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether FlashAttention 4 is installed and runs there in that dtype."""
    if not has_flash(device, dtype) or find_spec("flash_attn") is None or find_spec("flash_attn.cute") is None:
        return False
    return torch.cuda.get_device_capability(device)[0] in (9, 10)


def attend(query: Tensor, key: Tensor, value: Tensor, segments: Segments, causal: bool, scale: float) -> Tensor:
    """query [tokens, heads, width]; key, value [tokens, key heads, width]; the result is as query."""
    if segments.flash4:
        query, key = query.to(value.dtype), key.to(value.dtype)
        found, _ = _flash4(query, key, value, segments.ends, segments.longest, causal, scale)
        return found
    if segments.lengths is None and segments.equal and not causal:
        return _batched(query, key, value, segments.equal, scale)
    if segments.lengths is None:
        return _flash(query, key, value, segments, causal, scale)
    if query.is_cuda:
        return _efficient(query, key, value, segments, causal, scale)
    return _plain(query, key, value, segments.lengths, causal, scale)


def _flash(query: Tensor, key: Tensor, value: Tensor, segments: Segments, causal: bool, scale: float) -> Tensor:
    # Norms of fp32 weights widened queries and keys, and autocast does not know this operation.
    query, key = query.to(value.dtype), key.to(value.dtype)
    lengths = segments.ends, segments.ends, segments.longest, segments.longest
    window = (-1, 0) if causal else (-1, -1)
    found: Any = varlen_attn(query, key, value, *lengths, scale=scale, window_size=window, **_GROUPED)
    return found


@torch.library.custom_op("leap::flash4", mutates_args=())
def _flash4(
    query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """The result, and the logarithm of the softmax's sums [heads, tokens].

    An operator, since a compiler cannot look into it. PyTorch's own switch (activate_flash_attention_impl) refuses the
    backward pass of segments in torch 2.11.
    """
    from flash_attn.cute.interface import _flash_attn_fwd

    found, sums, *_ = _flash_attn_fwd(
        query, key, value, cu_seqlens_q=ends, cu_seqlens_k=ends, max_seqlen_q=longest, max_seqlen_k=longest,
        softmax_scale=scale, causal=causal, return_lse=True,
    )  # fmt: skip
    return found, sums


@_flash4.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, causal: bool, scale: float) -> Any:
    return query.new_empty(query.shape), query.new_empty((query.shape[1], query.shape[0]), dtype=torch.float32)


@torch.library.custom_op("leap::flash4_backward", mutates_args=())
def _flash4_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, found: Tensor, sums: Tensor, ends: Tensor, longest: int,
    causal: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    from flash_attn.cute.interface import _flash_attn_bwd

    grads = _flash_attn_bwd(
        query, key, value, found, grad.contiguous(), sums, softmax_scale=scale, causal=causal, cu_seqlens_q=ends,
        cu_seqlens_k=ends, max_seqlen_q=longest, max_seqlen_k=longest,
    )  # fmt: skip
    of_query, of_key, of_value = (one.contiguous() for one in grads[:3])
    return of_query, of_key, of_value


@_flash4_backward.register_fake
def _(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Any:
    return tuple(part.new_empty(part.shape) for part in (query, key, value))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, ends, *ctx.rest = inputs
    ctx.save_for_backward(query, key, value, *output, ends)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    return (*_flash4_backward(grad, *ctx.saved_tensors, *ctx.rest), None, None, None, None)


_flash4.register_autograd(_backward, setup_context=_keep)


def _batched(query: Tensor, key: Tensor, value: Tensor, length: int, scale: float) -> Tensor:
    """Segments of one length as the rows of a batch."""
    query, key, value = (part.unflatten(0, (-1, length)).transpose(1, 2) for part in (query, key, value))
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION], set_priority=True):
        return _attend(query, key, value, scale=scale).transpose(1, 2).flatten(0, 1)


@torch.compiler.disable
def _efficient(query: Tensor, key: Tensor, value: Tensor, segments: Segments, causal: bool, scale: float) -> Tensor:
    """One kernel for all segments, as nested tensors ask for it: a small model's step is what the host takes to start
    kernels, and segment by segment, with heads that share keys, an attention is dozens of them."""
    query, key = query.to(value.dtype), key.to(value.dtype)
    shared = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(shared, dim=1) if shared > 1 else part for part in (key, value))
    longest = min(segments.longest, len(query))  # the backward pass refuses a bound above the number of tokens
    bounds = segments.ends, segments.ends, longest, longest
    found: Any = torch.ops.aten._efficient_attention_forward(
        query[None], key[None], value[None], None, *bounds, 0.0, int(causal), True, scale=scale
    )
    return found[0].squeeze(0)  # an index would have the backward pass fill and copy a tensor


@torch.compiler.disable
def _plain(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], causal: bool, scale: float) -> Tensor:
    found = []
    for parts in zip(*(part.split(lengths) for part in (query, key, value)), strict=True):
        one_query, one_key, one_value = (part.transpose(0, 1)[None] for part in parts)
        found.append(_attend(one_query, one_key, one_value, is_causal=causal, scale=scale, enable_gqa=True))
    return torch.cat([part.squeeze(0).transpose(0, 1) for part in found])
