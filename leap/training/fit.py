"""How a run is made to fit its device: into how many packs a step's rows are divided, and what is computed twice.

Both are first estimated from the model's configuration, then tried on the run's heaviest pack before the first step.
More packs cost little until they are small; computing activations a second time (checkpointing) costs a third of the
arithmetic, so the vision tower's come first, everything's last.
"""

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch

from leap.data.packing import Cost, PackPlan
from leap.errors import LeapError
from leap.training.memory import MOMENTS

Checkpointing = Literal["none", "vision", "all"]
LEVELS: tuple[Checkpointing, ...] = ("none", "vision", "all")
_SHARE = 0.96  # of a device's memory that is planned with; the rest is the context and fragments
_PEERS = 4e9  # bytes that talking to other processes takes
_SMALL = 2_048  # tokens: packs below keep the GPU less busy than checkpointing costs
_HALF = 2  # bytes of a number in bf16, in which activations are kept


@dataclass(frozen=True)
class Activations:
    """Bytes that the backward pass needs of each token, patch and label token."""

    token: float
    patch: float
    label: float

    @classmethod
    def of(cls, config: Any, checkpointing: Checkpointing) -> "Activations":
        """Counted from a Qwen3-VL configuration: what every matrix product and attention of a layer keeps."""
        text, vision = config.text_config, config.vision_config
        heads, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
        # residuals and norms, queries and keys before and after their rotation, values, attention, feed-forward
        layer = 4 * text.hidden_size + 2 * (heads + keys) + keys + heads + 3 * text.intermediate_size
        block = 4 * vision.hidden_size + 3 * vision.hidden_size + 3 * vision.hidden_size + 2 * vision.intermediate_size
        layers, blocks = text.num_hidden_layers, vision.depth
        all_layers = text.hidden_size * layers + layer if checkpointing == "all" else layer * layers
        all_blocks = vision.hidden_size * blocks + block if checkpointing != "none" else block * blocks
        return cls(_HALF * all_layers, _HALF * all_blocks, 4 * _HALF * text.vocab_size)


@dataclass(frozen=True)
class Fit:
    """Packs of a step and process, and which parts' activations are computed twice."""

    packs: int
    checkpointing: Checkpointing


def estimate(plan: PackPlan, config: Any, free_bytes: float, allowed: tuple[Checkpointing, ...] = LEVELS) -> Fit:
    """The least checkpointing, and then the fewest packs, whose heaviest pack fits. Raises LeapError if none does."""
    for level in allowed:
        activations = Activations.of(config, level)
        row = _bytes(plan.cost, activations)
        if row.max() > free_bytes:
            continue
        mean = row.mean() * plan.rows_per_step / plan.processes
        packs = max(1, round(mean / free_bytes))
        while packs < plan.rows_per_step // plan.processes and _heaviest(plan, packs, row) > free_bytes:
            packs += 1
        tokens = plan.cost.tokens.mean() * plan.rows_per_step / plan.processes / packs
        if tokens >= _SMALL or packs == 1 or level == allowed[-1]:
            return Fit(packs, level)
    raise LeapError(
        f"one row needs more than the {free_bytes / 1e9:.1f} GB that this device has left for it: "
        "lower --model_max_length or --image_tokens_max, or use LoRA"
    )


def _bytes(cost: Cost, activations: Activations) -> Any:
    return activations.token * cost.tokens + activations.patch * cost.patches + activations.label * cost.label_tokens


def _heaviest(plan: PackPlan, packs: int, row: Any, steps: int = 50) -> float:
    divided = replace(plan, packs=packs)
    return max(row[pack].sum() for step in range(min(plan.steps, steps)) for pack in divided.divide(step))


def checkpoint(model: Any, level: Checkpointing) -> None:
    """Compute the activations of the model's blocks or layers twice, as `level` says."""
    blocks, layers = [*model.model.visual.blocks], [*model.model.language_model.layers]
    twice = {"none": [], "vision": blocks, "all": blocks + layers}[level]
    dropout = any(isinstance(part, torch.nn.Dropout) and part.p for part in model.modules())
    again = partial(torch.utils.checkpoint.checkpoint, use_reentrant=False, preserve_rng_state=dropout)
    for part in blocks + layers:
        part.gradient_checkpointing, part._gradient_checkpointing_func = part in twice, again


