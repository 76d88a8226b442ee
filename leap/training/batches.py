"""What a run's steps are made of: the plan of its packs, and the form in which they go through the model."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from leap.data.packing import Cost, PackPlan, Packs
from leap.errors import LeapError
from leap.models import families
from leap.models.components import family_of
from leap.training.memory_plan import LEVELS, Checkpointing, Fit, choose, smaller
from leap.training.optimizer_state import is_sharded

if TYPE_CHECKING:
    from leap.preparation.check.checked_dataset import CheckedFile
    from leap.training.fine_tune import Run
    from leap.training.recipe import Recipe

_PATCH_TOKENS = 0.3  # the vision tower's arithmetic for a patch, in that of a decoder's token (2B)


@dataclass(frozen=True)
class Batches:
    """A process's packs of the run and of the held-out rows, and what to tell of them."""

    train: Packs
    held_out: Packs | None
    told: str
    fit: Fit


def make_batches(run: "Run", model: Any, accelerator: Any, state_bytes: float, earlier: Fit | None = None) -> Batches:
    """Packs as the recipe wants them; the model's forward is replaced where they are packed.

    `accelerator` is this rank's; `state_bytes` is what the optimiser will need beside weights and gradients; `earlier`
    is a fit that ran out of memory before.
    """
    if why_padded(run.recipe, family_of(model)) is None:
        return _packed(run, model, accelerator, state_bytes, earlier)
    return _padded(run, model, accelerator, earlier)


def check_packing(recipe: "Recipe", family: str) -> None:
    """Raises LeapError where rows of this recipe and `model_type` are padded, and a value is for packed ones only."""
    reason = why_padded(recipe, family)
    for key in ("tokens_per_pack", "compile"):
        if reason and getattr(recipe, key):
            raise LeapError(f"{key} is for packed rows, but {reason} means padded ones: leave {key} out")
    if reason and recipe.attn_implementation == "flash_attention_2":
        _refuse_missing_flash(reason)


def _refuse_missing_flash(reason: str) -> None:
    from transformers.utils import is_flash_attn_2_available, is_kernels_available

    if not (is_flash_attn_2_available() or is_kernels_available()):
        raise LeapError(
            f"attn_implementation=flash_attention_2 with padded rows ({reason}) needs a GPU and the flash-attn "
            "package; sdpa needs neither"
        )


def why_padded(recipe: "Recipe", family: str) -> str | None:
    """What asks for the library's own forward over padded rows, which is slower; None for packed ones.

    Packed rows have PyTorch's flash attention, whether sdpa or flash_attention_2 is asked for.
    """
    if not recipe.packing:
        return "packing=false"
    if recipe.attn_implementation == "eager":
        return "attn_implementation=eager"
    return None if families.family(family).packed_forward else f"a {family} model"


def _padded(run: "Run", model: Any, accelerator: Any, earlier: Fit | None) -> Batches:
    from leap.data.collator import Collator

    def collate(rows: "CheckedFile") -> Collator:
        together = accelerator.num_processes > 1 and bool(rows.pictures.any())
        return Collator(run.processor.tokenizer.pad_token_id, run.chat.image_token_id, run.encoder, blank=together)

    plan = _plan(run, accelerator.num_processes)
    wanted = run.recipe.gradient_checkpointing
    level: Checkpointing = "all" if wanted or (wanted is None and accelerator.device.type == "cuda") else "none"
    fit = Fit(plan.packs, level)
    if earlier:
        (fit,) = smaller([fit], earlier, plan.rows_per_step // plan.processes, (level,) if wanted is False else LEVELS)
    plan = replace(plan, packs=fit.packs)
    if fit.checkpointing == "all":
        _checkpoint_all(model)
    train = Packs(plan, _samples(run, run.train), collate(run.train), accelerator.process_index)
    held_out = _held_out(run, accelerator, collate(run.held_out)) if run.held_out else None
    return Batches(train, held_out, f"{plan.packs} padded batches a step and process", fit)


def _checkpoint_all(model: Any) -> None:
    """Compute every activation twice: nothing finds out here how much memory padded batches need."""
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)  # its newer name
    enable({"use_reentrant": False})
    if getattr(
        model, "_require_grads_hooks", None
    ):  # gradients at every input, so in frozen parts too: nobody needs them
        model.disable_input_require_grads()


def _plan(run: "Run", processes: int) -> PackPlan:
    """The run's plan with the recipe's accumulation as the number of packs."""
    recipe = run.recipe
    size, packs = recipe.rows_per_step(processes), recipe.gradient_accumulation_steps
    return PackPlan(_cost(run.train), size, run.steps, recipe.seed, packs, processes)


def _cost(rows: "CheckedFile") -> Cost:
    return Cost(rows.tokens, rows.patches, rows.label_tokens, _PATCH_TOKENS)


def _samples(run: "Run", rows: "CheckedFile") -> Any:
    from leap.data.dataset import TrainingSet

    return TrainingSet(rows, run.chat, run.encoder)


def _held_out(run: "Run", accelerator: Any, collate: Callable[..., dict[str, Any]]) -> Packs | None:
    """Every held-out row once, in packs of the recipe's evaluation batches."""
    if run.held_out is None:
        return None
    cost, processes = _cost(run.held_out), accelerator.num_processes
    size = run.recipe.per_device_eval_batch_size * processes
    plan = PackPlan(cost, size, math.ceil(len(cost.tokens) / size), run.recipe.seed, 1, processes)
    return Packs(plan, _samples(run, run.held_out), collate, accelerator.process_index)


def _packed(run: "Run", model: Any, accelerator: Any, state_bytes: float, earlier: Fit | None) -> Batches:
    import torch

    from leap.data.packed_batch import PackCollator, PackLayout
    from leap.models.qwen3_vl import packed_forward
    from leap.models.qwen3_vl.varlen_attention import has_flash
    from leap.training.loop import cross_entropy

    recipe, device = run.recipe, accelerator.device
    plan, samples = _plan(run, accelerator.num_processes), _samples(run, run.train)
    number = getattr(torch, recipe.number)
    compiled = recipe.compile if recipe.compile is not None else has_flash(device, number)
    packed_forward.install(model, run.encoder, compiled, cross_entropy)
    collate = PackCollator(PackLayout.of(model.config, run.train, accelerator.num_processes))

    def batch(rows: list[int]) -> dict[str, Any]:
        pack = Packs(plan, samples, collate).batch(rows)
        return {name: part.to(device) if isinstance(part, torch.Tensor) else part for name, part in pack.items()}

    found = choose(recipe, model, plan, batch, state_bytes, device, number, earlier)
    plan = replace(plan, packs=found.packs)
    tokens = plan.cost.tokens.mean() * plan.rows_per_step / plan.processes / plan.packs
    untried = ", estimated and not tried" if device.type == "cuda" and is_sharded(model) else ""
    told = (
        f"{plan.packs} packs of about {tokens:.0f} tokens a step and process, checkpointing: {found.checkpointing}, "
        f"{'compiled' if compiled else 'not compiled'}{untried}"
    )
    held_out = None
    if run.held_out is not None:
        held_out = _held_out(
            run, accelerator, PackCollator(PackLayout.of(model.config, run.held_out, accelerator.num_processes))
        )
    return Batches(Packs(plan, samples, collate, accelerator.process_index), held_out, told, found)
