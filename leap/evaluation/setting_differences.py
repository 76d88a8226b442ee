"""What two runs were made with, and what they were not alike in: the one place that names it, for all that sets their
scores side by side (compare, summary, figures, ablation) or continues one of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What a person calls a setting -> where a manifest has it, and whether a difference in it may be taken for one between
# two models. The engine and the dtype move single answers only, and a hosted model has its own; an image control and
# a chat template are what the name of a result, or its model, says.
_SETTINGS: Mapping[str, tuple[tuple[str, ...], bool]] = {
    "engine": (("settings", "engine"), False),
    "engine_arguments": (("settings", "engine_arguments"), True),
    "dtype": (("settings", "dtype"), False),
    "quantization": (("settings", "quantization"), True),
    "prompt": (("settings", "prompt"), True),
    "few_shot": (("settings", "few_shot"), True),
    "with_cot": (("settings", "with_cot"), True),
    "image_tokens": (("settings", "image_tokens"), True),
    "image_control": (("settings", "image_control"), False),
    "decoding": (("settings", "decoding"), True),
    "repeats": (("repeats",), False),  # of more of them a mean is more certain, and no other
    "chat template": (("chat template",), False),
    "scorer": (("scorer", "name"), False),  # ours gives upstream's scores to the last bit
    "scoring rules": (("scorer", "vlabench"), True),
    "data": (("data",), True),
}
_ALWAYS = ("scoring rules", "data")  # scores of one model do not compare across these either
_DEFAULTS = {"image_control": "none", "with_cot": False, "repeats": 1}  # where a manifest says nothing


@dataclass(frozen=True)
class Difference:
    """One setting that two runs do not share. `matters`: no difference of their scores is their models' alone."""

    name: str
    here: Any
    there: Any
    matters: bool

    def __str__(self) -> str:
        if self.name == "image_tokens":
            one, other = (
                " to ".join(map(str, size)) if isinstance(size, list) else "unknown" for size in (self.here, self.there)
            )
            return f"image size {one} against {other} tokens"
        return f"{self.name} {_short(self.here)} against {_short(self.there)}"


def setting_differences(manifest: Mapping[str, Any], other: Mapping[str, Any]) -> list[Difference]:
    """What the results of two manifests (`read_manifest`) of one dimension were not alike in, in the order of above.

    What neither says, or only a manifest that is not there could say, is no difference. Where both are of one model,
    the settings are what is compared: only other data and other scoring rules matter then.
    """
    if not manifest or not other:
        return []
    same_model = _model_of(manifest) is not None and _model_of(manifest) == _model_of(other)
    return [
        Difference(name + part, here, there, matters and (name in _ALWAYS or not same_model))
        for name, (path, matters) in _SETTINGS.items()
        for here, there in [(_value(manifest, other, path, name), _value(other, manifest, path, name))]
        for part, here, there in _parts(here, there)
    ]


def unlike_members(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, value here, value there) of each member that is another there, or that only one of the two has."""
    names = dict.fromkeys([*here, *there])
    return [(name, here.get(name), there.get(name)) for name in names if here.get(name) != there.get(name)]


def _parts(here: Any, there: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(here, dict) and isinstance(there, dict):
        return [(f" {name}", one, other) for name, one, other in unlike_members(here, there)]
    return [("", here, there)] if here != there else []


def _value(manifest: Mapping[str, Any], other: Mapping[str, Any], path: tuple[str, ...], name: str) -> Any:
    if path == ("data",):
        return _fingerprint(manifest, other)
    if path == ("chat template",):
        files = manifest.get("model", {}).get("files", {})
        return {name.removeprefix("base/"): hash for name, hash in files.items() if "chat_template" in name} or None
    value: Any = manifest
    for key in path:
        value = (value or {}).get(key)
    return _DEFAULTS.get(name) if value is None else value


def _fingerprint(manifest: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Of the whole dimension on disk where both say it, else of the examples asked for, where they are as many."""
    whole = [one.get("blind", {}).get("fingerprint") for one in (manifest, other)]
    if all(whole):
        return whole[0]
    asked, others = (one.get("data", {}) for one in (manifest, other))
    return asked.get("fingerprint") if asked.get("examples") == others.get("examples") else None


def _model_of(manifest: Mapping[str, Any]) -> tuple[Any, ...] | None:
    model = manifest.get("model", {})
    known = model.get("weights"), model.get("endpoint")
    return known if any(known) else None


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(part)}" for name, part in value.items())
    text = str(value)
    return text[:12] if len(text) in (40, 64) and text.isalnum() else text  # of git, or a sha256