def choose(
    recipe: Any,
    model: Any,
    plan: PackPlan,
    heaviest: Callable[[PackPlan], dict[str, Any]],
    state_bytes: float,
    device: torch.device,
    number: torch.dtype,
) -> Fit:
    """What the recipe says, and the rest as memory allows: the first fit whose heaviest pack really runs.

    `heaviest` gives a plan's heaviest pack on the device, `state_bytes` is what the optimiser will take. All processes
    come to the same. Raises LeapError if a single row does not fit.
    """
    allowed = LEVELS if recipe.gradient_checkpointing is None else (LEVELS[-1 if recipe.gradient_checkpointing else 0],)
    if device.type == "cuda" and recipe.tokens_per_pack is None:
        fit = estimate(plan, model.config, _free_bytes(model, device, state_bytes), allowed)
    else:
        fit = Fit(_packs_of(plan, recipe.tokens_per_pack), allowed[0])
    while True:
        checkpoint(model, fit.checkpointing)
        if device.type != "cuda" or _everywhere(_runs(model, heaviest(_with(plan, fit)), state_bytes, number), device):
            return fit
        fit = _next(fit, plan, allowed)


def _with(plan: PackPlan, fit: Fit) -> PackPlan:
    return replace(plan, packs=fit.packs)


def _packs_of(plan: PackPlan, tokens_per_pack: int | None) -> int:
    """As many packs as tokens are wanted in each; without such a wish, the plan's."""
    if tokens_per_pack is None:
        return plan.packs
    of_a_process = plan.rows_per_step // plan.processes
    return min(of_a_process, max(1, math.ceil(plan.cost.tokens.mean() * of_a_process / tokens_per_pack)))


def _free_bytes(model: Any, device: torch.device, state_bytes: float) -> float:
    """For activations: what weights, gradients, the optimiser and the weights' copies in bf16 leave."""
    free, _ = torch.cuda.mem_get_info(device)
    learning = sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.requires_grad)
    copies = sum(weight.numel() * _HALF for weight in model.parameters() if weight.element_size() > _HALF)
    limit = torch.cuda.get_device_properties(device).total_memory * _allowed_share(device)
    peers = _PEERS if torch.distributed.is_initialized() else 0
    return min(free, limit - torch.cuda.memory_reserved(device)) * _SHARE - learning - copies - state_bytes - peers


def _allowed_share(device: torch.device) -> float:
    """Of the device's memory, for this process; older releases cannot tell what they were told."""
    told = getattr(torch.cuda, "get_per_process_memory_fraction", None)
    return float(told(device)) if told else 1.0


def _everywhere(here: bool, device: torch.device) -> bool:
    """Whether it is so in every process."""
    if not torch.distributed.is_initialized():
        return here
    agreed = torch.tensor(int(here), device=device)
    torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MIN)
    return bool(agreed.item())


def _next(fit: Fit, plan: PackPlan, allowed: tuple[Checkpointing, ...]) -> Fit:
    if fit.packs < plan.rows_per_step // plan.processes:
        return replace(fit, packs=fit.packs + 1)
    after = allowed[allowed.index(fit.checkpointing) + 1 :]
    if not after:
        raise LeapError("one row does not fit into this device's memory: lower --model_max_length or use LoRA")
    return Fit(1, after[0])


def _runs(model: Any, pack: dict[str, Any], state_bytes: float, number: torch.dtype) -> bool:
    """Whether a pack goes through the model and back; the gradients are dropped."""
    try:
        held = torch.empty(int(state_bytes), dtype=torch.uint8, device=model.device)
        with torch.autocast(model.device.type, number, enabled=number != torch.float32):
            loss = model(**pack)
        loss.backward()
        del held, loss
        return True
    except torch.OutOfMemoryError:
        return False
    finally:
        model.zero_grad()
        gc.collect()
        torch.cuda.empty_cache()


def optimizer_bytes(model: Any, optim: str) -> float:
    """What the optimiser keeps of the weights that learn."""
    return sum(MOMENTS[optim] * weight.numel() for weight in model.parameters() if weight.requires_grad)
