"""The optimisers that a recipe may name: what each takes a weight, and how it is made. A new one is one entry here.

Which of them "auto" means is `leap.training.optimizer_choice`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from leap.models.families import COMPONENTS

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from leap.training.recipe import Recipe

STOCHASTIC = "adamw_bf16_stochastic"
_UNDECAYED = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


@dataclass(frozen=True)
class OptimizerKind:
    """Bytes of each weight, its gradient and its two moments; `make` takes parameter groups and the recipe."""

    weight_bytes: int
    gradient_bytes: int
    moments_bytes: int
    make: "Callable[[list[dict[str, Any]], Recipe], Optimizer]"


def _adam(recipe: "Recipe") -> dict[str, Any]:
    betas = recipe.adam_beta1, recipe.adam_beta2
    return {"lr": recipe.learning_rate, "betas": betas, "eps": recipe.adam_epsilon}


def _adamw(groups: list[dict[str, Any]], recipe: "Recipe") -> "Optimizer":
    import torch

    fused = recipe.optim == "adamw_torch_fused"
    if fused and _has_kernel(groups, recipe):
        from leap.training.triton_adamw import TritonAdamW

        return TritonAdamW(groups, **_adam(recipe))
    return torch.optim.AdamW(groups, **_adam(recipe), fused=fused or None)


def _has_kernel(groups: list[dict[str, Any]], recipe: "Recipe") -> bool:
    """Whether these weights can have AdamW's own kernel. fp16's scaler and DeepSpeed look for PyTorch's optimiser,
    FSDP2's weights are not plain tensors, and `compile: false` means that no compiler is to be needed."""
    import torch

    if recipe.compile is False or recipe.fp16 or recipe.deepspeed or recipe.fsdp or find_spec("triton") is None:
        return False
    weights = [weights for group in groups for weights in group["params"]]
    return all(one.is_cuda and one.dtype == torch.float32 and one.is_contiguous() for one in weights) and (
        torch.cuda.get_device_capability()[0] >= 8
    )


def _stochastic(groups: list[dict[str, Any]], recipe: "Recipe") -> "Optimizer":
    from leap.training.stochastic_adamw import StochasticAdamW

    return StochasticAdamW(groups, **_adam(recipe), seed=recipe.seed)


OPTIMIZERS: Mapping[str, OptimizerKind] = MappingProxyType(
    {
        "adamw_torch": OptimizerKind(4, 4, 8, _adamw),
        "adamw_torch_fused": OptimizerKind(4, 4, 8, _adamw),
        STOCHASTIC: OptimizerKind(2, 2, 4, _stochastic),
    }
)


def weights_dtype(optim: str) -> str:
    """Of the weights that an optimiser trains; float32 for "auto", as long as nothing is chosen."""
    return "bfloat16" if optim in OPTIMIZERS and OPTIMIZERS[optim].weight_bytes == 2 else "float32"


def make_optimizer(recipe: "Recipe", model: Any) -> "Optimizer":
    """The recipe's optimiser over what is trained: weight decay on all but biases and norms, as transformers' Trainer
    has it, and a learning rate of its own for each component that has one."""
    import torch
    from transformers.trainer_pt_utils import get_parameter_names

    from leap.models.components import component_of, family_of

    decayed = set(get_parameter_names(model, [torch.nn.LayerNorm], _UNDECAYED))
    rates = recipe.component_rates
    components = COMPONENTS if rates else (None,)
    groups: dict[tuple[bool, Any], list[Any]] = {
        (decays, component): [] for decays in (True, False) for component in components
    }
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            groups[name in decayed, component_of(family_of(model), name) if rates else None].append(weight)
    return OPTIMIZERS[recipe.optim].make(
        [
            {
                "params": weights,
                "weight_decay": recipe.weight_decay if decays else 0.0,
                "lr": rates.get(component, recipe.learning_rate),
            }
            for (decays, component), weights in groups.items()
            if weights or not rates
        ],
        recipe,
    )
