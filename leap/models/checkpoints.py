"""Checkpoint folders: finding them, naming the model of a result, and telling complete ones from half-written ones.

A folder holds a whole model, or an adapter (LoRA) that changes a base model.
"""

import codecs
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from leap.errors import LeapError
from leap.hub.hub_models import HubModel, cached_model, local_folder, named_model
from leap.records.files import file_digest, is_file
from leap.records.json_files import object_if_there, read_object
from leap.records.litter import listed

MARKER = "leap_run.json"  # written last: a checkpoint without it was cut short
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
ADAPTER = "adapter_config.json"
TRAINER_STATE = "trainer_state.json"
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model*.bin")
# What decides a model's answers beside its weights, under the names that transformers, vLLM and tokenizers read:
# configs, tokenizer, chat templates, processor, and the code of models that bring their own.
_SMALL_FILES = (
    *("config.json", "generation_config.json", "*processor_config.json", "*.py"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "*.tiktoken"),
    *("chat_template*", "additional_chat_templates/*"),
)
# Said where a run of an older LEAP is continued.
UNKNOWN_FILES = (
    "from before LEAP kept hashes of chat template, tokenizer, processor and configs; "
    "that these have not changed since is taken for granted"
)
# The small JSON files of a model folder. The libraries that read them end with a traceback of their own at a wrong one.
_SETTINGS = (
    *("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json", "chat_template.json"),
    *("model.safetensors.index.json", ADAPTER),
)
_COUNTS_LAYERS, _MOST_LAYERS = re.compile("layers$|depth$|blocks$"), 10_000


class _Read(BaseModel):
    """A JSON object as far as LEAP reads it; what was written before a key existed lacks it."""

    model_config = ConfigDict(strict=True)


class _MarkedRecipe(_Read):
    optim: str | None = None
    resume_from_lora: str | None = None
    model_name_or_path: str | None = None
    per_device_train_batch_size: int = 1
    gradient_accumulation_steps: int = 1
    processes: int = 1  # ranks, under the key that markers have


class _MarkedOrigin(_Read):
    repository: str
    commit: str
    subfolder: str | None = None


class _Marker(_Read):
    recipe: _MarkedRecipe = _MarkedRecipe()
    step: int | None = None
    resumable: bool = True
    weights: str | None = None
    base_model: str | None = None
    base_files: dict[str, str] = {}
    base_hub: _MarkedOrigin | None = None
    data: str | None = None
    validation: str | None = None
    commit: str | None = None
    versions: dict[str, str] = {}


class _Adapter(_Read):
    peft_type: str | None = None
    base_model_name_or_path: str | None = None
    r: int | None = None
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None


class LogEntry(_Read):
    """An entry of a training log, as far as it is read."""

    step: int
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None


class _TrainerState(_Read):
    log_history: list[LogEntry]


class _Config(_Read):
    model_type: str | None = None


def read_marker(folder: Path) -> dict[str, Any]:
    """What LEAP wrote into a checkpoint or run folder when it was whole; {} where LEAP did not write it."""
    return object_if_there(folder / MARKER, _Marker)


def read_adapter(folder: Path) -> dict[str, Any]:
    """An adapter's settings."""
    return read_object(folder / ADAPTER, _Adapter)


def read_log(checkpoint: Path) -> list[dict[str, Any]]:
    """What training had logged up to a checkpoint, with every value that the log has."""
    log: list[dict[str, Any]] = read_object(checkpoint / TRAINER_STATE, _TrainerState)["log_history"]
    return log


def read_config(folder: Path) -> dict[str, Any]:
    """A whole model's configuration."""
    return read_object(folder / "config.json", _Config)


def checkpoint_step(folder: Path) -> int | None:
    """N of a folder named checkpoint-N, None for any other."""
    match = _CHECKPOINT.fullmatch(folder.name)
    return int(match[1]) if match else None


def find_checkpoints(folder: Path) -> list[Path]:
    """The checkpoint-N folders in `folder`, by step."""
    if not folder.is_dir():
        return []
    steps = {entry: checkpoint_step(entry) for entry in listed(folder) if entry.is_dir()}
    return sorted((entry for entry, step in steps.items() if step is not None), key=lambda entry: steps[entry] or 0)


def is_resumable(folder: Path) -> bool:
    """Whether training can go on from a checkpoint: it is whole, and was not stripped to its weights."""
    return is_file(folder / MARKER) and read_marker(folder).get("resumable", True)


_OWNERS = {"Qwen": "Qwen", "InternVL": "OpenGVLab", "MiniCPM": "openbmb"}  # on the hub, of the models in eval.sh


def how_to_get(folder: Path) -> str:
    """The command that downloads what this folder should hold, and checks what is there of it."""
    step = checkpoint_step(folder)
    if step is not None:
        return f"download it (python scripts/download/download_leap_data.py --checkpoints {step})"
    owner = next((owner for name, owner in _OWNERS.items() if folder.name.startswith(name)), "OWNER")
    return f"download it (bash scripts/download/download_model.sh {owner}/{folder.name})"


