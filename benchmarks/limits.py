"""What the hardware allows: the least time that an example takes on a GPU of known rates, counted from the config.

Prefill is arithmetic: every matrix product and every attention of vision tower and decoder, at the matrix rate.
Decoding is reading: the decoder's weights and the key-value caches of a batch at every step, at the memory's rate.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leap.training.flops import causal_attention, layer_weights, vision_attention, vision_block_weights


@dataclass(frozen=True)
class Gpu:
    """Rates that plain programs reach (8192^3 bfloat16 product, device copy), measured, in FLOP/s and bytes/s."""

    flops: float
    bandwidth: float


GPUS = {"H100": Gpu(800e12, 3.0e12), "H200": Gpu(790e12, 4.3e12)}
ROWS = 64  # sequences that are decoded together


def examples_per_second(
    model: Path, device: str, prompt_tokens: float, patches: Sequence[int], new_tokens: int
) -> float | None:
    """The limit for prompts with images of so many patches each; None for a device whose rates are not known."""
    gpu = next((gpu for name, gpu in GPUS.items() if name in device), None)
    if gpu is None:
        return None
    config = json.loads((model / "config.json").read_text())
    prefill = vision_flops(config["vision_config"], patches) + prompt_flops(config["text_config"], prompt_tokens)
    read = step_bytes(config["text_config"], prompt_tokens + new_tokens / 2)
    return 1 / (prefill / gpu.flops + read / gpu.bandwidth * new_tokens / ROWS)


def vision_flops(vision: dict[str, Any], patches: Sequence[int]) -> float:
    """Of the tower's blocks."""
    return 2 * sum(patches) * vision["depth"] * vision_block_weights(vision) + vision_attention(vision, patches)


def prompt_flops(text: dict[str, Any], tokens: float) -> float:
    """Of the decoder's layers over a prompt; the vocabulary is asked for one token only."""
    return 2 * tokens * text["num_hidden_layers"] * layer_weights(text) + causal_attention(text, tokens)


def step_bytes(text: dict[str, Any], cached_tokens: float) -> float:
    """In bfloat16: the decoder with its vocabulary matrix, and ROWS caches of so many tokens."""
    weights = text["num_hidden_layers"] * layer_weights(text) + text["vocab_size"] * text["hidden_size"]
    cache = 2 * text["num_hidden_layers"] * text["num_key_value_heads"] * text["head_dim"] * cached_tokens
    return 2 * (weights + ROWS * cache)
