"""Whether the libraries that are installed are ones that LEAP works with. pip sees to it, unless it was told not to."""

from functools import cache
from importlib.metadata import version

from leap.errors import LeapError

# The oldest releases that LEAP was tested with, all of them together; pyproject.toml asks pip for the same.
# torch 2.10's variable-length attention takes no scale; transformers refuses an older PEFT, with a traceback.
OLDEST = {"torch": "2.11", "transformers": "5.17", "accelerate": "1.10", "peft": "0.20"}


@cache
def refuse_old_libraries() -> None:
    """Raises LeapError, naming the first that is too old. Reads their metadata alone, and imports none of them."""
    for name, oldest in OLDEST.items():
        refuse_old(name, version(name), oldest)


def refuse_old(name: str, installed: str, oldest: str) -> None:
    """Releases are compared without what a distributor adds: 2.11.0a0+vendor is a 2.11."""
    from packaging.version import Version

    if Version(installed).release < Version(oldest).release:
        raise LeapError(
            f"{name} {installed} is installed, and LEAP needs {oldest} or newer: pip install -c constraints.txt -e ."
        )
