"""Answers that were paid for once: on disk by the hash of all that decides them."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from leap.inference.protocol import Engine, Response
from leap.records.files import encoded
from leap.records.json_files import JsonlAppender, read_store
from leap.records.judging import StoredResponse


class ResponseStore:
    """A JSONL file of answers, from `with` to its end. An answer is on disk when `add` returns; a failure is not kept.

    `run` says what asks now; it is kept with each answer, since a later run may only read it. Without `reuse` the file
    is only added to, and a newer answer takes the place of an older one.
    """

    def __init__(self, path: Path, run: Mapping[str, Any], reuse: bool = True) -> None:
        self._path, self._run, self._reuse = path, dict(run), reuse
        self._found: dict[str, StoredResponse] = {}

    def __enter__(self) -> "ResponseStore":
        if self._reuse:
            self._found = {record.key: record for record in read_store(self._path, StoredResponse)}
        self._file = JsonlAppender(self._path)
        self._file.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.__exit__()

    def get(self, key: str) -> StoredResponse | None:
        return self._found.get(key)

    def add(self, key: str, response: Response, engine: Engine) -> dict[str, Any]:
        """How it was made."""
        made = {**engine.describe(), "run": self._run}
        if response.error is None:
            record = StoredResponse(
                key=key,
                text=response.text or "",
                finish=response.finish,
                prompt_tokens=response.prompt_tokens,
                new_tokens=response.new_tokens,
                made=made,
            )
            self._found[key] = record
            self._file.append(record)
        return made


def distinct(notes: Iterable[dict[str, Any] | None]) -> list[dict[str, Any]]:
    """How answers were made, each way once, the oldest run first; old stores do not say it of theirs."""
    found = {json.dumps(note, sort_keys=True): note for note in notes if note is not None}
    return sorted(found.values(), key=lambda note: note["run"]["start"])


def content_key(*parts: Any) -> str:
    """sha256 of JSON values, under the words that stored responses were hashed with: others would ask all anew."""
    parts = tuple(
        {"picture_tokens" if name == "image_tokens" else name: value for name, value in part.items()}
        if isinstance(part, dict)
        else part
        for part in parts
    )
    return hashlib.sha256(encoded(json.dumps(parts, sort_keys=True, ensure_ascii=False))).hexdigest()
