"""What a kernel over all weights works through: where they lie, and which program has which part of which."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK, BLOCKS = 1024, 16  # weights at a time, and how often, in a program of the kernel
_ALIGNED = 16  # bytes of an address, and numbers of a weight, with which the compiler loads several at once


class WeightTable(NamedTuple):
    """On the weights' device; its launch waits for nothing there."""

    rows: Tensor  # [columns + 1 + further numbers, weights] int64: the columns' addresses, the sizes, further numbers
    programs: Tensor  # [programs, 2] int32: a weight's place in the table, and the chunk of it
    aligned: bool  # whether all addresses and sizes are


def weight_table(columns: list[list[Tensor]], further: list[list[int]] | None = None) -> WeightTable:
    """Of tensors [columns][weights], contiguous and of one size each, and of further numbers a weight.

    Made anew in every step: gradients lie elsewhere, and nothing says when a state has been replaced.
    """
    assert all(one.is_contiguous() for column in columns for one in column)
    device, sizes = columns[0][0].device, [one.numel() for one in columns[0]]
    rows = [*([one.data_ptr() for one in column] for column in columns), sizes]
    aligned = not any(number % _ALIGNED for row in rows for number in row)
    table = torch.tensor(rows + (further or []), pin_memory=device.type == "cuda")
    return WeightTable(table.to(device, non_blocking=True), _programs(tuple(sizes), device), aligned)


@lru_cache(maxsize=8)
def _programs(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    chunks = [(index, chunk) for index, size in enumerate(sizes) for chunk in range(-(-size // (BLOCK * BLOCKS)))]
    return torch.tensor(chunks, dtype=torch.int32, device=device)
