"""Answers that were paid for once: on disk by the hash of all that decides them."""

import hashlib
import json
from pathlib import Path
from types import TracebackType
from typing import Any

from leap.inference.protocol import Answer
from leap.records.files import JsonlAppender, read_jsonl, remove_torn_line
from leap.records.review import StoredAnswer


class AnswerStore:
    """A JSONL file of answers, from `with` to its end. An answer is on disk when `add` returns; a failure is not kept.

    Without `reuse` the file is only added to, and a newer answer takes the place of an older one.
    """

    def __init__(self, path: Path, reuse: bool = True) -> None:
        self._path, self._reuse = path, reuse
        self._found: dict[str, StoredAnswer] = {}

    def __enter__(self) -> "AnswerStore":
        remove_torn_line(self._path)
        if self._reuse and self._path.is_file() and self._path.stat().st_size > 0:
            self._found = {record.key: record for _, record in read_jsonl(self._path, StoredAnswer)}
        self._file = JsonlAppender(self._path)
        self._file.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def get(self, key: str) -> StoredAnswer | None:
        return self._found.get(key)

    def add(self, key: str, answer: Answer) -> None:
        if answer.error is None:
            record = StoredAnswer(
                key=key,
                text=answer.text or "",
                finish=answer.finish,
                prompt_tokens=answer.prompt_tokens,
                new_tokens=answer.new_tokens,
            )
            self._found[key] = record
            self._file.append(record)


def content_key(*parts: Any) -> str:
    """sha256 of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
