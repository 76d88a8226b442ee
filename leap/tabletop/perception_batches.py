"""Packed batches of questions about a bank's scenes, made in the data loader's workers from seeds alone.

A sample is a conversation about one scene under numbers of its own: the numbered image, or the plain one before it, and
one to three questions. Every response is learned; pixels are not in a batch, which says what is to be shown instead.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from leap.data.chat_encoding import IGNORED
from leap.data.dataset import Sample
from leap.data.packing import PackedCollator, PackedLayout
from leap.tabletop.perception import Question, ask, renumbered
from leap.tabletop.scene import Scene
from leap.tabletop.scene_bank import CELLS, SceneBank
from leap.tabletop.tasks.episode import MAX_OBJECTS
from leap.tabletop.tiny_model import IMAGE, TURN_END, TURN_START, VISION_END, VISION_START

IMAGE_TOKENS = CELLS * CELLS
# How often each sort is asked: long responses teach most a token of image, short ones are what a plan will need.
WEIGHTS = {"list": 4.0, "numbers": 6.0, "number": 2.0, "object": 1.0, "category": 0.5, "members": 1.0, "colour": 0.5,
           "coloured": 1.0, "order": 4.0, "furthest": 3.0, "beside": 3.0, "closest": 4.0, "facts": 1.0, "fact": 3.0,
           "ranked": 6.0}  # fmt: skip
# What stands before the images, nothing as a rule: a request of the benchmark has long instructions there.
_LEADS = (
    *("",) * 6,
    "A robot stands at this table. ",
    "Here is a table, seen by four cameras. ",
    "You look at a table through four cameras: over the robot's shoulder, from its left, from its right and from "
    "above. Every object may carry a number from 1 to 8. Answer briefly, and only about what stands there. ",
    "Somebody has numbered what lies on a table. The numbers are white on dark discs; where a disc had to move aside, "
    'a line leads to its object. Lists are written like this: [4, 2] or {"first": 4, "second": 2}. Left and right are '
    "meant as the robot sees them. ",
)
_PLAIN = ("", "Plain:", "The table:")
_NUMBERED = ("", "Numbered:", "The same with numbers:")
_MOST_QUESTIONS = 3
_LONGEST = 1024  # tokens of a sample, more than any has


@dataclass(frozen=True)
class Conversation:
    """What is said about a scene: `before` the plain image (None: it is not shown), `between` and the numbered one."""

    before: str | None
    between: str
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Shown:
    """A sample's scene in the bank, the number of each slot and where it stands (x, y in metres); a grey image in place
    of all with GREY_IMAGE."""

    scene: int
    numbers: tuple[int, ...]
    spots: tuple[tuple[float, float], ...] = ()


class Writer:
    """Conversations to ids and labels, as `ChatFormat` would encode them, but with every response learned."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._start, self._vision_start, self._image, self._vision_end, self._end = tokenizer.convert_tokens_to_ids(
            [TURN_START, VISION_START, IMAGE, VISION_END, TURN_END]
        )
        self.image_token_id: int = self._image
        self._asked, self._line = self._ids(["assistant\n", "\n"])
        self._image_ids = [self._vision_start, *[self._image] * IMAGE_TOKENS, self._vision_end]

    def encode(self, conversations: Sequence[Conversation]) -> list[tuple[list[int], list[int]]]:
        """(input ids, labels) of each."""
        texts: list[str] = []
        for each in conversations:
            texts += [f"user\n{each.before or ''}", each.between] if each.before is not None else []
            texts += [] if each.before is not None else [f"user\n{each.between}"]
            for place, question in enumerate(each.questions):
                texts += [question.text if place == 0 else f"user\n{question.text}", question.answer]
        ids = iter(self._ids(texts))
        return [self._sample(each, ids) for each in conversations]

    def _sample(self, conversation: Conversation, ids: Any) -> tuple[list[int], list[int]]:
        prompt = [self._start, *next(ids), *self._image_ids]
        if conversation.before is not None:
            prompt += [*next(ids), *self._image_ids]
        input_ids, labels = prompt, [IGNORED] * len(prompt)
        for place in range(len(conversation.questions)):
            opened = [*self._line, self._start] if place else []
            asked = [*opened, *next(ids), self._end, *self._line, self._start, *self._asked]
            answer = [*next(ids), self._end]
            input_ids += asked + answer
            labels += [IGNORED] * len(asked) + answer
        return input_ids, labels

    def _ids(self, texts: list[str]) -> list[list[int]]:
        found: list[list[int]] = self._tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        return found


