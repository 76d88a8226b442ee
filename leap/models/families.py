"""Every model family that LEAP trains by its components, in one place: to add one, add it to FAMILIES.

An entry says which weights belong to which component, so that they can be frozen, adapted or given a rate of their own.
Training also needs images encoded as Qwen-VL's are (`leap.data.image.ImageEncoder.encodes`), which internvl's and
smolvlm's are not, so `check_run` refuses to train them. Any family that transformers loads can be evaluated. The four
flags promise code of the family's own, named beside each.
Nothing here imports PyTorch: recipes and command lines are checked against it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# vision: the vision tower without its mergers. projector: what brings images into the LLM's width, Qwen3-VL's deepstack
# mergers with its last one. llm: embeddings, decoder layers, last norm and head (with the embeddings where the two
# share their weights).
Component = Literal["vision", "projector", "llm"]
COMPONENTS: tuple[Component, ...] = ("vision", "projector", "llm")


@dataclass(frozen=True)
class Family:
    """What LEAP knows of a `model_type` of transformers, beyond what the library does for any."""

    prefixes: Mapping[str, Component]  # how the names of each component's weights begin; the first that fits counts
    packed_forward: bool = False  # leap.models.qwen3_vl can train it on packed samples
    shards: bool = False  # `sharding.sharded_units` knows which modules FSDP2 gathers one by one
    counts_flops: bool = False  # `training.flops` counts its operations
    compiled_inference: bool = False  # `inference.fast_parts` knows what of it is worth compiling


# Qwen's mergers lie in its vision module, so they come first.
_QWEN: dict[str, Component] = {
    "model.visual.merger.": "projector",
    "model.visual.deepstack_merger_list.": "projector",
    "model.visual.": "vision",
    "model.language_model.": "llm",
    "lm_head.": "llm",
}
FAMILIES: dict[str, Family] = {
    "qwen2_vl": Family(_QWEN),
    "qwen2_5_vl": Family(_QWEN),
    "qwen3_vl": Family(_QWEN, packed_forward=True, shards=True, counts_flops=True, compiled_inference=True),
    "internvl": Family(
        {
            "model.multi_modal_projector.": "projector",
            "model.vision_tower.": "vision",
            "model.language_model.": "llm",
            "lm_head.": "llm",
        }
    ),
    "smolvlm": Family(
        {
            "model.connector.": "projector",
            "model.vision_model.": "vision",
            "model.text_model.": "llm",
            "lm_head.": "llm",
        }
    ),
}

# Decoders, by the type in their configuration, where every token sees all before it and nothing else.
CAUSAL_DECODERS = ("qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "qwen2", "qwen3", "llama")

_UNKNOWN = Family({})


def family(model_type: str) -> Family:
    """That of a `model_type`; one without anything for a type that is not in FAMILIES."""
    return FAMILIES.get(model_type, _UNKNOWN)
