"""How a run is made to fit its device: into how many micro-batches a step's samples are divided, and what is computed
twice.

Both are first estimated from the model's configuration, then tried on the run's heaviest micro-batch before the first
step. More micro-batches cost little until they are small; computing activations a second time (checkpointing) costs a
third of the arithmetic, so the vision tower's come first, everything's last.
"""

import gc
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch

from leap.data.batch_plan import BatchPlan, Cost
from leap.errors import LeapError
from leap.progress import duration, is_main_process
from leap.training.optimizer_state import is_sharded, shard_count
from leap.training.optimizers import OPTIMIZERS
from leap.training.sharding import sharded_units

Checkpointing = Literal["none", "vision", "all"]
LEVELS: tuple[Checkpointing, ...] = ("none", "vision", "all")
_SHARE = 0.96  # of a device's memory that is planned with; the rest is the context and fragments
_UNTRIED = 0.85  # where the estimate is not tried
_GRADIENTS = 0.2  # of a device's memory: what whole gradients of a divided model may take
_PEERS = 4e9  # bytes that talking to other ranks takes
_ATTEMPTS = 6  # estimates that are tried
_LESS = 0.75  # of the memory, for the next estimate
# Tokens: micro-batches below keep the GPU less busy than checkpointing costs. An H100 held to 24 GB, for which 2,084
# were planned, reached 23 % utilisation and with all its memory 43 %; computing everything twice costs a third.
_SMALL = 4_096
_ONE_SAMPLE = "one sample does not fit into this device's memory: lower --model_max_length or use LoRA"
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
        # Of the vocabulary's logits there is one copy where the loss is compiled: their gradient takes their place, so
        # that doing them in pieces would save little. Uncompiled there are several, which trying the plan finds out.
        # Floats: a sample's bytes do not fit the int32 of a plan's arrays.
        return cls(float(_HALF * all_layers), float(_HALF * all_blocks), float(_HALF * text.vocab_size))

    def of_samples(self, cost: Cost) -> Any:
        """Bytes of each sample, [samples]. Its label tokens count: each has logits of the whole vocabulary."""
        return self.token * cost.tokens + self.patch * cost.patches + self.label * cost.label_tokens


@dataclass(frozen=True)
class MemoryPlan:
    """Micro-batches of a step and rank, and which parts' activations are recomputed (activation checkpointing)."""

    micro_batches: int
    checkpointing: Checkpointing


def estimate(
    plan: BatchPlan, config: Any, free_bytes: float, allowed: tuple[Checkpointing, ...] = LEVELS
) -> MemoryPlan:
    """The least checkpointing, then the fewest micro-batches, whose heaviest fits. Raises LeapError if none does."""
    for level in allowed:
        activations = Activations.of(config, level)
        sample = activations.of_samples(plan.cost)
        if sample.max() > free_bytes:
            continue
        mean = sample.mean() * plan.global_batch_size / plan.world_size
        micro_batches = max(1, round(mean / free_bytes))
        while (
            micro_batches < _samples_of_rank(plan)
            and replace(plan, micro_batches=micro_batches).heaviest(sample)[1] > free_bytes
        ):
            micro_batches += 1
        tokens = plan.cost.tokens.mean() * plan.global_batch_size / plan.world_size / micro_batches
        if tokens >= _SMALL or micro_batches == 1 or level == allowed[-1]:
            return MemoryPlan(micro_batches, level)
    raise LeapError(
        f"one sample needs more than the {free_bytes / 1e9:.1f} GB that this device has left for it: "
        "lower --model_max_length or --image_tokens_max, or use LoRA"
    )


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
    plan: BatchPlan,
    batch: Callable[[list[int]], dict[str, Any]],
    state_bytes: float,
    device: torch.device,
    dtype: torch.dtype,
    earlier: MemoryPlan | None = None,
) -> MemoryPlan:
    """What the recipe says, and the rest as memory allows: the first of a few plans whose heaviest micro-batch runs.

    `batch` gives samples as a batch on the device, `state_bytes` is what the optimiser will take, and `earlier` a plan
    that ran out of memory in an earlier start. All ranks try the same plans, made from the least memory that any of
    them has free, and come to the same. Raises LeapError if a single sample does not fit.
    """
    allowed = LEVELS if recipe.gradient_checkpointing is None else (LEVELS[-1 if recipe.gradient_checkpointing else 0],)
    if recipe.tokens_per_micro_batch or device.type != "cuda":
        options = requested(plan, _micro_batches_of(plan, recipe.tokens_per_micro_batch), allowed)
    else:
        options = common_candidates(plan, model.config, _free_bytes(model, device, state_bytes), allowed, device)
    if earlier:
        options = smaller(options, earlier, _samples_of_rank(plan), allowed)
    if device.type != "cuda" or is_sharded(model):  # where memory ends in one rank, the others would wait for ever
        checkpoint(model, options[0].checkpointing)
        return options[0]

    def runs(option: MemoryPlan) -> bool:
        checkpoint(model, option.checkpointing)
        kept = (
            option.micro_batches > 1 or torch.distributed.is_initialized()
        )  # DDP has them from the first micro-batch on
        weight = Activations.of(model.config, option.checkpointing).of_samples(plan.cost)
        micro_batch = batch(replace(plan, micro_batches=option.micro_batches).heaviest(weight)[0])
        return _everywhere(_runs(model, micro_batch, state_bytes, dtype, kept), device)

    model.train()  # a loaded model is not, and computes nothing twice then
    return first_that_runs(options, runs)


