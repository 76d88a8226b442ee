"""Models that differ in their weights alone: an engine that holds one goes on with the next, and starts, compiles and
measures nothing anew."""

from pathlib import Path
from typing import Any

from leap.errors import LeapError
from leap.models.checkpoints import ADAPTER, changed_files, read_adapter, small_files, weight_files
from leap.models.loading import refusing
from leap.records.json_files import read_object

# What settings say of how their files came to be. An engine has a dtype of its own, which it loads any weights in.
_ORIGIN = frozenset({"dtype", "torch_dtype", "transformers_version", "_name_or_path"})
Shapes = dict[str, tuple[int, ...]]


def difference_beside_weights(folder: Path, base: Path | None, other: Path, other_base: Path | None) -> str | None:
    """What keeps an engine from going on with the other model; None where both have the same tensors by name and
    shape, and equal settings, tokenizers and processors; adapters, the same base and settings too. Raises LeapError
    where the other cannot be read."""
    shapes = tensor_shapes(other)
    try:
        own_shapes = tensor_shapes(folder)
    except LeapError:  # deleted since: not the other's fault
        return "the model before it cannot be read any more"
    if (base and base.resolve()) != (other_base and other_base.resolve()):
        return "its base differs"
    if base and _adapter_settings(folder) != _adapter_settings(other):
        return f"its {ADAPTER} differs"
    for name in changed_files(small_files(folder), small_files(other)):
        if not _alike(folder, other, name):
            return f"its {name} differs"
    return None if shapes is not None and shapes == own_shapes else "its tensors have other names or shapes"


def _adapter_settings(folder: Path) -> dict[str, Any]:
    """Lists of an adapter's settings are sets, which are stored in any order."""
    settings = read_adapter(folder)
    return {key: sorted(map(str, value)) if isinstance(value, list) else value for key, value in settings.items()}


def _alike(folder: Path, other: Path, name: str) -> bool:
    """Whether a file of both folders says the same, but for where it is from."""
    files = folder / name, other / name
    if not name.endswith(".json") or not all(file.is_file() for file in files):
        return False
    return _without_origin(read_object(files[0])) == _without_origin(read_object(files[1]))


def _without_origin(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_origin(inner) for key, inner in value.items() if key not in _ORIGIN}
    return value


def tensor_shapes(folder: Path) -> Shapes | None:
    """Of a folder's tensors, by their names; None where that does not say: another format, or a name in two files."""
    from safetensors import safe_open

    shapes: Shapes = {}
    for path in weight_files(folder):
        if path.suffix != ".safetensors":
            return None
        with refusing(path, "its tensors cannot be read"), safe_open(path, "np") as stored:
            found = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118 (no dict)
        if not found.keys().isdisjoint(shapes):
            return None
        shapes |= found
    return shapes


def copy_weights(model: Any, folder: Path) -> str | None:
    """Put a folder's tensors in the place of a loaded model's own, those of an adapter in its adapter's.

    The reason where that fails: they are not just the ones that such a model has, under its names (old checkpoints of
    Qwen2-VL and Qwen2.5-VL have other ones), or cannot be read, which may leave some copied. What is compiled or
    captured for the model stays right, since every tensor stays where it is. Raises LeapError, with nothing changed,
    where the folder's headers cannot be read.
    """
    import torch
    from safetensors import safe_open

    adapter = (folder / ADAPTER).is_file()
    found = {name: tensor for name, tensor in _own_tensors(model).items() if not adapter or ".lora_" in name}
    shapes = tensor_shapes(folder)
    named = {_name_in_model(name) if adapter else name: shape for name, shape in (shapes or {}).items()}
    if shapes is None or named != {name: tuple(tensor.shape) for name, tensor in found.items()}:
        return "its tensors do not have the names of the loaded model's"
    try:
        with torch.no_grad():
            for path in weight_files(folder):
                with refusing(path, "its tensors cannot be read"), safe_open(path, "pt") as stored:
                    for name in stored.keys():  # noqa: SIM118 (no dict)
                        found[_name_in_model(name) if adapter else name].copy_(stored.get_tensor(name))
    except LeapError as error:
        return str(error)
    return None


def _own_tensors(model: Any) -> dict[str, Any]:
    """What a checkpoint of the model has: its parameters, tied ones once, and the buffers that are stored."""
    parameters = dict(model.named_parameters())
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {**parameters, **{name: tensor for name, tensor in model.state_dict().items() if name not in tied}}


def _name_in_model(name: str) -> str:
    """PEFT stores an adapter's `…lora_A.weight` under a name without the one of the adapter, "default"."""
    path, _, last = name.removeprefix("base_model.model.").rpartition(".")
    return f"{path}.default.{last}"
