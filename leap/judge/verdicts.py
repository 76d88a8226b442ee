"""A judge's words to a verdict: the one JSON object in them, validated. Anything else is unusable, never a guess."""

import json
import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from leap.records.files import first_problem

Record = TypeVar("Record", bound=BaseModel)


class Unusable(Exception):
    """No verdict can be read from these words; the text says why."""


def read_verdict(text: str, record: type[Record]) -> Record:
    """The verdict in a judge's answer, with or without prose, a code fence or thoughts around it.

    Raises Unusable where there is none, more than one, or one with a missing or impossible value.
    """
    wanted = {name for name, field in record.model_fields.items() if field.is_required()}
    said = text.rpartition("</think>")[2]  # drafts in a model's thoughts are no verdicts
    found = [value for value in _objects(said) if wanted & value.keys()]
    if len(found) != 1:
        raise Unusable(f"{len(found)} JSON objects with a verdict in it, where one was asked for")
    try:
        return record.model_validate(found[0])
    except ValidationError as error:
        raise Unusable(first_problem(error)) from error


def _objects(text: str) -> list[dict[str, Any]]:
    """The outermost JSON objects in a text, from left to right."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique, strict=False)  # models write line ends into strings
    found, place = [], 0
    while match := re.compile("{").search(text, place):
        try:
            value, place = decoder.raw_decode(text, match.start())
        except (json.JSONDecodeError, RecursionError):
            place = match.end()
        else:
            found.append(value)
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises Unusable for an object that says two things under one name."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise Unusable("a JSON object with the same name twice")
    return dict(pairs)
