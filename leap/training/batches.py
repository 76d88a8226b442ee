"""What a run's steps are made of: the plan of its micro-batches, and the form in which they go through the model."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from leap.data.batch_plan import BatchPlan, Cost, MicroBatches
from leap.errors import LeapError
from leap.models import families
from leap.models.components import family_of
from leap.training.memory_plan import LEVELS, Checkpointing, MemoryPlan, choose, smaller
from leap.training.optimizer_state import is_sharded

if TYPE_CHECKING:
    from leap.preparation.check.mixture import CheckedSamples
    from leap.training.fine_tune import Run
    from leap.training.recipe import Recipe

_PATCH_TOKENS = 0.3  # the vision tower's arithmetic for a patch, in that of a decoder's token (2B)


@dataclass(frozen=True)
class Batches:
    """A rank's micro-batches of the run and of the validation samples, and one line about them."""

    train: MicroBatches
    validation: MicroBatches | None
    summary: str
    memory_plan: MemoryPlan


def make_batches(
    run: "Run", model: Any, accelerator: Any, state_bytes: float, earlier: MemoryPlan | None = None
) -> Batches:
    """Micro-batches as the recipe wants them; the model's forward is replaced where they are packed.

    `accelerator` is this rank's; `state_bytes` is what the optimiser will need beside weights and gradients; `earlier`
    is a memory plan that ran out of memory before.
    """
    if why_padded(run.recipe, family_of(model)) is None:
        return _packed(run, model, accelerator, state_bytes, earlier)
    return _padded(run, model, accelerator, earlier)


def check_packing(recipe: "Recipe", family: str) -> None:
    """Raises LeapError where this recipe and `model_type` pad samples, and a value is for packed ones only."""
    reason = why_padded(recipe, family)
    for key in ("tokens_per_micro_batch", "compile"):
        if reason and getattr(recipe, key):
            raise LeapError(f"{key} is for packed samples, but {reason} means padded ones: leave {key} out")
    if reason and recipe.attn_implementation == "flash_attention_2":
        _refuse_missing_flash(reason)
    if recipe.attn_implementation == "flash_attention_4":
        _refuse_missing_flash4(recipe, reason)


def _refuse_missing_flash(reason: str) -> None:
    from transformers.utils import is_flash_attn_2_available, is_kernels_available

    if not (is_flash_attn_2_available() or is_kernels_available()):
        raise LeapError(
            f"attn_implementation=flash_attention_2 with padded samples ({reason}) needs a GPU and the flash-attn "
            "package; sdpa needs neither"
        )


def _refuse_missing_flash4(recipe: "Recipe", padded: str | None) -> None:
    import torch

    from leap.models.qwen3_vl.varlen_attention import has_flash4

    if padded:
        raise LeapError(f"flash_attention_4 is for packed samples, but {padded} means padded ones: take sdpa")
    if not (torch.cuda.is_available() and has_flash4(torch.device("cuda"), getattr(torch, recipe.dtype))):
        raise LeapError(
            "attn_implementation=flash_attention_4 needs bf16 or fp16, a GPU of Hopper's generation or Blackwell's and "
            "the package flash-attn-4; sdpa needs none of them"
        )


def why_padded(recipe: "Recipe", family: str) -> str | None:
    """What asks for the library's own forward over padded samples, which is slower; None for packed ones.

    Packed samples have PyTorch's flash attention, whether sdpa or flash_attention_2 is asked for, or FlashAttention 4.
    """
    if not recipe.packing:
        return "packing=false"
    if recipe.attn_implementation == "eager":
        return "attn_implementation=eager"
    return None if families.family(family).packed_forward else f"a {family} model"


def _padded(run: "Run", model: Any, accelerator: Any, earlier: MemoryPlan | None) -> Batches:
    from leap.data.collator import Collator

    def collate(indices: "CheckedSamples") -> Collator:
        together = accelerator.num_processes > 1 and bool(indices.images.any())
        return Collator(run.processor.tokenizer.pad_token_id, run.chat.image_token_id, run.encoder, together)

    plan = _plan(run, accelerator.num_processes)
    wanted = run.recipe.gradient_checkpointing
    level: Checkpointing = "all" if wanted or (wanted is None and accelerator.device.type == "cuda") else "none"
    memory_plan = MemoryPlan(plan.micro_batches, level)
    if earlier:
        (memory_plan,) = smaller(
            [memory_plan], earlier, plan.global_batch_size // plan.world_size, (level,) if wanted is False else LEVELS
        )
    plan = replace(plan, micro_batches=memory_plan.micro_batches)
    if memory_plan.checkpointing == "all":
        _checkpoint_all(model)
    train = MicroBatches(plan, _samples(run, run.train), collate(run.train), accelerator.process_index)
    validation = _validation(run, accelerator, collate(run.validation)) if run.validation else None
    return Batches(train, validation, f"{plan.micro_batches} padded batches a step and rank", memory_plan)


