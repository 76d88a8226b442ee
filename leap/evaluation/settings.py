"""What an evaluation runs with: everything that decides its numbers, in one value that the manifest keeps."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from leap.data.pictures import PictureSize
from leap.inference.protocol import Decoding
from leap.vlabench.prompts import Instructions
from leap.vlabench.sources import LEAP_SCORER, Scorer

PictureControl = Literal["none", "swapped", "blank"]


@dataclass(frozen=True)
class EvaluationSettings:
    """One setting for every model that is compared."""

    data: Path
    instructions: Instructions
    pictures: PictureSize
    decoding: Decoding
    max_tasks: int | None = None
    num_episodes: int | None = None
    picture_control: PictureControl = "none"
    scorer: Scorer = LEAP_SCORER  # not part of to_dict(): other scores of the same answers need no new answers

    def to_dict(self) -> dict[str, Any]:
        """What must be equal for stored answers to be used again (a larger part of the data may be added)."""
        return {
            "prompt": {
                "source": self.instructions.source,
                "language": self.instructions.language,
                "sha256": self.instructions.sha256,
            },
            "picture_tokens": [self.pictures.min_tokens, self.pictures.max_tokens],
            "picture_control": self.picture_control,
            "decoding": self.decoding.to_dict(),
        }


@dataclass(frozen=True)
class EvaluatedModel:
    """A model under the name that its results have."""

    name: str
    folder: Path
    weights: str  # sha256


def controlled_name(name: str, control: PictureControl) -> str:
    """A picture control is a model of its own in the results."""
    return name if control == "none" else f"{name}_{control}"
