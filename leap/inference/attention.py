"""Attention that reads the key-value cache as it lies, and knows that padding comes first.

PyTorch's masked attention takes as many key heads as query heads, so a library that asks it for grouped heads copies
the whole cache at every new token; queries that share a key head can be asked as rows of one head instead. And a
left-padded prompt needs no mask at all once each row is read from its first token on.
"""

from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right

from leap.models.families import CAUSAL_DECODERS

NAME = "leap_sdpa"
_attend = torch.nn.functional.scaled_dot_product_attention


def use(model: Any) -> bool:
    """Let the model attend in this way, where its decoder is one that it holds for; any other stays as it is. Returns
    whether it does.

    Sliding windows, images whose tokens see each other, or sinks would be silently ignored.
    """
    text = model.config.get_text_config(decoder=True)
    windows = {*(getattr(text, "layer_types", None) or ())} - {"full_attention"}
    if text.model_type not in CAUSAL_DECODERS or windows:
        return False
    _register()
    model.set_attn_implementation(NAME)
    return True


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
        return _prompt(query, key, value, attention_mask, scaling), None
    grouped = query.view(batch, key.shape[1], -1, width)
    found = _attend(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return found.reshape(batch, 1, heads, width), None


def _prompt(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """Causal attention of prompts with padding before them, or between them and an opening that is cached, row by row
    without the padding; [batch, tokens, heads, width].

    mask [batch, 1, tokens, cached tokens] is true where a token may look; its last row says where the padding is, if
    one prompt has none.
    """
    tokens = query.shape[2]
    seen = mask[:, 0, -1].sum(-1).tolist()
    opening = max(seen) - tokens
    found = torch.zeros_like(query)
    for row, own in enumerate(seen):
        first = max(seen) - own  # of the prompt's tokens that is no padding
        part = (slice(row, row + 1), slice(None), slice(first, None))
        read = (slice(row, row + 1), slice(None), slice(opening + first, max(seen)))
        if opening:
            early = (*read[:2], slice(opening))
            keys, values = (torch.cat([cached[early], cached[read]], dim=2) for cached in (key, value))
            bias = _lower_right(tokens - first, own, query.device)
            found[part] = _attend(query[part], keys, values, attn_mask=bias, scale=scaling, enable_gqa=True)
        else:
            found[part] = _attend(query[part], key[read], value[read], is_causal=True, scale=scaling, enable_gqa=True)
    return found.transpose(1, 2).contiguous()


def _lower_right(tokens: int, seen: int, device: torch.device) -> torch.Tensor:
    """A causal mask whose last token sees all `seen` tokens, `tokens` - 1 of them before itself."""
    if device.type != "cpu":  # where kernels know it by its name, and need no mask
        return causal_lower_right(tokens, seen)
    return torch.ones(tokens, seen, dtype=torch.bool).tril(seen - tokens)
