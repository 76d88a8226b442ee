"""LoRA and its kin (rsLoRA, DoRA, QLoRA): adapters put into the model itself, which keeps its class.

Adapters are float32; the weights beside them stay as they are, so a checkpoint holds the adapters alone.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from leap.errors import LeapError
from leap.models.checkpoints import ADAPTER, MARKER, read_adapter, refuse_another_base
from leap.models.components import component_of, family_of
from leap.models.families import Component
from leap.records.json_files import write_json

_NAME = "default"  # PEFT's name of the one adapter
_SAVED_PREFIX = "base_model.model."  # before each name in an adapter's file


class LoraSettings(Protocol):
    """What adapters are made from: the keys of a recipe (leap.training.recipe) that concern them."""

    seed: int
    lora_r: int
    lora_alpha: int
    lora_dropout: float
    lora_target_modules: list[str]
    lora_parts: list[Component]
    use_rslora: bool
    use_dora: bool
    quantization: Any


def target_layers(model: nn.Module, recipe: LoraSettings) -> list[str]:
    """The linear layers of `lora_parts` that `lora_target_modules` names, by the end of their names.

    Raises LeapError, naming what there is, for an end that fits no layer of these components.
    """
    family = family_of(model)
    layers = _linear_layers(model)
    inside = [name for name in layers if component_of(family, name) in recipe.lora_parts]
    for end in recipe.lora_target_modules:
        if not any(_fits(name, end) for name in inside):
            outside = Counter(component_of(family, name) for name in layers if _fits(name, end))
            elsewhere = "".join(f"; {count} layers of {component} fit" for component, count in outside.items())
            there = ", ".join(sorted({name.rpartition(".")[2] for name in inside})) or "none"
            where = ",".join(recipe.lora_parts)
            raise LeapError(
                f"lora_target_modules: {end} fits no linear layer of lora_parts={where}{elsewhere}; there are: {there}"
            )
    return [name for name in inside if any(_fits(name, end) for end in recipe.lora_target_modules)]


def _linear_layers(model: nn.Module) -> list[str]:
    """All but the head, whose weights are the embeddings' in most of these models."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != "lm_head"]


def _fits(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def add_adapters(model: Any, recipe: LoraSettings) -> None:
    """Put fresh adapters into the model, in place, and freeze all else."""
    import torch
    from peft import LoraConfig

    # Whole names: PEFT would also adapt what is no linear layer but ends alike, such as the patch embedding, which is a
    # convolution named `proj` as the attention's output is.
    targets = target_layers(model, recipe)
    torch.manual_seed(recipe.seed)  # the first matrix of each adapter is random, and the same in every rank
    settings = LoraConfig(
        r=recipe.lora_r,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=targets,
        use_rslora=recipe.use_rslora,
        use_dora=recipe.use_dora,
    )
    model.requires_grad_(False)
    model.add_adapter(settings, _NAME)
    model.peft_config[_NAME].target_modules = targets  # PEFT's own is a set of ends: written in another order each time
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def has_adapters(model: nn.Module) -> bool:
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def load_adapters(model: nn.Module, folder: Path) -> None:
    """Put the adapters of a folder into the model's own, which go on learning.

    Raises LeapError where they are not the model's.
    """
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, _fitting_weights(model, folder), adapter_name=_NAME)


def _fitting_weights(model: nn.Module, folder: Path) -> dict[str, Any]:
    """A saved adapter's weights by the model's names for them. Raises LeapError where names or shapes differ."""
    from peft import get_peft_model_state_dict
    from peft.utils import load_peft_weights

    saved = {name.removeprefix(_SAVED_PREFIX): weight for name, weight in load_peft_weights(str(folder), "cpu").items()}
    own = get_peft_model_state_dict(model, adapter_name=_NAME, save_embedding_layers=False)
    odd = saved.keys() ^ own.keys() or {name for name, weight in saved.items() if weight.shape != own[name].shape}
    if odd:
        raise LeapError(f"{folder}: its adapters are not this run's ({len(odd)} weights differ, {min(odd)}, …)")
    return saved


def check_start(model: nn.Module, recipe: LoraSettings, base: Path, folder: Path) -> None:
    """Raise LeapError where a run cannot start from an adapter: another base, other settings, other layers."""
    if not (folder / ADAPTER).is_file():
        raise LeapError(f"--resume_from_lora {folder}: no LoRA adapter lies there (no {ADAPTER})")
    refuse_another_base(folder, base)
    found = read_adapter(folder)
    names = {"lora_r": "r", "lora_alpha": "lora_alpha", "use_rslora": "use_rslora", "use_dora": "use_dora"}
    for key, saved in names.items():
        if found.get(saved) != getattr(recipe, key):
            raise LeapError(
                f"--resume_from_lora {folder}: it has {key}={found.get(saved)}, this run {getattr(recipe, key)}; "
                f"give --{key} {found.get(saved)} or the preset that it was trained with"
            )
    for key in ("rank_pattern", "alpha_pattern"):
        if found.get(key):  # PEFT would read them, but this run's adapters are all of one rank and scale
            raise LeapError(f"--resume_from_lora {folder}: its {key} gives single layers values of their own; merge it")
    if str(found.get("init_lora_weights")).startswith(("pissa", "olora", "corda")):  # they change the base's weights
        raise LeapError(f"--resume_from_lora {folder}: an adapter on weights that its own start changed; merge it")
    _fitting_weights(model, folder)


def describe_start(folder: Path) -> str:
    """Where a run's adapters come from; and of an adapter that LEAP did not train, on what, for a person to compare."""
    if (folder / MARKER).is_file() or not (folder / ADAPTER).is_file():
        return f"from the adapter {folder}"
    base = read_adapter(folder).get("base_model_name_or_path")
    return f"from the adapter {folder}, which says that its base is {base}; whether it is this one is not known"


def name_base(folder: Path, base: str) -> None:
    """Write into a saved adapter what its base is called: relative to the workspace, it outlasts a move of both."""
    settings = read_adapter(folder)
    write_json(folder / ADAPTER, {**settings, "base_model_name_or_path": base})


def describe_adapters(found: Mapping[Component, Counter[str]], recipe: LoraSettings) -> str:
    """Which layers of which component have adapters (`count_targets`), for a person to check."""
    kind = ("Q" if recipe.quantization else "") + ("DoRA" if recipe.use_dora else "LoRA")
    scale = "alpha / sqrt(r)" if recipe.use_rslora else "alpha / r"
    where = "; ".join(
        f"{component}: " + ", ".join(f"{n} x {end}" for end, n in ends.items()) for component, ends in found.items()
    )
    layers = sum(ends.total() for ends in found.values())
    return f"{kind} r={recipe.lora_r} alpha={recipe.lora_alpha} ({scale}) on {layers} layers ({where})"


def count_targets(model: nn.Module, recipe: LoraSettings) -> dict[Component, Counter[str]]:
    """The target layers of each component, by the last word of their names."""
    family = family_of(model)
    found: dict[Component, Counter[str]] = {}
    for name in target_layers(model, recipe):
        found.setdefault(component_of(family, name), Counter())[name.rpartition(".")[2]] += 1
    return found
