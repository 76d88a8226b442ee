"""Attention that reads the key-value cache as it lies, and knows that padding comes first.

PyTorch's masked attention takes as many key heads as query heads, so a library that asks it for grouped heads copies
the whole cache at every new token; queries that share a key head can be asked as rows of one head instead. And a
left-padded prompt needs no mask at all once each row is read from its first token on.
"""

from typing import Any

import torch

from leap.models.families import CAUSAL_DECODERS

NAME = "leap_sdpa"
_attend = torch.nn.functional.scaled_dot_product_attention


def use(model: Any) -> None:
    """Let the model attend in this way, where its decoder is one that it holds for; any other stays as it is.

    Sliding windows, images whose tokens see each other, or sinks would be silently ignored.
    """
    text = model.config.get_text_config(decoder=True)
    windows = {*(getattr(text, "layer_types", None) or ())} - {"full_attention"}
    if text.model_type in CAUSAL_DECODERS and not windows:
        _register()
        model.set_attn_implementation(NAME)


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """query [batch, heads, tokens, width]; key, value [batch, key heads, cached tokens, width]."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    batch, heads, tokens, width = query.shape
    if attention_mask is None or not getattr(module, "is_causal", False):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    if tokens > 1:
        return _prompt(query, key[:, :, :tokens], value[:, :, :tokens], attention_mask, scaling), None
    grouped = query.view(batch, key.shape[1], -1, width)
    found = _attend(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return found.reshape(batch, 1, heads, width), None


def _prompt(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """Causal attention of left-padded prompts, row by row from each one's first token; [batch, tokens, heads, width].

    mask [batch, 1, tokens, cached tokens] is true where a token may look; its last row says where the padding ends.
    """
    tokens = query.shape[2]
    padding = mask[:, 0, -1, :tokens].int().argmax(-1).tolist()
    found = torch.zeros_like(query)
    for row, first in enumerate(padding):
        part = (slice(row, row + 1), slice(None), slice(first, None))
        found[part] = _attend(query[part], key[part], value[part], is_causal=True, scale=scaling, enable_gqa=True)
    return found.transpose(1, 2).contiguous()