def common_candidates(
    plan: BatchPlan, config: Any, free_bytes: float, allowed: tuple[Checkpointing, ...], device: torch.device
) -> list[MemoryPlan]:
    """`candidates` for the least memory that any rank has free: ranks that divide a step differently would train some
    samples twice and leave others out."""
    return candidates(plan, config, _least(free_bytes, device), allowed)


def candidates(plan: BatchPlan, config: Any, free_bytes: float, allowed: tuple[Checkpointing, ...]) -> list[MemoryPlan]:
    """What is estimated to fit, then what fits into less and less: an estimate may be too good.

    Never many, and each clearly smaller than the one before. Raises LeapError where not even one sample should option.
    """
    options = [estimate(plan, config, free_bytes, allowed)]
    for attempt in range(1, _ATTEMPTS):
        with suppress(LeapError):
            options.append(estimate(plan, config, free_bytes * _LESS**attempt, allowed))
    return list(dict.fromkeys([*options, MemoryPlan(_samples_of_rank(plan), allowed[-1])]))


def requested(plan: BatchPlan, micro_batches: int, allowed: tuple[Checkpointing, ...]) -> list[MemoryPlan]:
    """So many micro-batches, with more and more recomputed; then twice as many micro-batches, and so on."""
    options = [MemoryPlan(micro_batches, level) for level in allowed]
    while micro_batches < _samples_of_rank(plan):
        micro_batches = min(2 * micro_batches, _samples_of_rank(plan))
        options.append(MemoryPlan(micro_batches, allowed[-1]))
    return options


def smaller(
    options: Sequence[MemoryPlan], than: MemoryPlan, samples: int, allowed: tuple[Checkpointing, ...]
) -> list[MemoryPlan]:
    """The plans with at least twice the micro-batches of one that ran out of memory; where each is a sample, with
    everything recomputed."""
    micro_batches = min(2 * than.micro_batches, samples)
    if than.micro_batches >= samples:
        if than.checkpointing == allowed[-1]:
            raise LeapError(f"{_ONE_SAMPLE}; with more memory than before, remove the output folder's memory_plan.json")
        return [MemoryPlan(samples, allowed[-1])]
    return list(
        dict.fromkeys(replace(option, micro_batches=max(micro_batches, option.micro_batches)) for option in options)
    )


def first_that_runs(options: Sequence[MemoryPlan], runs: Callable[[MemoryPlan], bool]) -> MemoryPlan:
    """Raises LeapError where none does. Every attempt is one line on the screen of the first rank."""
    for option in options:
        started = time.monotonic()
        found = runs(option)
        if is_main_process():
            attempt = (
                f"{option.micro_batches} micro-batches, checkpointing {option.checkpointing}: "
                f"{'fits' if found else 'does not fit'}"
            )
            print(f"tried       {attempt} ({duration(time.monotonic() - started)})", file=sys.stderr, flush=True)
        if found:
            return option
    raise LeapError(_ONE_SAMPLE)


def _samples_of_rank(plan: BatchPlan) -> int:
    """In an optimiser step: more micro-batches would be empty."""
    return plan.global_batch_size // plan.world_size


