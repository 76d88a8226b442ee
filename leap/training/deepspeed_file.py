"""A DeepSpeed configuration file, checked before anything is loaded: what reads it takes its form for granted."""

from importlib.util import find_spec
from pathlib import Path

from leap.errors import LeapError
from leap.records.json_files import read_object

# Those that the Trainer looks into, to fill in "auto" and to compare with the recipe.
_SECTIONS = ("optimizer", "optimizer.params", "scheduler", "scheduler.params", "fp16", "bf16", "zero_optimization",
             "zero_optimization.offload_optimizer", "zero_optimization.offload_param", "amp")  # fmt: skip


def check_deepspeed(path: Path) -> None:
    """Raises LeapError for a file that is no such configuration, and where DeepSpeed is not installed."""
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
