"""Which models an evaluation takes, and under which names."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from leap.data.image import ImageSize
from leap.errors import LeapError, UsageError
from leap.evaluation.manifest import read_manifest
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
from leap.vlabench.dimensions import DIMENSIONS

BASELINE = "Baseline"
_LONGEST_NAME = 50  # characters: with what is added to a name, they fit into the 255 bytes of a file system


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
    results: Path,
    name: str | None = None,
    base: Path | None = None,
) -> EvaluatedModel:
    """The model in `folder` under the name that it has when it is asked so; see `plain_model` and `size_suffix`."""
    found = plain_model(folder, baseline, output, root, name, base)
    return replace(found, name=_result_name(found.name, settings, results, chosen=name is not None))


def _result_name(name: str, settings: EvaluationSettings, results: Path, chosen: bool) -> str:
    """`chosen` by a person a name says all: results of another image size are refused under it."""
    suffix = "" if chosen else size_suffix(name, settings.images, results, variant_name(name, settings))
    return variant_name(f"{name}{suffix}", settings)


def size_suffix(name: str, size: ImageSize, results: Path, variant: str | None = None) -> str:
    """What follows a model's name where that names results at another image size already: _64-256tokens, say.

    The first size that a model is asked at has the plain name; no other is ever mixed into it or written over it. A
    `variant` of the name goes along with it, so that an image control stands beside what it controls.
    """
    own, plain = (_sizes(results, one) for one in (variant or name, name))
    tokens = [size.min_tokens, size.max_tokens]
    free = tokens in own or (not own and (tokens in plain or not plain))
    return "" if free else f"_{size.min_tokens}-{size.max_tokens}tokens"


def _sizes(results: Path, name: str) -> list[list[int]]:
    """The image sizes of the results under a name: one, or none where there are no results."""
    manifests = (read_manifest(results / dimension.name / name) for dimension in DIMENSIONS)
    return [found for one in manifests if (found := one.get("settings", {}).get("image_tokens"))]


def named_models(folders: Sequence[Path], baseline: Path, output: Path) -> dict[str, Path]:
    """The folders by the names of their results. Raises UsageError where two would share a result folder."""
    named: dict[str, Path] = {}
    for folder in folders:
        name = BASELINE if folder.resolve() == baseline.resolve() else result_name(folder, output)
        if name in named:
            raise UsageError(f"{folder} and {named[name]} would both be {name} in the results; evaluate one at a time")
        named[name] = folder
    return named


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


def served_model(
    url: str, model: str, settings: EvaluationSettings, results: Path, name: str | None = None
) -> EvaluatedModel:
    """A model at a server; its results are named after it, without the organisation and what no file name may hold."""
    named = _result_name(name or served_name(model), settings, results, chosen=name is not None)
    return EvaluatedModel(named, endpoint=f"{url} {model}")


def served_name(model: str) -> str:
    """A server's name for a model as the name of results; one that no folder could have is served-model."""
    named = re.sub(r"[^\w.+-]+", "-", model.rstrip("/").rpartition("/")[2]).strip("-.+")
    return named[:_LONGEST_NAME].strip("-.+") or "served-model"


def check_name(name: str | None, flag: str = "--model_name") -> None:
    """Raises UsageError for a name that no folder should have."""
    if name is not None and not re.fullmatch(r"\w[\w.+-]*", name):
        raise UsageError(f"{flag} {name!r}: use letters, digits, '.', '+', '-' and '_'")
