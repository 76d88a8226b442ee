"""A model in training once more, as its class defines it, to generate with."""

import copy
from typing import Any

from leap.models.qwen3_vl import packed_forward


def twin(model: Any) -> Any:
    """The model over the very same weights, in evaluation mode, without what training has put in place: the packed
    forward, autocast around it, activation checkpointing, compiled layers. The one that trains stays as it is.

    Its modules are copied and its tensors are not, so that it needs no memory and is always as far as training is.
    Weights that are divided over ranks (FSDP2, DeepSpeed's stage 3) cannot be used like that.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    found = copy.deepcopy(model, dict(shared))  # which leaves compiled calls out: torch.nn.Module.__getstate__
    for module in found.modules():
        for name in ("forward", "get_image_features", "generate"):
            module.__dict__.pop(name, None)
    text = found.config.get_text_config(decoder=True)
    if text._attn_implementation == packed_forward.NAME:
        text._attn_implementation = "sdpa"
    return found.eval()
