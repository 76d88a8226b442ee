"""What a base model sees: questions about validation scenes, with their own images, other ones, and none."""

import random
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leap.data.image import ImageEncoder
from leap.models.loading import load_model, load_processor
from leap.tabletop.numbering import GREY_IMAGE, NumberedImages
from leap.tabletop.perception import SORTS, Question, ask, renumbered
from leap.tabletop.perception_batches import Collator, Conversation, Shown, Writer, numbers_of
from leap.tabletop.scene_bank import SceneBank
from leap.tabletop.sight import Sight
from leap.tabletop.tiny_model import IMAGE_SIZE

_AT_ONCE = 128  # questions in a batch


@dataclass(frozen=True)
class Exam:
    """One question of each sort for each validation scene, with both images."""

    shown: tuple[Shown, ...]
    questions: tuple[Question, ...]

    def conversations(self) -> list[Conversation]:
        return [Conversation("", "", (question,)) for question in self.questions]

    def swapped(self) -> list[Shown]:
        """Each question with the next scene's images, under that one's numbers."""
        places = list(dict.fromkeys(self.shown))
        after = dict(zip(places, [*places[1:], places[0]], strict=True))
        return [after[sight] for sight in self.shown]

    def blank(self) -> list[Shown]:
        return [Shown(GREY_IMAGE, ())] * len(self.shown)


def make_exam(bank: SceneBank, seed: int) -> Exam:
    shown, questions = [], []
    for index in bank.indices.tolist():
        rng = random.Random(f"{seed}/exam/{index}")
        scene = renumbered(bank.scene(index), rng)
        for sort in SORTS:
            if question := ask(sort, scene, rng):
                shown.append(Shown(index, numbers_of(scene)))
                questions.append(question)
    return Exam(tuple(shown), tuple(questions))


def examine(folder: Path, bank: SceneBank, seed: int) -> dict[str, Any]:
    """By condition and sort of question: how many, the share with the whole response right, and that of its tokens.

    Teacher-forced: a response of which every token is the most likely one is what greedy decoding writes. The model is
    the one that is saved in `folder`; a GPU, where there is one, computes in bfloat16.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    processor = load_processor(folder)
    model = load_model(folder, "float32", attention=None).to(device).eval()
    sight = Sight(model, ImageEncoder(processor, IMAGE_SIZE), NumberedImages(bank, device), compiled=False)
    collate, exam = Collator(model.config, Writer(processor.tokenizer)), make_exam(bank, seed)
    conditions = {"own images": exam.shown, "another scene's": exam.swapped(), "blank": exam.blank()}
    return {name: _shares(sight, exam, shown, collate) for name, shown in conditions.items()}


@torch.no_grad()
def _shares(sight: Sight, exam: Exam, shown: Sequence[Shown], collate: Collator) -> dict[str, Any]:
    found: dict[str, list[tuple[bool, float]]] = {}
    for part in _right(sight, exam, shown, collate):
        question = exam.questions[sum(map(len, found.values()))]
        found.setdefault(question.sort, []).append((bool(part.all()), float(part.float().mean())))
    return {
        sort: {"questions": len(of), "right": fmean(all_ for all_, _ in of), "tokens": fmean(share for _, share in of)}
        for sort, of in found.items()
    }


def _right(sight: Sight, exam: Exam, shown: Sequence[Shown], collate: Collator) -> Iterator[Tensor]:
    """For each question, in order, which of its response's tokens are right: bool [tokens]."""
    device = sight.device
    mixed: Any = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
    said = exam.conversations()
    for start in range(0, len(said), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        batch = collate(shown[part], said[part])
        del batch["spots"]
        labels = np.diff(np.searchsorted(batch["label_index"], batch["ends"])).tolist()
        values = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
        with sight.asked_for_right(), mixed:
            right = sight.packed(values.pop("scenes"), values.pop("numbers"), values)
        yield from right.cpu().split(labels)
