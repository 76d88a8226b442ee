"""Attention within the segments of one packed row: no padding, no mask, no token sees another sample.

A GPU of compute capability 8 or newer runs PyTorch's variable-length flash attention; anywhere else every segment is
asked by itself of plain scaled-dot-product attention, which computes the same.
"""

import inspect
from typing import NamedTuple

import torch
from torch import Tensor

_attend = torch.nn.functional.scaled_dot_product_attention


class Segments(NamedTuple):
    """Where the segments of a packed row end, on the device and on the host (which is never asked to wait for it)."""

    ends: Tensor  # [segments + 1] int32, from 0
    lengths: tuple[int, ...] | None  # None where flash attention runs: it needs the ends alone
    longest: int  # no segment is longer


def has_flash(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether variable-length flash attention runs there in that number format."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    try:
        import torch.nn.attention.varlen  # noqa: F401
    except ImportError:
        return False
    return torch.cuda.get_device_capability(device)[0] >= 8


def attend(query: Tensor, key: Tensor, value: Tensor, segments: Segments, causal: bool, scale: float) -> Tensor:
    """query [tokens, heads, width]; key, value [tokens, key heads, width]; the result is as query."""
    if segments.lengths is None:
        return _flash(query, key, value, segments, causal, scale)
    return _plain(query, key, value, segments.lengths, causal, scale)


def _flash(query: Tensor, key: Tensor, value: Tensor, segments: Segments, causal: bool, scale: float) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    window = (-1, 0) if causal else (-1, -1)
    longest, ends = segments.longest, segments.ends
    return varlen_attn(query, key, value, ends, ends, longest, longest, scale=scale, window_size=window, **_GROUPED)


def _grouped_heads() -> dict[str, bool]:
    """Newer releases want to be told that query heads share key heads; older ones just take them."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return {}
    return {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


_GROUPED = _grouped_heads()


@torch.compiler.disable
def _plain(
    query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], causal: bool, scale: float
) -> Tensor:
    split = zip(*(part.split(lengths) for part in (query, key, value)), strict=True)
    found = [
        _attend(*(part.transpose(0, 1)[None] for part in parts), is_causal=causal, scale=scale, enable_gqa=True)
        for parts in split
    ]
    return torch.cat([part[0].transpose(0, 1) for part in found])