class Collator:
    """Conversations and what they show to one batch for `pretraining.install`'s forward."""

    def __init__(self, config: Any, writer: Writer) -> None:
        vision = config.vision_config
        patches = IMAGE_TOKENS * vision.spatial_merge_size**2
        self._side = CELLS * vision.spatial_merge_size
        self._writer = writer
        self._collate = PackedCollator(
            PackedLayout(
                merge=vision.spatial_merge_size,
                grid_side=int(vision.num_position_embeddings**0.5),
                patch_shape=(vision.in_channels, vision.patch_size**2),
                image_token_id=config.image_token_id,
                longest_sample=_LONGEST,
                largest_image=patches,
                equal_images=patches,
                dummy_image=False,
            )
        )

    def __call__(self, shown: Sequence[Shown], conversations: Sequence[Conversation]) -> dict[str, Any]:
        samples, scenes, numbers, spots = [], [], [], []
        for sight, each, (ids, labels) in zip(shown, conversations, self._writer.encode(conversations), strict=True):
            images = 1 if each.before is None else 2
            grid = torch.tensor([[1, self._side, self._side]] * images)
            samples.append(Sample(ids, labels, None, grid))
            plain = [(0,) * MAX_OBJECTS] * (images - 1)
            numbers += [*plain, (*sight.numbers, *[0] * (MAX_OBJECTS - len(sight.numbers)))]
            scenes += [sight.scene] * images
            spots += [(*sight.spots, *[(0.0, 0.0)] * (MAX_OBJECTS - len(sight.spots)))] * images
        batch = self._collate(samples)
        del batch["pixels"]
        return {
            **batch,
            "pixels_index": (batch["input_ids"] == self._writer.image_token_id).nonzero().squeeze(1),
            "scenes": torch.tensor(scenes),
            "numbers": torch.tensor(numbers, dtype=torch.uint8),
            "spots": torch.tensor(spots),
        }


@dataclass(frozen=True)
class PerceptionPlan:
    """As `BatchPlan`: one micro-batch of `samples` a step and rank; nothing is repeated, so an epoch is the run."""

    steps: int
    samples: int
    micro_batches: int = 1

    @property
    def steps_per_epoch(self) -> int:
        return self.steps

    def samples_before(self, step: int) -> int:
        return step * self.samples


@dataclass(frozen=True)
class PerceptionBatches(Dataset):
    """A rank's micro-batches of a whole run, as `MicroBatches`: every one follows from seed, step and rank."""

    plan: PerceptionPlan
    bank: SceneBank
    collate: Collator
    seed: int
    rank: int = 0
    ranks: int = 1

    def __len__(self) -> int:
        return self.plan.steps

    def __getitem__(self, step: int) -> dict[str, Any]:
        if step >= len(self):
            raise IndexError(step)
        rng = random.Random(f"{self.seed}/{self.rank}/{step}")
        drawn = [_draw_sample(self.bank, rng) for _ in range(self.plan.samples // self.ranks)]
        batch = self.collate([shown for shown, _ in drawn], [said for _, said in drawn])
        # Ranks have nearly as many label tokens as each other; to count them all, each would make all batches.
        labels = len(batch["targets"]) * self.ranks
        return {**batch, "sample_indices": [step], "step_label_tokens": labels}

    def place(self, row: int) -> str:
        return f"the batch of step {row + 1}"

    def halves(self, rows: list[int]) -> list[list[int]]:
        return [rows]


def _draw_sample(bank: SceneBank, rng: random.Random) -> tuple[Shown, Conversation]:
    index = int(bank.indices[rng.randrange(bank.count)])
    scene = renumbered(bank.scene(index), rng)
    sorts = rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=rng.randint(1, _MOST_QUESTIONS))
    questions = [question for sort in dict.fromkeys(sorts) if (question := ask(sort, scene, rng))]
    questions = questions or [ask_always(scene, rng)]
    before, between = None, rng.choice(_NUMBERED)
    if rng.random() < 0.5:
        before = rng.choice(_LEADS) + rng.choice(_PLAIN)
    else:
        between = rng.choice(_LEADS) + between
    spots = tuple((placed.x, placed.y) for placed in scene.objects)
    return Shown(index, numbers_of(scene), spots), Conversation(before, between, tuple(questions))


def ask_always(scene: Scene, rng: random.Random) -> Question:
    """A question that every scene gives ground for."""
    question = ask("number", scene, rng)
    assert question is not None
    return question


def numbers_of(scene: Scene) -> tuple[int, ...]:
    """By slot."""
    return tuple(placed.number for placed in scene.objects)
