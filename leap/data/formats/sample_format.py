"""What every form of samples is: fields with their types, and the turns of a conversation that they mean."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from leap.data.formats.stored_images import ImageFolder, image_path
from leap.records.training import TrainingSample

FormatName = Literal["leap", "openai", "qwen", "messages", "sharegpt", "alpaca", "lerobot"]
LearnedTurns = Literal["all", "last"]
Role = Literal["system", "user", "assistant"]
Part = dict[str, Any]  # of a message's content, as TrainingSample has it; an image may still be bytes
_MARK = re.compile(r"(<image>|<video>|<audio>)")
_UNREAD = {
    "tools": "tool calls are not learned; leave `tools` and these turns out",
    "audio": "models here hear nothing; leave `audio` and its marks out",
    "audios": "models here hear nothing; leave `audios` and their marks out",
    "objects": "boxes are not written into the texts; write them there yourself and leave `objects` out",
}


@dataclass(frozen=True)
class Turn:
    """One message. An assistant's that is not `learned` is read as context only."""

    role: Role
    parts: list[Part]
    learned: bool = True


class SampleFormat(BaseModel, ABC):
    """A sample in one form: a subclass has its fields. Unknown keys are left aside: data sets carry notes."""

    model_config = ConfigDict(extra="ignore")
    name: ClassVar[FormatName]  # as --data_format gives it
    title: ClassVar[str]  # as people call it
    needs: ClassVar[tuple[str, ...]]  # the keys without which it is none
    example: ClassVar[dict[str, Any]]  # a right sample

    @classmethod
    def recognises(cls, record: Mapping[str, Any]) -> bool:
        """Whether a sample is written in this form."""
        return all(key in record for key in cls.needs)

    @classmethod
    def decides(cls, record: Mapping[str, Any]) -> bool:
        """Whether a recognised sample can be of no other form, so that none after it is looked at."""
        return True

    @abstractmethod
    def turns(self) -> list[Turn]:
        """The conversation. Raises ValueError for what cannot be meant."""

    @model_validator(mode="before")
    @classmethod
    def refuse_unread(cls, record: Any) -> Any:
        """What would change the text or the images, and is not read, is not passed over."""
        for key, reason in _UNREAD.items():
            if isinstance(record, dict) and record.get(key):
                raise ValueError(f"`{key}`: {reason}")
        return record


def to_sample(record: SampleFormat, learned: LearnedTurns, images: ImageFolder | None) -> TrainingSample:
    """The conversation as LEAP's sample: its last learned turn is the target, and what follows is left out.

    Nothing after the target can change its loss. Raises ValueError where there is nothing to learn.
    """
    turns = record.turns()
    if not turns or turns[-1].role != "assistant":
        raise ValueError(
            "the last turn is not the assistant's, so there is no response to learn (LEAP's own form has it in "
            "`target.steps`)"
        )
    wanted = [place for place, turn in enumerate(turns) if turn.role == "assistant" and turn.learned]
    if not wanted:
        raise ValueError("every turn of the assistant is marked as not to be learned; remove this sample")
    *earlier, last = wanted
    messages = [
        {
            "role": turn.role,
            "content": [_stored(part, images) for part in turn.parts],
            "learn": True if learned == "all" and place in earlier else None,
        }
        for place, turn in enumerate(turns[:last])
    ]
    name = getattr(record, "id", None)
    return TrainingSample.model_validate(
        {
            "id": name if isinstance(name, str | int) else None,
            "messages": messages,
            "target": {"steps": "".join(part.get("text", "") for part in turns[last].parts)},
        }
    )


def _stored(part: Part, images: ImageFolder | None) -> Part:
    return {**part, "image": image_path(part["image"], images)} if part["type"] == "image" else part


def text_parts(text: str) -> list[Part]:
    """A text as parts: none for an empty one."""
    return [{"type": "text", "text": text}] if text else []


def _listed(value: Any) -> Any:
    return [] if value is None else value if isinstance(value, list) else [value]


Listed = Annotated[list[Any], BeforeValidator(_listed)]  # one, several or none


class MarkedText(SampleFormat):
    """A form whose texts have marks, `<image>`, and whose images stand beside them, in the order of the marks."""

    image: Listed = []
    images: Listed = []
    video: Any = None  # a list of frames, or several such lists
    videos: Listed = []
    system: str | None = None

    def marked(self, turns: Sequence[Turn]) -> list[Turn]:
        """The turns with images at their marks. Raises ValueError where there are not as many of one as of the other.

        Texts stay as they are, with the line break behind a mark if there is one.
        """
        given: dict[str, Sequence[Any]] = {"<image>": [*self.image, *self.images], "<video>": self._videos()}
        found = [mark for turn in turns for part in turn.parts for mark in _MARK.findall(part.get("text", ""))]
        for mark, media in given.items():
            if found.count(mark) != len(media):
                what = mark.strip("<>")
                raise ValueError(
                    f"{found.count(mark)} {mark} mark(s) in the texts for {len(media)} {what}(s); "
                    f"write {mark} where each {what} is shown"
                )
        if "<audio>" in found:
            raise ValueError(f"<audio>: {_UNREAD['audio']}")
        left = {mark: iter(media) for mark, media in given.items()}
        system = [Turn("system", text_parts(self.system))] if self.system else []
        return [*system, *(Turn(turn.role, list(_at_marks(turn.parts, left)), turn.learned) for turn in turns)]

    def _videos(self) -> list[Any]:
        alone = isinstance(self.video, list) and not any(isinstance(one, list) for one in self.video)
        return [*([self.video] if alone else _listed(self.video)), *self.videos]


def _at_marks(parts: Sequence[Part], left: Mapping[str, Iterator[Any]]) -> Iterator[Part]:
    for part in parts:
        for piece in _MARK.split(part["text"]):
            if piece == "<image>":
                yield {"type": "image", "image": next(left[piece])}
            elif piece == "<video>":
                yield from video_parts(next(left[piece]))
            elif piece:
                yield {"type": "text", "text": piece}


def video_parts(video: Any) -> list[Part]:
    """A video's frames as images; a file stays a video, which is refused as such."""
    if isinstance(video, list):
        return [{"type": "image", "image": frame} for frame in video]
    return [{"type": "video", "video": video}]
