"""Qwen's own messages, as qwen-vl-utils and the processor take them: images stand in the content."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel

from leap.data.formats.sample_format import FormatName, Part, SampleFormat, Turn, text_parts, video_parts


def part_types(record: Mapping[str, Any]) -> set[str]:
    """The types of the parts of a conversation's contents."""
    messages = record.get("messages")
    contents = [one.get("content") for one in messages if isinstance(one, dict)] if isinstance(messages, list) else []
    return {
        str(part.get("type"))
        for content in contents
        if isinstance(content, list)
        for part in content
        if isinstance(part, dict)
    }


class QwenPart(BaseModel):
    """Sizes that stand beside an image are not used: the recipe's image_tokens_min and _max hold for all images."""

    type: Literal["text", "image", "video"] | None = None
    text: str | None = None
    image: Any = None
    video: Any = None

    def parts(self) -> list[Part]:
        """This part, or the images of its frames."""
        if self.image is not None:
            return [{"type": "image", "image": self.image}]
        if self.video is not None:
            return video_parts(self.video)
        if self.text is None:
            raise ValueError("a part of `content` has neither `text` nor `image`")
        return text_parts(self.text)


class QwenMessage(BaseModel):
    """A turn; its content is a text, or parts."""

    role: Literal["system", "user", "assistant"]
    content: str | list[QwenPart]

    def turn(self) -> Turn:
        """The same as a turn."""
        if isinstance(self.content, str):
            return Turn(self.role, text_parts(self.content))
        return Turn(self.role, [part for given in self.content for part in given.parts()])


class QwenMessages(SampleFormat):
    """`messages` whose contents have parts of type text, image or video; the last turn is the assistant's."""

    name: ClassVar[FormatName] = "qwen"
    title: ClassVar[str] = "Qwen's messages"
    needs: ClassVar[tuple[str, ...]] = ("messages",)
    example: ClassVar[dict[str, Any]] = {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What steps?"}],
            },
            {"role": "assistant", "content": "1) Pick up the cup."},
        ]
    }

    id: Any = None
    messages: list[QwenMessage]

    @classmethod
    def recognises(cls, record: Mapping[str, Any]) -> bool:
        return bool(part_types(record) & {"image", "video"})

    def turns(self) -> list[Turn]:
        return [message.turn() for message in self.messages]
