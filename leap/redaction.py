"""What must never be shown or stored: keys, tokens and passwords, hidden in everything that LEAP prints or writes.

Known are what the environment's variables for them hold, what the command line gives as one, passwords in addresses,
and what `keep_hidden` was given. `leap.cli` puts both output streams behind `hide`, `leap.records.files` what is
written, LeapError its own text.
"""

import base64
import html
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any, TextIO, cast
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "[hidden]"
_SECRET_VARIABLE = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE)$", re.IGNORECASE)
_SECRET_FLAG = re.compile(r"--?(?:[\w-]*[-_])?(?:key|token|secret|password|passwd|passphrase)", re.IGNORECASE)
_IN_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://([^/?#\s\"'<>\\]+)@", re.IGNORECASE)  # user and password
_SHORTEST = 6  # characters: less is no secret, and hiding it would hide half of every text
_given: set[str] = set()


def keep_hidden(*values: str | None) -> None:
    """These are secrets too, from now on and as long as this process lives."""
    _given.update(value for value in values if value and _is_secret(value))


def hide(text: str) -> str:
    """The text without any secret, as it stands or as addresses, JSON, HTML and HTTP's headers spell it."""
    pattern = _pattern(frozenset(_secrets()))
    return pattern.sub(HIDDEN, text) if pattern else text


def hide_all(value: Any) -> Any:
    """A JSON value with all its texts hidden, keys included."""
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, Mapping):
        return {hide_all(key): hide_all(part) for key, part in value.items()}
    return [hide_all(part) for part in value] if isinstance(value, list | tuple) else value


def _secrets() -> Iterator[str]:
    yield from _given
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name) and _is_secret(value.strip()):
            yield value.strip()
        yield from _in_addresses(value)
    yield from _on_command_line(tuple(sys.argv[1:]))


def _is_secret(value: str) -> bool:
    """Not so a word alone (EMPTY, ollama), which local servers take for a key, and a path to one."""
    return len(value) >= _SHORTEST and not value.isalpha() and not value.startswith(("/", "~", "."))


@lru_cache(maxsize=8)
def _on_command_line(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Values of flags that are named as secrets, those within another program's flags included."""
    words = [word for argument in arguments for word in (argument, *(argument.split() if " " in argument else ()))]
    found = [secret for word in words for secret in _in_addresses(word)]
    for word, following in pairwise([*words, ""]):
        flag, equals, value = word.partition("=")
        value = value if equals else following
        if _SECRET_FLAG.fullmatch(flag) and _is_secret(value):
            found.append(value)
    return tuple(found)


def _in_addresses(text: str) -> Iterator[str]:
    """User and password of each address as they stand there, and the password alone."""
    if "@" not in text:
        return
    for match in _IN_ADDRESS.finditer(text):
        user, colon, password = match[1].partition(":")
        if colon or _is_secret(user):  # a user's name alone may be a token; "git@" is none
            yield f"{match[1]}@"
            yield from (found for found in (password, unquote(password)) if _is_secret(found))
            yield base64.b64encode(unquote(match[1]).encode()).decode()


@lru_cache(maxsize=8)
def _pattern(secrets: frozenset[str]) -> re.Pattern[str] | None:
    spellings = {spelling for secret in secrets for spelling in _spellings(secret)}
    # The longest first: a secret may begin with another.
    words = sorted((spelling for spelling in spellings if spelling), key=lambda word: (-len(word), word))
    return re.compile("|".join(map(re.escape, words)), re.IGNORECASE) if words else None


def _spellings(secret: str) -> Iterable[str]:
    return {
        secret,
        quote(secret, safe=""),
        quote_plus(secret),
        html.escape(secret),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        base64.b64encode(secret.encode(errors="replace")).decode().rstrip("="),
    }


class HidingStream:
    """A text stream that shows no secret; in all else it is the stream that it was made of."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(hide(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream)


def hiding(stream: TextIO) -> TextIO:
    """The stream behind `hide`; itself where it is so already."""
    return stream if isinstance(stream, HidingStream) else cast(TextIO, HidingStream(stream))
