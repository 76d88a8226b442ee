"""The three components of a vision-language model (`families`): which weights are whose, and freezing them."""

import re
from collections.abc import Iterable, Sequence

from torch import nn

from leap.errors import LeapError
from leap.models.families import COMPONENTS, FAMILIES, Component

# What wrappers (torch.compile, FSDP, checkpointing) add to a name.
_WRAPPERS = re.compile(r"(^module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def component_of(family: str, name: str) -> Component:
    """The component that a weight or module belongs to, by `model_type` and its name. Raises LeapError: unknown."""
    known = FAMILIES.get(family)
    if known is None:
        raise LeapError(
            f"the components of a {family} model are not known, so freeze_*, *_learning_rate and lora cannot be used; "
            f"they are for {', '.join(FAMILIES)}"
        )
    plain = _WRAPPERS.sub("", name)
    for start, component in known.prefixes.items():
        if f"{plain}.".startswith(start):
            return component
    raise LeapError(f"{plain}: it belongs to no known component of a {family} model")


def family_of(model: nn.Module) -> str:
    """The `model_type` of a transformers model."""
    return str(model.config.model_type)  # type: ignore[union-attr]


def freeze(model: nn.Module, components: Sequence[Component]) -> None:
    """Freeze these components; where none before them is trained either, no gradient is computed in them."""
    if components:
        for name, weight in model.named_parameters():
            if component_of(family_of(model), name) in components:
                weight.requires_grad_(False)


def knows_components(model: nn.Module) -> bool:
    return family_of(model) in FAMILIES


def trainable_components(model: nn.Module) -> dict[Component, tuple[int, int]]:
    """(trainable parameters, all parameters) of each component. Raises LeapError where these are not known."""
    members: dict[Component, list[nn.Parameter]] = {component: [] for component in COMPONENTS}
    for name, weight in model.named_parameters():
        members[component_of(family_of(model), name)].append(weight)
    return {component: count_weights(weights) for component, weights in members.items()}


def count_weights(weights: Iterable[nn.Parameter]) -> tuple[int, int]:
    """(those that learn, all): single numbers, not tensors."""
    sizes = [(weight.numel() * weight.requires_grad, weight.numel()) for weight in weights]
    return sum(learning for learning, _ in sizes), sum(total for _, total in sizes)
