"""What a run's steps are made of: the plan of its packs, and the form in which they go through the model."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from leap.data.packing import Cost, PackPlan, Packs

if TYPE_CHECKING:
    from leap.training.run import Run

_PATCH_TOKENS = 0.3  # the vision tower's arithmetic for a patch, in that of a decoder's token (2B)


@dataclass(frozen=True)
class Batches:
    """A run's packs for this process, and how held-out samples are collated."""

    train: Packs
    collate: Callable[..., dict[str, Any]]
    told: str


def plan_of(run: "Run", processes: int) -> PackPlan:
    """The run's plan with the recipe's accumulation as the number of packs."""
    rows, recipe = run.train, run.recipe
    cost = Cost(rows.tokens, rows.patches, rows.label_tokens, _PATCH_TOKENS)
    size = recipe.rows_per_step(processes)
    return PackPlan(cost, size, run.steps, recipe.seed, recipe.gradient_accumulation_steps, processes)


def make_batches(run: "Run", model: Any, arguments: Any, state_bytes: float) -> Batches:
    """Packs as the recipe wants them; the model's forward is replaced where they are packed.

    `arguments` are the Trainer's; `state_bytes` is what the optimiser will need beside weights and gradients.
    """
    from leap.data.training_set import TrainingSet
    from leap.training import packed

    plan = plan_of(run, arguments.world_size)
    samples = TrainingSet(run.train, run.chat, run.encoder)
    if run.recipe.packing and packed.fits(model):
        return _packed(run, model, arguments, plan, samples, state_bytes)
    from leap.data.collate import Collator

    collate = Collator(run.processor.tokenizer.pad_token_id, run.chat.image_token_id, run.encoder)
    packs = Packs(plan, samples, collate, arguments.process_index)
    return Batches(packs, collate, f"{plan.packs} padded batches a step and process")


def _packed(run: "Run", model: Any, arguments: Any, plan: PackPlan, samples: Any, state_bytes: float) -> Batches:
    import torch

    from leap.data.pack import PackCollator, PackLayout
    from leap.training import fit, packed
    from leap.training.varlen_attention import has_flash

    recipe, device = run.recipe, arguments.device
    number = torch.bfloat16 if recipe.bf16 else torch.float32
    compiled = recipe.compile if recipe.compile is not None else has_flash(device, number)
    packed.install(model, run.encoder, compiled)
    largest = recipe.image_tokens_max * model.config.vision_config.spatial_merge_size**2
    collate = PackCollator(PackLayout.of(model.config, run.train, largest))

    def heaviest(tried: PackPlan) -> dict[str, Any]:
        step, index = tried.heaviest(arguments.process_index)
        pack = Packs(tried, samples, collate, arguments.process_index)[step * tried.packs + index]
        return {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in pack.items()
            if name not in ("rows", "step_label_tokens")
        }

    found = fit.choose(recipe, model, plan, heaviest, state_bytes, device, number)
    plan = replace(plan, packs=found.packs)
    packs = Packs(plan, samples, collate, arguments.process_index)
    tokens = plan.cost.tokens.mean() * plan.rows_per_step / plan.processes / plan.packs
    return Batches(
        packs,
        collate,
        f"{plan.packs} packs of about {tokens:.0f} tokens a step and process, checkpointing: {found.checkpointing}, "
        f"{'compiled' if compiled else 'not compiled'}",
    )
