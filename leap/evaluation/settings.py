"""What an evaluation runs with: everything that decides its numbers, in one value that the manifest keeps."""

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from leap.data.image import ImageSize
from leap.inference.protocol import Decoding
from leap.vlabench.prompts import Instructions
from leap.vlabench.sources import LEAP_SCORER, Scorer

ImageControl = Literal["none", "swapped", "blank", "absent"]
ShotFormat = Literal["fenced", "upstream"]


@dataclass(frozen=True)
class FewShot:
    """How many solved examples a request shows, how their answers are written, and the seed that draws them."""

    number: int = 0
    format: ShotFormat = "fenced"  # as the parser wants answers; upstream shows the bare JSON object
    seed: int = 0


@dataclass(frozen=True)
class EvaluationSettings:
    """One setting for every model that is compared."""

    data: Path
    instructions: Instructions
    images: ImageSize
    decoding: Decoding
    max_tasks: int | None = None
    num_episodes: int | None = None
    repeats: int = 1  # sampled responses to each example
    engine: str = "hf"
    dtype: str | None = "float32"  # None: a server decides it
    quantization: str | None = None
    engine_arguments: tuple[str, ...] = ()  # the engine's own flags, which win over all above
    image_control: ImageControl = "none"
    few_shot: FewShot = FewShot()
    with_cot: bool = False
    # Not part of to_dict(): other scores or prices of the same answers need no new answers.
    scorer: Scorer = LEAP_SCORER
    prices: tuple[float | None, float | None] = (None, None)  # USD per million tokens of prompts and of answers
    image_size_source: str = "given"  # who chose `images`

    def to_dict(self) -> dict[str, Any]:
        """What must be equal for stored answers to be used again (a larger part of the data, and repeats, may be
        added)."""
        return {
            "prompt": {
                "source": self.instructions.source,
                "language": self.instructions.language,
                "sha256": self.instructions.sha256,
            },
            "image_tokens": [self.images.min_tokens, self.images.max_tokens],
            "engine": self.engine,
            "dtype": self.dtype,
            "quantization": self.quantization,
            **({"engine_arguments": list(self.engine_arguments)} if self.engine_arguments else {}),
            "image_control": self.image_control,
            "few_shot": asdict(self.few_shot) if self.few_shot.number else None,
            "with_cot": self.with_cot,
            "decoding": self.decoding.to_dict(),
        }


@dataclass(frozen=True)
class EvaluatedModel:
    """A model under the name that its results have: in a folder, or at a server."""

    name: str
    folder: Path | None = None
    base: Path | None = None  # of an adapter
    weights: str | None = None  # sha256; None where a server keeps them
    endpoint: str | None = None  # the server's address and its name for the model
    # sha256 of the configs, tokenizer, chat template and processor, by name; None where a server keeps them
    files: dict[str, str] | None = field(default=None, hash=False)

    def to_dict(self) -> dict[str, Any]:
        """What must be equal for stored answers to be used again."""
        files = {} if self.files is None else {"files": self.files}
        return {"name": self.name, "weights": self.weights, **files, "endpoint": self.endpoint}


def variant_name(name: str, settings: EvaluationSettings) -> str:
    """A model asked in another way is a model of its own in the results: NAME_1shot_CoT_zh_T0.7_swapped."""
    parts = {
        f"{settings.few_shot.number}shot": settings.few_shot.number > 0,
        "upstream-shots": settings.few_shot.number > 0 and settings.few_shot.format == "upstream",
        "CoT": settings.with_cot,
        settings.instructions.language: settings.instructions.language != "en",
        f"T{settings.decoding.temperature:g}": settings.decoding.temperature > 0,
        settings.image_control: settings.image_control != "none",
        str(settings.quantization): settings.quantization is not None,
    }
    return "_".join([name, *(part for part, used in parts.items() if used)])


def without_control(model: str) -> tuple[str, str]:
    """(the name without its image control, the control); (the name, "") where there is none."""
    controls = "|".join(control for control in get_args(ImageControl) if control != "none")
    match = re.fullmatch(rf"(.+)_({controls})((?:_[48]bit)?)", model)
    return (match[1] + match[3], match[2]) if match else (model, "")
