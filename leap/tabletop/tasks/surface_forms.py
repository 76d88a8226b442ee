"""Many surface forms from few templates.

Templates and their marks are those of `leap.preparation.build.phrasing`.

Wording held out for evaluation: of every list of templates, the third, sixth, ninth … are reserved. With
`phrasing="train"` they are never drawn; with `phrasing="eval"` all are drawn alike, so about a third of the
evaluation's frames and descriptions are ones that training never showed. A template that is appended never moves an
older one across that line.
"""

import random
from collections.abc import Sequence

from leap.errors import LeapError
from leap.tabletop.catalogue import KINDS

PHRASINGS = ("train", "eval")
_FLAT_CONTAINERS = ("plate", "tray", "card_mat")


def templates_for(templates: Sequence[str], phrasing: str) -> tuple[str, ...]:
    """The templates that may be drawn: all of them for "eval", without every third for "train"."""
    if phrasing not in PHRASINGS:
        raise LeapError(f"no phrasing {phrasing!r}; there are {', '.join(PHRASINGS)}")
    return tuple(text for place, text in enumerate(templates) if phrasing == "eval" or place % 3 != 2)


def choose(templates: Sequence[str], phrasing: str, rng: random.Random) -> str:
    return rng.choice(templates_for(templates, phrasing))


def the(kind: str) -> str:
    return f"the {KINDS[kind].noun}"


def called(kind: str) -> str:
    """What a direct request calls it: "the can of cola" or "the cola"; always "the salt", as nobody pours a shaker."""
    short = f"the {kind.replace('_', ' ')}"
    if KINDS[kind].category in ("drink", "tube"):
        return f"[{the(kind)}|{short}]"
    return short if KINDS[kind].category in ("condiment", "block") else the(kind)


def pronoun(kind: str) -> str:
    return "them" if kind == "grapes" else "it"


def inside(kind: str) -> str:
    """Where something comes to rest: "in the basket", "on the plate"."""
    return f"{'on' if kind in _FLAT_CONTAINERS else 'in'} {the(kind)}"


def into(kind: str) -> str:
    """Where something goes: "into the basket", "onto the plate"."""
    return f"{'onto' if kind in _FLAT_CONTAINERS else 'into'} {the(kind)}"


def listing(names: Sequence[str]) -> str:
    """ "the apple, the pear and the lemon"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