def weight_files(folder: Path) -> list[Path]:
    """A model folder's weight files. Raises LeapError where there is no folder, no config or no weights."""
    if not folder.is_dir():
        raise LeapError(f"{folder}: there is no such model folder; {how_to_get(folder)}, or train it first")
    if not is_file(folder / "config.json") and not is_file(folder / ADAPTER):
        raise LeapError(f"{folder}: neither config.json nor {ADAPTER} is there, so this is no model folder")
    found = {file for pattern in _WEIGHTS for file in listed(folder, pattern)}
    files = sorted(file for file in found if is_file(file) and file.stat().st_size > 0)
    if not files:
        raise LeapError(f"{folder}: it holds no weights (*.safetensors); {how_to_get(folder)}, or use another one")
    return files


def check_settings(folder: Path) -> None:
    """Raise LeapError for a file of a model folder that is none, and for settings that are no JSON object.

    Also for a configuration with so many layers that making them would never end, and for a byte order mark: the
    libraries refuse it without naming the file, or put it into each prompt.
    """
    for path in listed(folder):
        if not path.is_dir():
            is_file(path)
    for path in (path for pattern in _SMALL_FILES for path in listed(folder, pattern)):
        if path.is_file() and _begins_with_mark(path):
            raise LeapError(f"{path}: it begins with a byte order mark, which models' files may not; save it without")
    for name in _SETTINGS:
        object_if_there(folder / name)
    parts = [object_if_there(folder / "config.json", _Config)]
    while parts:
        part = parts.pop()
        parts += [value for value in part.values() if isinstance(value, dict)]
        for key, value in part.items():
            if _COUNTS_LAYERS.search(key) and isinstance(value, int) and value > _MOST_LAYERS:
                raise LeapError(f"{folder / 'config.json'}: {key}={value}: no model has so many; restore the file")


def _begins_with_mark(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8


def adapter_base(folder: Path, root: Path, given: Path | None = None) -> Path | None:
    """The base model of an adapter folder: `given`, or the one that it names; None for the folder of a whole model.

    A relative name is a folder under `root`, the workspace. Raises LeapError where there is no such model, or another
    than the adapter was trained on.
    """
    if not is_file(folder / ADAPTER):
        return None
    named = given or named_base(folder, root)
    base = local_folder(named, root) if named else None
    if base is None or not is_file(base / "config.json"):
        raise LeapError(
            f"{folder}: an adapter on {named}, which is no model folder here; name it, or the hub's (--base_model_path)"
        )
    refuse_another_base(folder, base)
    return base


def named_base(folder: Path, root: Path) -> Path | HubModel | None:
    """What an adapter names as its base: a folder, or a model of the hub, at the commit that LEAP trained it on."""
    name = read_adapter(folder).get("base_model_name_or_path")
    named = named_model(name, root) if name else None
    origin = read_marker(folder).get("base_hub")
    if origin and not (isinstance(named, Path) and named.is_dir()):
        return HubModel(origin["repository"], origin["commit"], origin.get("subfolder"))
    return named


def refuse_another_base(folder: Path, base: Path) -> None:
    """Raise LeapError where LEAP trained an adapter on other weights than `base` has. Adapters of others: unchecked."""
    trained_on = read_marker(folder).get("base_model")
    if trained_on is not None and trained_on != weights_hash(base):
        raise LeapError(
            f"{folder}: this adapter was trained on other weights than {base} has now; "
            "restore that base model, or name it (--base_model_path)"
        )


def weights_hash(folder: Path, base: Path | None = None) -> str:
    """sha256 over a model's weight files, in name order; an adapter's with its settings and its base's weights."""
    files = [*weight_files(folder), *([folder / ADAPTER, *weight_files(base)] if base else [])]
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0")
        digest.update(file_digest(path))
    return digest.hexdigest()


def small_files(folder: Path, base: Path | None = None) -> dict[str, str]:
    """sha256 of each small file that decides answers (`_SMALL_FILES`), by its name; an adapter's with its base's."""
    found = {
        file.relative_to(place).as_posix() if place == folder else f"base/{file.relative_to(place).as_posix()}": file
        for place in (folder, base)
        if place is not None
        for pattern in _SMALL_FILES
        for file in listed(place, pattern)
        if file.is_file()
    }
    return {name: file_digest(file).hex() for name, file in sorted(found.items())}


def changed_files(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The names of small files that are others now, new, or gone."""
    return [name for name in sorted(then.keys() | now.keys()) if then.get(name) != now.get(name)]


def is_same_model(stored: Mapping[str, Any], weights: str, files: Mapping[str, str]) -> bool:
    """Whether what results say of their model ("weights", "files") is this one. Older results do not say the files."""
    return stored.get("weights") == weights and stored.get("files", files) == files


def result_name(model: Path, output: Path) -> str:
    """A model's name in the results: `checkpoint-N` of the full run, `RUN-checkpoint-N` of another, or its folder's.

    One in the hub's cache, whose folder is called after a commit, is NAME or NAME-SUBFOLDER.
    """
    if cached := cached_model(model):
        return cached.name
    if checkpoint_step(model) is None:
        return model.name
    run = model.parent
    return model.name if run.resolve() == output.resolve() else f"{run.name}-{model.name}"
