"""A reward of the user's own: one function in one file."""

import hashlib
import math
import runpy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leap.errors import LeapError, UsageError, first_line
from leap.records.files import is_file
from leap.records.paths import find_path

EXAMPLE = "def reward(response: str, reference: list[dict]) -> float"


@dataclass(frozen=True)
class OwnReward:
    """`FILE.py:FUNCTION`, a function of a response's text and the prompt's reference plan to a number, or None where it
    has nothing to say of a response."""

    name: str  # as it was given
    function: Callable[[str, Sequence[Any]], Any]
    fingerprint: str  # sha256 of the file

    def __call__(self, response: str, reference: Sequence[Any]) -> float | None:
        """Raises LeapError where the function fails or gives no finite number: a failure is never a score."""
        try:
            value = self.function(response, reference)
        except Exception as error:  # whatever the user's code raises ends the run, with its place
            raise LeapError(f"{self.name}: it fails ({type(error).__name__}: {first_line(error)})") from error
        if value is None:
            return None
        if isinstance(value, bool | int | float) and math.isfinite(value):
            return float(value)
        raise LeapError(f"{self.name}: a finite number or None is expected, found {value!r}")


def read_own_reward(given: str, root: Path) -> OwnReward:
    """Run the file and take its function. Relative paths start at the current folder or `root`. Raises UsageError where
    there is none, LeapError where the file fails."""
    file, _, name = given.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise UsageError(f"--reward_file {given}: FILE.py:FUNCTION is expected, the function being {EXAMPLE}")
    path = find_path(file, root)
    if not is_file(path):
        raise UsageError(f"--reward_file {given}: {path}: there is no such file")
    try:
        found = runpy.run_path(str(path)).get(name)
    except Exception as error:
        raise LeapError(f"{path}: it fails ({type(error).__name__}: {first_line(error)})") from error
    if not callable(found):
        raise UsageError(f"--reward_file {given}: {path} has no function {name}; one is expected such as {EXAMPLE}")
    return OwnReward(given, found, hashlib.sha256(path.read_bytes()).hexdigest())
