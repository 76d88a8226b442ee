"""Who judges: models at OpenAI-compatible servers, and the deterministic rubric."""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from leap.cli import usd
from leap.data.image import ImageSize
from leap.errors import UsageError
from leap.inference.openai import NO_KEY, OPENAI_URL, Endpoint, find_endpoint
from leap.inference.protocol import Decoding

RUBRIC = "rubric (deterministic)"
"""What the rubric is called in every file, table and figure: it is no opinion of a model."""

_FAMILIES = ("JENIYA_API", "OPENAI")  # whose variables are looked at, in this order
_BASES = {"JENIYA_API": ("JENIYA_API_BASE",), "OPENAI": ("OPENAI_BASE_URL", "OPENAI_API_BASE")}
_KEYS = {"JENIYA_API": "JENIYA_API_KEY", "OPENAI": "OPENAI_API_KEY"}
_MODELS = ("JENIYA_MODEL", "OPENAI_MODEL")
_OPTIONS = ("key", "input", "output")


@dataclass(frozen=True)
class Judge:
    """A model that judges, and how it is asked."""

    name: str  # in files, tables and figures
    endpoint: Endpoint
    decoding: Decoding
    images: ImageSize

    @property
    def prices(self) -> tuple[float | None, float | None]:
        """USD per million tokens of prompts and of answers."""
        return self.endpoint.input_price, self.endpoint.output_price

    def to_dict(self) -> dict[str, Any]:
        """What decides its verdicts, beside what it is shown."""
        return {
            "model": self.endpoint.shown_model,
            "base_url": self.endpoint.shown_url,
            "decoding": self.decoding.to_dict(),
            "fields_left_out": list(self.endpoint.omit),
            "image_tokens": [self.images.min_tokens, self.images.max_tokens],
        }


@dataclass(frozen=True)
class JudgeOptions:
    """How all judges of a run are asked; `limits` are fields of Endpoint."""

    decoding: Decoding
    images: ImageSize
    base_url: str | None = None
    model: str | None = None
    limits: Mapping[str, Any] = field(default_factory=dict)


def find_judges(wanted: Sequence[str], options: JudgeOptions) -> list[Judge | str]:
    """Judges by their specifications: "rubric", MODEL, MODEL@URL, with ",key=VARIABLE,input=USD,output=USD" after it.

    `model` is one more; without any it is the one that the environment names, or the server's only one. A MODEL is at
    `base_url`, or where JENIYA_API_BASE or OPENAI_BASE_URL says, or at OpenAI's own server where only its key is set; a
    MODEL@URL gets the key in the VARIABLE, or none: a key is never sent to another server than its own. Raises
    UsageError for what cannot be understood, and for a model that is named twice.
    """
    named = [options.model] if options.model else []
    requests = dict.fromkeys([*named, *wanted] or [_first(_MODELS) or ""])
    found: list[Judge | str] = [RUBRIC if request == "rubric" else _find(request, options) for request in requests]
    _refuse_twice([_long_name(judge) for judge in found if isinstance(judge, Judge)])
    names = [judge if isinstance(judge, str) else judge.name for judge in found]
    if len(set(names)) < len(names):
        found = [judge if isinstance(judge, str) else replace(judge, name=_long_name(judge)) for judge in found]
    return found


def refuse_in_vain(judges: Sequence[Judge | str], pairwise: bool, max_cost: float | None) -> None:
    """Raises UsageError where what is asked for is not these judges' to do."""
    models = [judge for judge in judges if isinstance(judge, Judge)]
    if pairwise and not models:
        raise UsageError("--pairwise needs a judge that is a model: the rubric's scores compare plans already")
    if max_cost is not None and any(None in judge.prices for judge in models):
        raise UsageError("--max_cost needs prices: --input_price and --output_price, USD per million tokens")


def _refuse_twice(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{name} is to judge twice (--judge, --model): give it once, with its prices")


def _find(request: str, options: JudgeOptions) -> Judge:
    place, *settings = request.split(",")
    given = dict(setting.partition("=")[::2] for setting in settings)
    if unknown := [name for name in given if name not in _OPTIONS]:
        raise UsageError(f"--judge {request}: {unknown[0]!r} is none of {', '.join(_OPTIONS)}")
    match = re.fullmatch(r"(.*?)@(https?://.*)", place)
    model, url = match.groups() if match else (place, None)
    key = _variable(given["key"]) if "key" in given else NO_KEY
    if url is None:
        url, own = _server(options.base_url, model)
        key = key if "key" in given else own
    prices = {f"{name}_price": _price(request, given[name]) for name in ("input", "output") if name in given}
    endpoint = _endpoint(url, model, key, {**options.limits, **prices})
    return Judge(endpoint.shown_model, endpoint, options.decoding, options.images)


def _endpoint(url: str, model: str, key: str, limits: Mapping[str, Any]) -> Endpoint:
    """Without asking the server where the model is named: verdicts on disk need none."""
    if model:
        return Endpoint(url.rstrip("/").removesuffix("/chat/completions"), model, key.strip(), **limits)
    return find_endpoint(url, None, key, **limits)


def _server(base_url: str | None, model: str) -> tuple[str, str]:
    """(address, key) of one family of variables; a given address gets the first key that there is.

    OPENAI_API_KEY alone means OpenAI's own server, as it does to the client library, where a model is named.
    """
    if base_url:
        return base_url, _first(tuple(_KEYS.values())) or NO_KEY
    for family in _FAMILIES:
        if url := _first(_BASES[family]):
            return url, os.environ.get(_KEYS[family]) or NO_KEY
    if model and (key := os.environ.get(_KEYS["OPENAI"])):
        return OPENAI_URL, key
    raise UsageError(
        "no judge: give --api_base http://HOST:PORT/v1 with --model, or set OPENAI_BASE_URL (or JENIYA_API_BASE) and "
        "its key, or OPENAI_API_KEY alone with --judge MODEL, or take --judge rubric, which needs neither"
    )


def _first(names: Sequence[str]) -> str | None:
    return next((value for name in names if (value := os.environ.get(name))), None)


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise UsageError(f"--judge …,key={name}: there is no variable {name} in the environment")
    return value


def _price(request: str, text: str) -> float:
    try:
        return usd(text)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"--judge {request}: {error}, per million tokens") from error


def _long_name(judge: Judge) -> str:
    return f"{judge.endpoint.shown_model}@{judge.endpoint.shown_url}"