def _checkpoint_all(model: Any) -> None:
    """Compute every activation twice: nothing finds out here how much memory padded batches need."""
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)  # its newer name
    enable({"use_reentrant": False})
    if getattr(
        model, "_require_grads_hooks", None
    ):  # gradients at every input, so in frozen components too: nobody needs them
        model.disable_input_require_grads()


def _plan(run: "Run", world_size: int) -> BatchPlan:
    """The run's plan, whose micro-batches have no more samples than the recipe's; see `Run.global_batch_size`."""
    recipe, size = run.recipe, run.global_batch_size
    micro_batches = math.ceil(size / (recipe.per_device_train_batch_size * world_size))
    return BatchPlan(_cost(run.train), size, run.steps, recipe.seed, micro_batches, world_size)


def _cost(indices: "CheckedSamples") -> Cost:
    return Cost(indices.tokens, indices.patches, indices.label_tokens, _PATCH_TOKENS)


def _samples(run: "Run", indices: "CheckedSamples") -> Any:
    from leap.data.dataset import MixedSet, TrainingSet

    sets = [TrainingSet(file, run.chat, run.encoder) for file in indices.files]
    return sets[0] if len(sets) == 1 else MixedSet(sets)


def _validation(run: "Run", accelerator: Any, collate: Callable[..., dict[str, Any]]) -> MicroBatches | None:
    """Every validation sample once, in micro-batches of the recipe's evaluation batches."""
    if run.validation is None:
        return None
    cost, world_size = _cost(run.validation), accelerator.num_processes
    size = run.recipe.per_device_eval_batch_size * world_size
    plan = BatchPlan(cost, size, math.ceil(len(cost.tokens) / size), run.recipe.seed, 1, world_size)
    return MicroBatches(plan, _samples(run, run.validation), collate, accelerator.process_index)


def _packed(run: "Run", model: Any, accelerator: Any, state_bytes: float, earlier: MemoryPlan | None) -> Batches:
    import torch

    from leap.data.packing import PackedCollator, PackedLayout
    from leap.models.qwen3_vl import packed_forward
    from leap.models.qwen3_vl.varlen_attention import has_flash
    from leap.training.loop import cross_entropy

    recipe, device = run.recipe, accelerator.device
    plan, samples = _plan(run, accelerator.num_processes), _samples(run, run.train)
    number = getattr(torch, recipe.dtype)
    compiled = recipe.compile if recipe.compile is not None else has_flash(device, number)
    flash4 = recipe.attn_implementation == "flash_attention_4"
    packed_forward.install(model, run.encoder, compiled, cross_entropy, flash4)
    collate = PackedCollator(PackedLayout.of(model.config, run.train, accelerator.num_processes))

    def batch(indices: list[int]) -> dict[str, Any]:
        micro_batch = MicroBatches(plan, samples, collate).batch(indices)
        return {name: part.to(device) if isinstance(part, torch.Tensor) else part for name, part in micro_batch.items()}

    found = choose(recipe, model, plan, batch, state_bytes, device, number, earlier)
    plan = replace(plan, micro_batches=found.micro_batches)
    tokens = plan.cost.tokens.mean() * plan.global_batch_size / plan.world_size / plan.micro_batches
    untried = ", estimated and not tried" if device.type == "cuda" and is_sharded(model) else ""
    summary = (
        f"{plan.micro_batches} micro-batches of about {tokens:.0f} tokens a step and rank, checkpointing: "
        f"{found.checkpointing}, {'compiled' if compiled else 'not compiled'}{untried}"
    )
    validation = None
    if run.validation is not None:
        validation = _validation(
            run, accelerator, PackedCollator(PackedLayout.of(model.config, run.validation, accelerator.num_processes))
        )
    return Batches(MicroBatches(plan, samples, collate, accelerator.process_index), validation, summary, found)
