"""VLABench's six VLM dimensions: one canonical name each, any known spelling accepted."""

from collections.abc import Sequence
from dataclasses import dataclass

from leap.errors import UsageError


@dataclass(frozen=True)
class Dimension:
    """`folder` is its name in the data set on the Hub; `spellings` are met in papers, seeds and older results."""

    name: str
    folder: str
    spellings: tuple[str, ...] = ()


# "M&T" is "mesh and texture" upstream and "Memory & Tasks" in LEAP's first papers.
DIMENSIONS = (
    Dimension("M&T", "M&T", ("MT", "M_T", "M and T", "Memory & Tasks", "Mesh & Texture", "mesh and texture")),
    Dimension("CommonSense", "CommenSence", ("CommenSense", "CommonSence", "Common Sense")),
    Dimension("Semantic", "Semantic", ("Semantics",)),
    Dimension("Spatial", "Spatial"),
    Dimension("PhysicsLaw", "PhysicsLaw", ("PhysicalLaw", "Physics Law", "Physical Law", "Physics")),
    Dimension("Complex", "Complex"),
)
NAMES = tuple(dimension.name for dimension in DIMENSIONS)


def _folded(spelling: str) -> str:
    return "".join(character for character in spelling.casefold() if character.isalnum() or character == "&")


_BY_SPELLING = {
    _folded(spelling): dimension
    for dimension in DIMENSIONS
    for spelling in (dimension.name, dimension.folder, *dimension.spellings)
}


def find_dimension(spelling: str) -> Dimension:
    """The dimension that any known spelling means; case, spaces and punctuation do not matter."""
    found = _BY_SPELLING.get(_folded(spelling))
    if found is None:
        raise UsageError(f"unknown dimension {spelling!r}; choose from {', '.join(NAMES)}, or all")
    return found


def find_dimensions(spellings: Sequence[str]) -> tuple[Dimension, ...]:
    """Several spellings, or "all"; the benchmark's order, each dimension once."""
    wanted = {find_dimension(spelling).name for spelling in spellings if spelling.casefold() != "all"}
    if len(wanted) == 0 or any(spelling.casefold() == "all" for spelling in spellings):
        return DIMENSIONS
    return tuple(dimension for dimension in DIMENSIONS if dimension.name in wanted)
