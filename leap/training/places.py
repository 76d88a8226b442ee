"""What a recipe names is there, looked at before anything is loaded: a typing error shows at once."""

from importlib.util import find_spec
from pathlib import Path

from leap.data.sample_datasets import find_samples
from leap.errors import LeapError
from leap.hub.hub_models import fetch_model, named_model
from leap.models.checkpoints import weight_files
from leap.records.files import check_folder
from leap.records.json_files import read_object
from leap.records.remote import address, as_path, is_cached, remote_type
from leap.training.checkpoint_folder import resume_point
from leap.training.recipe import Recipe
from leap.training.resume import model_to_train

# What a new clone lacks; harmless advice for a file of the user's own.
_DOWNLOAD = "download LEAP's (python scripts/download/download_leap_data.py)"
# The sections of a DeepSpeed configuration that accelerate looks into: for "auto", and to compare with the recipe.
_SECTIONS = ("optimizer", "optimizer.params", "scheduler", "scheduler.params", "fp16", "bf16", "zero_optimization",
             "zero_optimization.offload_optimizer", "zero_optimization.offload_param", "amp")  # fmt: skip


def check_places(recipe: Recipe, root: Path) -> None:
    """Raises LeapError where a file or folder that the recipe names is not there; relative paths start at `root`.

    Models of the hub are fetched, when all else is there.
    """
    named = [("train_file", one.file) for one in recipe.train_files]
    for name, file in [*named, *([("val_file", recipe.val_file)] if recipe.val_file else [])]:
        if find_samples(file, root, root) is None:
            raise LeapError(
                f"{address(as_path(file, root))}: there is no such file; {_DOWNLOAD}, or name yours with --{name}"
            )
    if recipe.image_root and not _is_folder(place := as_path(recipe.image_root, root)):
        raise LeapError(f"{address(place)}: there is no such folder; name the images' with --image_root")
    if recipe.deepspeed:
        check_deepspeed(root / recipe.deepspeed)
    check_folder(root / recipe.output_dir)
    weight_files(fetch_model(model_to_train(recipe, root), root))
    if recipe.resume_from_lora and resume_point(root / recipe.output_dir) is None:
        fetch_model(named_model(recipe.resume_from_lora, root), root)


def _is_folder(place: Path) -> bool:
    return remote_type(place) == "directory" if is_cached(place) else place.is_dir()


def check_deepspeed(path: Path) -> None:
    """Raises LeapError for a file that is no DeepSpeed configuration, and where DeepSpeed is not installed.

    What reads it takes its form for granted.
    """
    if not path.is_file():
        raise LeapError(f"deepspeed: {path}: there is no such file")
    values = read_object(path)
    for section in _SECTIONS:
        found: object = values
        for name in section.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        if found is not None and not isinstance(found, dict):
            raise LeapError(f"{path}: {section}: an object is expected, found {type(found).__name__}")
    if find_spec("deepspeed") is None:
        raise LeapError("deepspeed: it is not installed here; pip install deepspeed, or leave it out of the recipe")
