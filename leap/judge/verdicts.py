"""A judge's words to a verdict: the one JSON object in them, validated. Anything else is unusable, never a guess."""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from leap.records.json_files import first_problem
from leap.vlabench.parsing import LONGEST_READ, without_thoughts

Record = TypeVar("Record", bound=BaseModel)


class Unusable(Exception):
    """No verdict can be read from these words; the text says why."""


def read_verdict(text: str, record: type[Record]) -> Record:
    """The verdict in a judge's answer, with or without prose, a code fence or thoughts around it.

    Raises Unusable where there is none, more than one, or one with a missing or impossible value.
    """
    wanted = {name for name, field in record.model_fields.items() if field.is_required()}
    # What is one object as a whole holds no thoughts: a rationale may speak of the plan's <think>.
    said = text if text.lstrip()[:1] == "{" and _is_whole(text) else without_thoughts(text)
    if len(said) > LONGEST_READ:  # a search in nested braces takes time by the square of their number
        raise Unusable(f"a response of {len(said)} characters, of which no more than {LONGEST_READ} are read")
    found = [value for value in _objects(said) if wanted & value.keys()]
    if len(found) != 1:
        raise Unusable(f"{len(found)} JSON objects with a verdict in it, where one was asked for")
    try:
        return record.model_validate(found[0])
    except ValidationError as error:
        raise Unusable(first_problem(error)) from error


def _is_whole(text: str) -> bool:
    try:
        _DECODER.decode(text)
    except (ValueError, RecursionError, Unusable):
        return False
    return True


def _objects(text: str) -> list[dict[str, Any]]:
    """The outermost JSON objects in a text, from left to right."""
    found, place = [], 0
    while (start := text.find("{", place)) >= 0:
        try:
            value, place = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):  # no JSON, or a number of too many digits; nested too deep
            place = start + 1
        else:
            found.append(value)
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises Unusable for an object that says two things under one name."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise Unusable("a JSON object with the same name twice")
    return dict(pairs)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, strict=False)  # models write line ends into strings