def _micro_batches_of(plan: BatchPlan, tokens_per_micro_batch: int | None) -> int:
    """As many micro-batches as tokens are wanted in each; without such a request, the plan's."""
    if tokens_per_micro_batch is None:
        return plan.micro_batches
    samples = _samples_of_rank(plan)
    return min(samples, max(1, math.ceil(plan.cost.tokens.mean() * samples / tokens_per_micro_batch)))


def _free_bytes(model: Any, device: torch.device, state_bytes: float) -> float:
    """For activations: what weights, gradients, the optimiser, the weights' copies in bf16 and the vocabulary matrix'
    newest gradient leave, which is there while all activations are."""
    unused, _ = torch.cuda.mem_get_info(device)
    free = min(unused, device_limit(device) - torch.cuda.memory_reserved(device))
    peers = _PEERS if torch.distributed.is_initialized() else 0
    if is_sharded(model):
        return free * _UNTRIED - _divided_bytes(model, keeps_gradients(model, device)) - state_bytes - peers
    learning = sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.requires_grad)
    copies = sum(weight.numel() * _HALF for weight in model.parameters() if weight.element_size() > _HALF)
    text = model.config.text_config
    return free * _SHARE - learning - copies - _HALF * text.vocab_size * text.hidden_size - state_bytes - peers


def _divided_bytes(model: Any, whole: bool) -> float:
    """Gradients of a divided model (`whole`, or this rank's part), and what of it is put together at once.

    That is what no layer has for itself and three of the largest, in bf16, and their gradients in float32.
    """
    units = [sum(weight.numel() for weight in part.parameters()) for part in sharded_units(model)]
    total = sum(weight.numel() for weight in model.parameters())
    together = (_HALF + 4) * (total - sum(units) + 3 * max(units))
    return together + 4 * total / (1 if whole else shard_count(model))


def keeps_gradients(model: Any, device: torch.device) -> bool:
    """Whether every rank of a divided model has room for whole gradients, to sum them once a step."""
    if device.type != "cuda":
        return True
    needed = 4 * sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return _everywhere(needed <= _GRADIENTS * device_limit(device), device)


def device_limit(device: torch.device) -> float:
    """Bytes that this rank may use; older releases cannot say their share, newer ones ask for an index."""
    index = torch.cuda.current_device() if device.index is None else device.index
    fraction = getattr(torch.cuda, "get_per_process_memory_fraction", None)
    return torch.cuda.get_device_properties(index).total_memory * (float(fraction(index)) if fraction else 1.0)


def _everywhere(here: bool, device: torch.device) -> bool:
    """Whether it is so in every rank."""
    return bool(_least(float(here), device))


def _least(here: float, device: torch.device) -> float:
    """The least of all ranks' values."""
    if not torch.distributed.is_initialized():
        return here
    agreed = torch.tensor(here, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MIN)
    return agreed.item()


def _runs(model: Any, micro_batch: dict[str, Any], state_bytes: float, dtype: torch.dtype, kept: bool) -> bool:
    """Whether a micro-batch goes through the model and back; with `kept`, beside the gradients of micro-batches before
    it.

    All gradients are dropped.
    """
    found = True
    try:
        if kept:
            _make_gradients(model)
        _forward_and_back(model, micro_batch, state_bytes, dtype)
    except torch.OutOfMemoryError:
        found = False
    # Not within `except`: the error holds on to all that was computed.
    model.zero_grad()
    gc.collect()
    torch.cuda.empty_cache()
    return found


def _make_gradients(model: Any) -> None:
    for weight in model.parameters():
        if weight.requires_grad:
            weight.grad = torch.zeros_like(weight)


def _forward_and_back(model: Any, micro_batch: dict[str, Any], state_bytes: float, dtype: torch.dtype) -> None:
    held = torch.empty(int(state_bytes), dtype=torch.uint8, device=model.device)  # the optimiser's place
    with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):
        loss = model(**micro_batch)
    loss.backward()
    del held


def optimizer_bytes(model: Any, optim: str) -> float:
    """What the optimiser keeps of the trainable parameters, in this rank."""
    held = sum(
        OPTIMIZERS[optim].moments_bytes * weight.numel() for weight in model.parameters() if weight.requires_grad
    )
    return held / shard_count(model)
