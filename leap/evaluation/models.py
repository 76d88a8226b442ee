"""Which models an evaluation takes, and under which names."""

import re
from dataclasses import replace
from pathlib import Path

from leap.errors import LeapError, UsageError
from leap.evaluation.settings import EvaluatedModel, EvaluationSettings, variant_name
from leap.models.checkpoints import (
    ADAPTER,
    MARKER,
    adapter_base,
    find_checkpoints,
    result_name,
    small_files,
    weights_hash,
)

BASELINE = "Baseline"


def chosen_models(baseline: Path | None, checkpoints: Path, newest: int | None = None) -> list[Path]:
    """The baseline, if any, and the newest checkpoints of a run, in the order of their steps."""
    found = find_checkpoints(checkpoints)
    complete = [folder for folder in found if (folder / MARKER).is_file()]
    if complete:  # LEAP's own run: one without a marker was cut short, or is being written
        for folder in (folder for folder in found if folder not in complete):
            print(f"{folder}: incomplete, left out")
        found = complete
    models = [*([baseline] if baseline else []), *(found if newest is None else found[-newest:])]
    if not models:
        raise LeapError(f"{checkpoints}: no checkpoint-N folder there; train first or set --checkpoints_dir")
    return models


def identify(
    folder: Path,
    baseline: Path,
    output: Path,
    root: Path,
    settings: EvaluationSettings,
    name: str | None = None,
    base: Path | None = None,
) -> EvaluatedModel:
    """The model in `folder` under the name that it has when it is asked so; see `plain_model`."""
    found = plain_model(folder, baseline, output, root, name, base)
    return replace(found, name=variant_name(found.name, settings))


def plain_model(
    folder: Path, baseline: Path, output: Path, root: Path, name: str | None = None, base: Path | None = None
) -> EvaluatedModel:
    """The model in `folder` with its result name and the hashes of its files; `base` is where an adapter's base lies.

    Adapters that name their base by a relative path mean a folder under `root`. Raises LeapError where `folder` holds
    no weights or the base is not there.
    """
    base = adapter_base(folder, root, base)
    weights = weights_hash(folder, base)
    if name is None:
        name = BASELINE if folder.resolve() == baseline.resolve() else result_name(folder, output)
    return EvaluatedModel(name, folder, base, weights, files=small_files(folder, base))


def refuse_no_adapter(folder: Path) -> None:
    """Raises UsageError where an adapter's flags are given for a whole model: its base would not be looked at."""
    if folder.is_dir() and not (folder / ADAPTER).is_file():
        raise UsageError(
            f"{folder} is no LoRA adapter (no {ADAPTER}): --lora_adapter_path and --base_model_path are for one"
        )


def served_model(url: str, model: str, settings: EvaluationSettings, name: str | None = None) -> EvaluatedModel:
    """A model at a server; its results are named after it, without the organisation and what no file name may hold."""
    return EvaluatedModel(variant_name(name or served_name(model), settings), endpoint=f"{url} {model}")


def served_name(model: str) -> str:
    """A server's name for a model as the name of results."""
    return re.sub(r"[^\w.+-]+", "-", model.rstrip("/").rpartition("/")[2]).strip("-.+")


def check_name(name: str | None, flag: str = "--model_name") -> None:
    """Raises UsageError for a name that no folder should have."""
    if name is not None and not re.fullmatch(r"\w[\w.+-]*", name):
        raise UsageError(f"{flag} {name!r}: use letters, digits, '.', '+', '-' and '_'")
