"""Parts of a Qwen3-VL as inference calls them: fewer and larger operations, some of them compiled on a GPU.

Compiled as one are the vision tower's blocks, which share one shape, and the norms and feed-forward parts of the
decoder: its attention keeps a cache, which would be compiled anew for every layer.
"""

from types import MethodType
from typing import Any

import torch

from leap.models.families import family

_attend = torch.nn.functional.scaled_dot_product_attention


def replace_parts(model: Any) -> None:
    """Give the vision tower forwards that compute the same faster; a model of another family is left as it is."""
    if not family(model.config.model_type).compiled_inference:
        return
    tower = model.model.visual
    tower.patch_embed.forward = MethodType(_embed_patches, tower.patch_embed)
    for block in tower.blocks:
        block.attn.forward = MethodType(_vision_attention, block.attn)


def compile_parts(model: Any) -> None:
    """Compile what is worth it; a model of another family is left as it is."""
    if not family(model.config.model_type).compiled_inference:
        return
    for block in model.model.visual.blocks:
        block.compile()
    for layer in model.model.language_model.layers:
        norms = layer.input_layernorm, layer.post_attention_layernorm, layer.self_attn.q_norm, layer.self_attn.k_norm
        for part in (*norms, layer.mlp):
            part.compile(dynamic=True)


def _embed_patches(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """[patches, values] to [patches, width]. A convolution whose stride is its size is a product of matrices, and
    PyTorch's 3-D one is many times slower."""
    kernel = self.proj.weight
    return torch.nn.functional.linear(hidden_states.to(kernel.dtype), kernel.flatten(1), self.proj.bias)


def _vision_attention(
    self: Any, hidden_states: torch.Tensor, cu_seqlens: torch.Tensor, position_embeddings: Any, **_: Any
) -> torch.Tensor:
    """The library's forward, its loop over images kept out of the compiled code. hidden_states [patches, width]."""
    from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision

    patches = hidden_states.shape[0]
    query, key, value = self.qkv(hidden_states).reshape(patches, 3, self.num_heads, -1).unbind(1)
    query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
    return self.proj(_within_images(query, key, value, cu_seqlens).reshape(patches, -1))


@torch.compiler.disable
def _within_images(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seqlens: torch.Tensor
) -> torch.Tensor:
    """Every image's patches attend to each other: [patches, heads, width] each; images end at `cu_seqlens`."""
    lengths = cu_seqlens.diff().tolist()
    if len(set(lengths)) == 1:  # images of one size: one call
        stacked = [part.unflatten(0, (len(lengths), -1)).transpose(1, 2) for part in (query, key, value)]
        return _attend(*stacked).transpose(1, 2).flatten(0, 1)
    split = zip(*(part.split(lengths) for part in (query, key, value)), strict=True)
    return torch.cat([_attend(*(p.transpose(0, 1)[None] for p in parts))[0].transpose(0, 1) for parts in split])
