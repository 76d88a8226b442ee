"""What the hardware allows: the least time that an example takes on a GPU of known rates, counted from the config.

Prefill is arithmetic: every matrix product and every attention of vision tower and decoder, at the matrix rate.
Decoding is reading: the decoder's weights and the key-value caches of a batch at every step, at the memory's rate.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
    """The limit for prompts with pictures of so many patches each; None for a device whose rates are not known."""
    gpu = next((gpu for name, gpu in GPUS.items() if name in device), None)
    if gpu is None:
        return None
    config = json.loads((model / "config.json").read_text())
    prefill = vision_flops(config["vision_config"], patches) + prompt_flops(config["text_config"], prompt_tokens)
    read = step_bytes(config["text_config"], prompt_tokens + new_tokens / 2)
    return 1 / (prefill / gpu.flops + read / gpu.bandwidth * new_tokens / ROWS)


def vision_flops(vision: dict[str, Any], patches: Sequence[int]) -> float:
    """Of the tower's blocks; patches of a picture attend to each other."""
    width = vision["hidden_size"]
    of_a_patch = 2 * (4 * width**2 + 2 * width * vision["intermediate_size"])
    return vision["depth"] * sum(count * (of_a_patch + 4 * count * width) for count in patches)


def prompt_flops(text: dict[str, Any], tokens: float) -> float:
    """Of the decoder's layers over a prompt, attention causal; the vocabulary is asked for one token only."""
    heads = text["num_attention_heads"] * text["head_dim"]
    return 2 * tokens * _layer_weights(text) + text["num_hidden_layers"] * 2 * tokens**2 * heads


def step_bytes(text: dict[str, Any], cached_tokens: float) -> float:
    """In bfloat16: the decoder with its vocabulary matrix, and ROWS caches of so many tokens."""
    weights = _layer_weights(text) + text["vocab_size"] * text["hidden_size"]
    cache = 2 * text["num_hidden_layers"] * text["num_key_value_heads"] * text["head_dim"] * cached_tokens
    return 2 * (weights + ROWS * cache)


def _layer_weights(text: dict[str, Any]) -> float:
    width, head = text["hidden_size"], text["head_dim"]
    queries, keys = text["num_attention_heads"] * head, text["num_key_value_heads"] * head
    attention = 2 * width * queries + 2 * width * keys
    return text["num_hidden_layers"] * (attention + 3 * width * text["intermediate_size"])
