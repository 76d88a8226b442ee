"""Qwen3-VL over one packed batch of samples: the library's modules, called without padding, masks or waits for the GPU.

`install` gives a model this forward; its weights, their names and its submodules stay. The summed loss equals the
padded model's, sample by sample.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from leap.models.qwen3_vl.varlen_attention import Segments, attend, has_flash

_VARIANTS = 64
NAME = "leap_packed"  # of the decoder's attention, in the library's register


def install(
    model: Any,
    encoder: Any,
    compiled: bool,
    cross_entropy: Callable[[Tensor, Tensor], Tensor],
    flash4: bool = False,
) -> None:
    """Replace the model's forward; with `compiled`, blocks, layers and loss are compiled (each kind once, whatever the
    lengths of micro-batches).

    `cross_entropy` takes logits [labels, vocabulary] and targets [labels] to their summed loss; `flash4`: attention is
    FlashAttention 4's.
    """

    def summed_loss(head: Any, hidden: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(head(hidden), targets)

    from transformers import AttentionInterface
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRMSNorm

    AttentionInterface.register(NAME, _text_attention)
    text = model.model.language_model
    text.config._attn_implementation = NAME
    for block in model.model.visual.blocks:
        block.attn.forward = MethodType(_vision_attention, block.attn)
    mean, std = encoder.statistics()
    model.register_buffer("leap_mean", mean.to(model.device), persistent=False)
    model.register_buffer("leap_std", std.to(model.device), persistent=False)
    model.leap_loss = torch.compile(summed_loss, dynamic=True) if compiled else summed_loss
    model.forward = MethodType(_forward, model)
    model.leap_compiled, model.leap_flash4 = compiled, flash4
    for norm in text.modules():
        if not compiled and isinstance(norm, Qwen3VLTextRMSNorm):
            norm.forward = MethodType(_norm, norm)
    if compiled:
        # With and without gradients, two dtypes, adapters: more variants of a layer than PyTorch expects.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)
        for part in (*model.model.visual.blocks, *text.layers):
            part.compile()


def _forward(
    self: Any, *, pixels: Tensor | None, input_ids: Tensor, position_ids: Tensor, **micro_batch: Any
) -> Tensor:
    """The loss summed over a micro-batch's label tokens (see `PackedCollator` for what a micro-batch holds)."""
    text = self.model.language_model
    dtype = (
        torch.get_autocast_dtype(input_ids.device.type) if torch.is_autocast_enabled(input_ids.device.type) else None
    )
    hidden = text.embed_tokens(input_ids)[None]
    hidden = hidden.to(dtype) if dtype else hidden  # else the whole residual stream would be fp32
    deep: list[Tensor] = []
    if pixels is not None:
        features, deep = _vision(self, pixels, micro_batch, dtype)
        hidden = _put(hidden, micro_batch["pixels_index"], features, torch.Tensor.index_copy)
    segments = _segments(self, hidden, micro_batch["ends"], micro_batch["lengths"], micro_batch["longest"])
    positions = text.rotary_emb(hidden, position_ids[:, None])
    for layer_index, layer in enumerate(text.layers):
        _expect_any_length(self, hidden, positions, segments)
        hidden = layer(hidden, position_embeddings=positions, attention_mask=None, segments=segments)
        if layer_index < len(deep):
            hidden = _put(hidden, micro_batch["pixels_index"], deep[layer_index], torch.Tensor.index_add)
    chosen = text.norm(hidden[0, micro_batch["label_index"]])
    return self.leap_loss(self.lm_head, chosen, micro_batch["targets"])


def _expect_any_length(self: Any, hidden: Tensor, positions: tuple[Tensor, Tensor], segments: Segments) -> None:
    """Have what comes next compiled for any number of tokens at once, not for the first one's and then again. As many
    images of one size in every micro-batch are one number, though."""
    if self.leap_compiled and not segments.equal:
        for part in (hidden, *positions, segments.ends):
            torch._dynamo.maybe_mark_dynamic(part, max(part.dim() - 2, 0))


def _put(hidden: Tensor, index: Tensor, features: Tensor, how: Any) -> Tensor:
    """`features` at the places `index`; a dummy image's have none, and add nothing."""
    features = features.to(hidden.dtype)
    if index.shape[0] == 0:
        return hidden + 0 * features.sum()
    return how(hidden, 1, index, features[None])


def _vision(
    self: Any, pixels: Tensor, micro_batch: dict[str, Any], dtype: torch.dtype | None
) -> tuple[Tensor, list[Tensor]]:
    """(features [image tokens, width], those for the first layers of the decoder)."""
    tower = self.model.visual
    hidden = _embed_patches(tower, ((pixels - self.leap_mean) / self.leap_std).flatten(1))
    place = tower.pos_embed(micro_batch["interpolation_index"]) * micro_batch["interpolation_weight"][:, :, None]
    hidden = hidden + place.sum(1).to(hidden.dtype)
    hidden = hidden.to(dtype) if dtype else hidden
    positions = tower.rotary_pos_emb(hidden, micro_batch["patch_positions"])
    segments = _segments(
        self,
        hidden,
        micro_batch["image_ends"],
        micro_batch["image_lengths"],
        micro_batch["largest_image"],
        micro_batch["equal_images"],
    )
    deep: list[Tensor] = []
    for index, block in enumerate(tower.blocks):
        _expect_any_length(self, hidden, positions, segments)
        hidden = block(hidden, cu_seqlens=None, position_embeddings=positions, segments=segments)
        if index in tower.deepstack_visual_indexes:
            deep.append(tower.deepstack_merger_list[tower.deepstack_visual_indexes.index(index)](hidden))
    return tower.merger(hidden), deep


def _embed_patches(tower: Any, patches: Tensor) -> Tensor:
    """The patch embedding of images, [patches, values] of one frame: every frame is the same, so kernels are summed.

    A convolution whose stride is its size is a product of matrices, and PyTorch's 3-D one is many times slower.
    """
    projection = tower.patch_embed.proj
    return functional.linear(patches, projection.weight.sum(2).flatten(1), projection.bias)


def _segments(
    self: Any, hidden: Tensor, ends: Tensor, lengths: tuple[int, ...], longest: int, equal: int = 0
) -> Segments:
    on_device = has_flash(hidden.device, hidden.dtype)
    return Segments(ends, None if on_device else lengths, longest, equal, self.leap_flash4)


def _norm(self: Any, hidden: Tensor) -> Tensor:
    """The library's forward; of float32 on a GPU one kernel, where it starts six, and fourteen for the gradients."""
    if hidden.is_cuda and hidden.dtype == self.weight.dtype == torch.float32:
        return functional.rms_norm(hidden, self.weight.shape, self.weight, self.variance_epsilon)
    found: Tensor = type(self).forward(self, hidden)
    return found


def _text_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, *, scaling: float, segments: Segments,
    **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """query [1, heads, tokens, width]; the result [1, tokens, heads, width], as the library's interface has it."""
    query, key, value = (part.squeeze(0).transpose(0, 1) for part in (query, key, value))
    return attend(query, key, value, segments, causal=True, scale=scaling)[None], None


def _vision_attention(
    self: Any, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], segments: Segments, **_: Any
) -> Tensor:
    """The library's forward with the segments of a micro-batch. hidden_states [patches, width]."""
    from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision

    patches = hidden_states.shape[0]
    query, key, value = self.qkv(hidden_states).reshape(patches, 3, self.num_heads, -1).unbind(1)
    query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
    return self.proj(attend(query, key, value, segments, causal=False, scale=self.scaling).reshape(patches, -1))
