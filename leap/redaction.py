"""What must never be shown or stored: keys, tokens and passwords, hidden in everything that LEAP prints or writes.

Known are what the environment's variables for them hold, what the command line gives as one, passwords in addresses,
and what `keep_hidden` was given. `leap.cli` puts both output streams behind `hide`, `leap.records` what is written,
LeapError its own text.
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
from typing import Any, TextIO
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "[hidden]"
_WORDS = r"(?:api|access)?(?:key|token)|secret|pass(?:word|wd|phrase)?|pwd|pat|credential"
# HF_TOKEN, MY_API_KEYS_2, DB_PASS: of variables, and of what stands in an address's query.
_SECRET_NAME = re.compile(rf"(?:^|[_-])(?:(?:{_WORDS})s?|auth|authorization|sig|signature)(?=[_-]|\d*$)", re.IGNORECASE)
_SECRET_FLAG = re.compile(rf"--?(?:[\w-]*[-_])?(?:{_WORDS})", re.IGNORECASE)
_IN_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://([^/?#\s\"'<>\\]+)@", re.IGNORECASE)  # user and password
_IN_QUERY = re.compile(r"[?&]([\w.-]+)=([^&#\s\"'<>]+)")
_SHORTEST = 6  # characters: less is no secret, and hiding it would hide half of every text
_SHORTEST_WORD, _SHORTEST_NUMBER = 12, 8  # of letters or digits alone: shorter ones stand in texts and JSON anyway
_given: set[str] = set()


def keep_hidden(*values: str | None) -> None:
    """These are secrets too, from now on and as long as this process lives."""
    _given.update(value for value in values if value and _may_be_secret(value))


def hide(text: str) -> str:
    """The text without any secret, as it stands or as addresses, JSON, HTML and HTTP's headers spell it."""
    hidden: str = hide_all(text)
    return hidden


def hide_all(value: Any) -> Any:
    """A JSON value with all its texts hidden, keys included."""
    return _without(_pattern(frozenset(_secrets())), value)


def _without(secrets: re.Pattern[str] | None, value: Any) -> Any:
    if isinstance(value, str):
        return secrets.sub(HIDDEN, value) if secrets else value
    if isinstance(value, Mapping):
        return {_without(secrets, key): _without(secrets, part) for key, part in value.items()}
    return [_without(secrets, part) for part in value] if isinstance(value, list | tuple) else value


def _secrets() -> Iterator[str]:
    yield from _given
    for name, value in os.environ.items():
        yield from _in_variable(name, value)
    yield from _on_command_line(tuple(sys.argv[1:]))


@lru_cache(maxsize=512)
def _in_variable(name: str, value: str) -> tuple[str, ...]:
    proxy = name.lower().endswith("_proxy") and "://" not in value  # HOST:PORT will do for one
    found = list(_in_addresses(f"http://{value}" if proxy else value))
    if is_secret_name(name) and _is_secret(value.strip()):
        found.append(value.strip())
    return tuple(found)


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name holds a credential."""
    return bool(_SECRET_NAME.search(name))


def _is_secret(value: str) -> bool:
    """Not so the path to one, which variables and flags hold as well."""
    return _may_be_secret(value) and not _is_path(value)


def _is_path(value: str) -> bool:
    """A key may begin as a path does: then there is no such file, and no suffix."""
    if not value.startswith(("/", "~", ".")):
        return False
    return re.search(r"\.[a-z]{1,5}$", value) is not None or os.path.exists(os.path.expanduser(value))


def _may_be_secret(value: str) -> bool:
    """Not so a short word alone (EMPTY, ollama), which local servers take for a key, nor a number (MAX_TOKENS)."""
    least = _SHORTEST_WORD if value.isalpha() else _SHORTEST_NUMBER if value.isdigit() else _SHORTEST
    return len(value) >= least


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
    """User and password of each address as they stand there, the password alone, and secrets in its query."""
    if "://" not in text:
        return
    for match in _IN_ADDRESS.finditer(text):
        user, colon, password = match[1].partition(":")
        if colon or _is_secret(user):  # a user's name alone may be a token; "git@" is none
            yield f"{match[1]}@"
            alone = password if colon else user
            yield from (found for found in (alone, unquote(alone)) if len(found) >= _SHORTEST)
            yield base64.b64encode(unquote(match[1]).encode()).decode()
    for name, value in _IN_QUERY.findall(text):
        if is_secret_name(name):
            yield from (found for found in (value, unquote(value)) if _may_be_secret(found))


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
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(hide(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.stream)
