"""What a run goes on from: the newest whole checkpoint in its folder, if it is this very run's."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leap.environment import world_size
from leap.errors import LeapError
from leap.hub.hub_models import HubModel, local_folder, named_model
from leap.models.checkpoints import (
    MARKER,
    UNKNOWN_FILES,
    changed_files,
    find_checkpoints,
    is_resumable,
    read_marker,
)
from leap.progress import is_main_process
from leap.records.files import is_file
from leap.training.checkpoint_folder import resume_point, step_of
from leap.training.recipe import Recipe

if TYPE_CHECKING:
    from leap.training.ranks import Ranks

# Only their product, the samples of an optimiser step, decides what is learned.
_FACTORS = ("per_device_train_batch_size", "gradient_accumulation_steps", "processes")


def find_resume(output: Path, identity: dict[str, Any]) -> Path | None:
    """The newest whole checkpoint of this very run.

    Raises LeapError where the folder holds another's, or none that training can go on from.
    """
    found = find_checkpoints(output)
    newest = resume_point(output)
    started = output / MARKER  # written before the first step, so that a run is known before its first checkpoint
    if found and newest is None and not started.is_file():
        raise LeapError(
            f"{found[-1]}: LEAP did not write it, and training here would overwrite it. "
            "Give this run a folder of its own (--output_dir output/NAME)"
        )
    folder = newest or output
    if is_file(folder / MARKER):
        refuse_another_run(str(folder), read_marker(folder), identity)
    return newest


def agree_on_resume(output: Path, newest: Path | None, ranks: "Ranks") -> Path | None:
    """The newest checkpoint that all ranks have: nodes with disks of their own may be ended while one still writes.

    Raises LeapError in all ranks where one of them has none that others have.
    """
    whole = [step_of(folder) for folder in find_checkpoints(output) if is_resumable(folder)] if newest else []
    common = set.intersection(*map(set, ranks.gather(whole)))
    if not common:
        ranks.same("checkpoint to resume from (all nodes need it)", newest.name if newest else None)
        return None
    return output / f"checkpoint-{max(common)}"


def ranks_of_step(recipe: Recipe, output: Path, ranks: "Ranks") -> int:
    """For how many ranks the recipe's samples of a step are counted: where a run goes on, for those it began with.

    A recipe that divides the step in another way than it did is counted for the ranks that there are.
    """
    begun = ranks.first(read_marker(output).get("recipe", {}))
    divided_alike = all(begun.get(factor) == getattr(recipe, factor) for factor in _FACTORS[:2])
    return int(begun.get("processes", 1)) if divided_alike and recipe.any_ranks else world_size()


def refuse_another_run(folder: str, found: dict[str, Any], identity: dict[str, Any]) -> None:
    """Raises LeapError where a folder's marker, `found`, is not that of a run of this identity."""
    different = [component for component in ("base_model", "data") if found.get(component) != identity[component]]
    if "base_files" in found and "base_files" in identity:  # older runs do not say them
        changed = changed_files(found["base_files"], identity["base_files"])
        different += [f"{name} of the base model" for name in changed]
    wanted, had = _compared(identity["recipe"]), _compared(found.get("recipe", {}))
    different += [
        f"{key} ({had.get(key)} there, {wanted.get(key)} now)"
        for key in sorted(wanted.keys() | had.keys())
        if wanted.get(key) != had.get(key)
    ]
    if different:
        raise LeapError(
            f"{folder}: it belongs to another run: {', '.join(different)} differ. "
            "Give this run a folder of its own (--output_dir output/NAME), or move the old checkpoints away"
        )


def note_unknown_files(resume: Path | None) -> None:
    """One line where a run goes on that an older LEAP began: it kept hashes of the base's weights alone."""
    if resume and is_main_process() and "base_files" not in read_marker(resume):
        print(f"{resume}: {UNKNOWN_FILES}")


def _compared(recipe: dict[str, Any]) -> dict[str, Any]:
    # A run of an older LEAP, whose recipe had fewer keys, did what their defaults do.
    defaults = {name: field.default for name, field in Recipe.model_fields.items() if not field.is_required()}
    recipe = {**Recipe.keys_of_identity(defaults), **recipe}
    values = {key: value for key, value in recipe.items() if key not in _FACTORS}
    samples = 1
    for factor in _FACTORS:
        samples *= recipe.get(factor, 1)
    return {**values, "samples of an optimiser step": samples}


def model_to_train(recipe: Recipe, root: Path) -> Path | HubModel:
    """The base that the recipe names; one of the hub's, in a run that has begun, at the commit that it began with."""
    model, begun = named_model(recipe.model_name_or_path, root), read_marker(root / recipe.output_dir)
    origin, named = begun.get("base_hub"), begun.get("recipe", {}).get("model_name_or_path")
    if isinstance(model, HubModel) and origin and named == recipe.model_name_or_path:
        return replace(model, revision=origin["commit"])
    return model


def adapter_to_start(recipe: Recipe, root: Path) -> Path:
    """The folder that `resume_from_lora` names; one of the hub's has been fetched."""
    assert recipe.resume_from_lora
    return local_folder(named_model(recipe.resume_from_lora, root), root)


def resolve_start(recipe: Recipe, root: Path) -> Recipe:
    """The recipe; where `resume_from_lora` is the newest checkpoint of the run's own folder, it is this run going on.

    Raises LeapError for an older checkpoint of its own: going back there would leave newer ones of another history.
    """
    if not recipe.resume_from_lora:
        return recipe
    output, start = (root / recipe.output_dir).resolve(), adapter_to_start(recipe, root).resolve()
    if start.parent != output:
        return recipe
    newest = resume_point(output)
    if start != newest:
        raise LeapError(
            f"--resume_from_lora {start}: this run goes on from its newest checkpoint, {newest or 'none'}; "
            "to start anew from an older one give a folder of its own (--output_dir output/NAME)"
        )
    begun = read_marker(start).get("recipe", {}).get("resume_from_lora")
    return recipe.model_copy(update={"resume_from_lora": begun})
