"""Floating-point operations of training, counted from a model's configuration (Qwen3-VL and models of its shape).

A product of n rows with a matrix of w weights is 2 n w operations (a multiplication and an addition), and its backward
pass is two such products, one for the input's gradient and one for the weights': 6 n w in all (Kaplan et al. 2020,
"Scaling Laws for Neural Language Models", section 2.1; Chowdhery et al. 2022, "PaLM", appendix B, which defines model
FLOPs utilisation). Attention is counted beside it: two products of queries with keys and of weights with values, whose
backward pass is twice as long; causal in the decoder, where a token sees a sample's earlier tokens only, and between
all patches of one image in the vision tower. The vocabulary is asked for at label positions only. What checkpointing
computes a second time is never counted, nor is anything but products (norms, activations, the optimiser).

A frozen matrix has no gradient of its own: 4 n w where gradients pass through it, 2 n w where they do not.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Trained:
    """What is trained: whole components of the model, or LoRA's pairs of matrices of rank `lora_rank` beside others.

    Adapters before the decoder (`lora_before_llm`) count as the gradients that must reach them; their own products, in
    towers of small matrices, are left out.
    """

    vision: bool = True
    projector: bool = True  # the merger and the deepstack mergers
    llm: bool = True
    lora_rank: int = 0
    lora_targets: Collection[str] = ()  # of the decoder's matrices: q_proj, k_proj, v_proj, o_proj, gate_proj, ...
    lora_before_llm: Collection[str] = ()  # vision, projector


EVERYTHING = Trained()


@dataclass(frozen=True)
class SampleFlops:
    """Of one sample, forward and backward."""

    vision: float  # with the mergers
    llm: float  # with the vocabulary

    @property
    def total(self) -> float:
        return self.vision + self.llm


def sample_flops(
    config: Any, tokens: float, label_tokens: float, patches: Sequence[int], trained: Trained = EVERYTHING
) -> SampleFlops:
    """Training FLOPs of a sample of so many tokens (those of its images included), labels, and patches an image.

    `config` is a model's configuration: the object, or what config.json holds.
    """
    values = config if isinstance(config, dict) else config.to_dict()
    vision, text = values["vision_config"], values["text_config"]
    learns_before_llm = bool(patches) and (trained.vision or trained.projector or bool(trained.lora_before_llm))
    return SampleFlops(
        _vision(vision, patches, trained), _llm(text, tokens, label_tokens, trained, learns_before_llm or trained.llm)
    )


def _product(rows: float, weights: float, learns: bool, passes: bool) -> float:
    """A product's operations; `passes`: its input needs a gradient, for what lies before it or within."""
    return 2 * rows * weights * (1 + learns + passes)


def vision_block_weights(vision: dict[str, Any]) -> int:
    """Of one block's matrices."""
    width = vision["hidden_size"]
    return 4 * width**2 + 2 * width * vision["intermediate_size"]


def vision_attention(vision: dict[str, Any], patches: Sequence[int]) -> float:
    """Forward, in all blocks: patches of an image attend to each other."""
    return vision["depth"] * sum(4 * count**2 * vision["hidden_size"] for count in patches)


def _vision(vision: dict[str, Any], patches: Sequence[int], trained: Trained) -> float:
    count, learns = sum(patches), trained.vision
    pixels = vision["in_channels"] * vision["temporal_patch_size"] * vision["patch_size"] ** 2
    embedding = _product(count, pixels * vision["hidden_size"], learns, passes=False)
    passes = learns or "vision" in trained.lora_before_llm
    blocks = _product(count, vision["depth"] * vision_block_weights(vision), learns, passes)
    attention = vision_attention(vision, patches) * (3 if passes else 1)
    return embedding + blocks + attention + _mergers(vision, count, trained)


def _mergers(vision: dict[str, Any], patches: float, trained: Trained) -> float:
    """Of the merger and of those of the deepstack levels: two matrices each, over 2x2 patches side by side."""
    side = vision["spatial_merge_size"] ** 2
    width, rows = vision["hidden_size"] * side, patches / side
    weights = width**2 + width * vision["out_hidden_size"]
    learns = trained.projector  # with the norm before the first matrix, so that a gradient passes both
    count = 1 + len(vision["deepstack_visual_indexes"])
    return count * _product(rows, weights, learns, passes=learns or trained.vision or bool(trained.lora_before_llm))


def layer_matrices(text: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of the matrices of one decoder layer, by name."""
    width, inner, head = text["hidden_size"], text["intermediate_size"], text["head_dim"]
    queries, keys = text["num_attention_heads"] * head, text["num_key_value_heads"] * head
    return {
        "q_proj": (width, queries),
        "k_proj": (width, keys),
        "v_proj": (width, keys),
        "o_proj": (queries, width),
        "gate_proj": (width, inner),
        "up_proj": (width, inner),
        "down_proj": (inner, width),
    }


def layer_weights(text: dict[str, Any]) -> int:
    """Of one decoder layer's matrices."""
    return sum(inputs * outputs for inputs, outputs in layer_matrices(text).values())


def causal_attention(text: dict[str, Any], tokens: float) -> float:
    """Forward, in all layers: token t attends to t tokens, itself included."""
    return text["num_hidden_layers"] * 2 * tokens * (tokens + 1) * text["num_attention_heads"] * text["head_dim"]


def _llm(text: dict[str, Any], tokens: float, label_tokens: float, trained: Trained, learns_before: bool) -> float:
    """`learns_before`: the first layer's input needs a gradient, for the word embeddings or what made the images'."""
    layers, lora = text["num_hidden_layers"], trained.lora_rank
    learns_anything = learns_before or trained.llm or bool(lora)
    total = 0.0
    for name, (inputs, outputs) in layer_matrices(text).items():
        reads_input = name in ("q_proj", "k_proj", "v_proj")
        passing = layers - 1 + (learns_before or not reads_input) if learns_anything else 0
        total += 2 * tokens * inputs * outputs * (layers * (1 + trained.llm) + passing)
        if lora and name in trained.lora_targets:
            total += 2 * tokens * lora * (inputs * (2 * layers + passing) + outputs * 3 * layers)
    attention = causal_attention(text, tokens) * (3 if learns_anything else 1)
    vocabulary = _product(label_tokens, text["vocab_size"] * text["hidden_size"], trained.llm, learns_anything)
    return total + attention + vocabulary
