"""Whose scorer and whose prompt: LEAP's own, or the benchmark's from its submodule."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from leap.errors import LeapError
from leap.vlabench.prompts import Instructions, Language, leap_instructions
from leap.vlabench.scoring import official_scores
from leap.vlabench.upstream import COMMIT, Upstream, find_upstream

Source = Literal["auto", "leap", "vlabench"]
SOURCES: tuple[Source, ...] = ("auto", "leap", "vlabench")


@dataclass(frozen=True)
class Scorer:
    """The official five scores of a plan, and who computes them."""

    name: str
    commit: str | None  # of VLABench: the one checked out, or the one whose rules LEAP's own scorer follows
    official: Callable[[Any, Any, Any], dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return {"name": self.name, "vlabench": self.commit}


LEAP_SCORER = Scorer("leap", COMMIT, official_scores)


def choose_scorer(source: Source, checkout: Path) -> Scorer:
    """`auto` takes the submodule's where it is checked out; both agree to the last bit on the golden vectors."""
    upstream = _upstream(source, checkout, "--scorer")
    return LEAP_SCORER if upstream is None else Scorer("vlabench", upstream.commit, upstream.official_scores)


def choose_instructions(source: Source, checkout: Path, language: Language = "en") -> Instructions:
    """`auto` takes the submodule's prompt where it is checked out; the wordings differ, and the manifest says which."""
    upstream = _upstream(source, checkout, "--prompt")
    return leap_instructions(language) if upstream is None else upstream.instructions(language)


def chosen_sources(instructions: Instructions, scorer: Scorer) -> str:
    """What `auto` came to, for the start of a command."""
    own = "LEAP's own, so that no score compares with VLABench's published tables (--prompt vlabench)"
    prompt = own if instructions.source == "leap" else "VLABench's"
    by = "LEAP's, equal to VLABench's" if scorer.name == "leap" else "VLABench's"
    return f"prompt: {prompt}\nscorer: {by}"


def _upstream(source: Source, checkout: Path, flag: str) -> Upstream | None:
    if source == "leap":
        return None
    upstream = find_upstream(checkout)
    if upstream is None and source == "vlabench":
        raise LeapError(f"{flag} vlabench: {checkout} is not checked out; git submodule update --init VLABench")
    return upstream
