"""What a hub of tests/servers/hub.py holds, and what goes wrong with it."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Stored:
    """A repository. Files of at least `lfs_from` bytes are in large-file storage, `xet` of them in Xet too."""

    name: str
    kind: str
    files: dict[str, bytes]
    sizes: Mapping[str, int] = field(default_factory=dict)  # what the listing says in place of the truth
    lfs_from: int = 1000
    xet: Mapping[str, str] = field(default_factory=dict)  # path -> Xet's hash
    xet_storage: str = ""
    refuses: tuple[int, str] | None = None  # every request: a status, and the hub's word for it
    private: bool = False

    @property
    def commit(self) -> str:
        names = json.dumps({path: hashlib.sha1(content).hexdigest() for path, content in sorted(self.files.items())})
        return hashlib.sha1(names.encode()).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        content, size = self.files[path], self.sizes.get(path, len(self.files[path]))
        blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        entry: dict[str, Any] = {"type": "file", "path": path, "size": size, "oid": blob}
        if len(content) >= self.lfs_from:
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 130}
        return entry | ({"xetHash": self.xet[path]} if path in self.xet else {})

    def entries(self) -> list[dict[str, Any]]:
        folders = {path.rpartition("/")[0] for path in self.files} - {""}
        made = [{"type": "directory", "path": folder, "size": 0, "oid": "0" * 40} for folder in sorted(folders)]
        return made + [self.entry(path) for path in self.files]


@dataclass(frozen=True)
class Fault:
    """What happens in place of a right answer."""

    name: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None  # bytes of the body, then the connection closes
    wrong: bool = False  # another byte in the middle
    whole: bool = False  # a Range is overlooked
    slow: float = 0.0  # seconds before each piece of `step` bytes
    step: int = 64


def limited(headers: Mapping[str, str]) -> Fault:
    return Fault("429", 429, headers)


UNAVAILABLE, WRONG, WHOLE = Fault("503", 503), Fault("wrong", wrong=True), Fault("whole", whole=True)


def cut(after: int) -> Fault:
    return Fault(f"cut after {after}", cut_after=after)


@dataclass(frozen=True)
class Seen:
    """A request: of a file's content ("file"), a listing ("list"), an upload, a commit or anything else ("other")."""

    what: str
    path: str
    attempt: int  # from 0, for the same path
    start: int  # of the Range
    token: str | None
    arrived: float  # time.monotonic()


Plan = Callable[[Seen], Fault | None]


def faultless(seen: Seen) -> None:
    return None


def by_path(faults: Mapping[str, Sequence[Fault]]) -> Plan:
    """The faults of each path's first attempts; "list" is the listing's."""

    def plan(seen: Seen) -> Fault | None:
        mine = faults.get(seen.path if seen.what == "file" else seen.what, ())
        return mine[seen.attempt] if seen.attempt < len(mine) else None

    return plan
