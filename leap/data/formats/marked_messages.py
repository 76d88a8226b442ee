"""Messages with `<image>` marks and the images beside them: ms-swift's form, and LLaMA-Factory's of OpenAI's tags."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel

from leap.data.formats.sample_format import FormatName, MarkedText, Turn, text_parts


class _Message(BaseModel):
    role: Literal["system", "user", "assistant"]
    content: str
    loss: bool = True  # ms-swift's, of an assistant's turn: whether it is learned


class MarkedMessages(MarkedText):
    """`messages` whose contents are texts with marks, and `images`."""

    name: ClassVar[FormatName] = "messages"
    title: ClassVar[str] = "messages with <image> marks (ms-swift, LLaMA-Factory)"
    needs: ClassVar[tuple[str, ...]] = ("messages", "images")
    example: ClassVar[dict[str, Any]] = {
        "messages": [
            {"role": "user", "content": "<image>What steps?"},
            {"role": "assistant", "content": "1) Pick up the cup."},
        ],
        "images": ["a.png"],
    }

    id: Any = None
    messages: list[_Message]

    @classmethod
    def recognises(cls, record: Mapping[str, Any]) -> bool:
        messages = record.get("messages")
        if not isinstance(messages, list):
            return False
        contents = [one.get("content") for one in messages if isinstance(one, dict)]
        marked = any("<image>" in one or "<video>" in one for one in contents if isinstance(one, str))
        return marked or "images" in record or "videos" in record

    @classmethod
    def decides(cls, record: Mapping[str, Any]) -> bool:
        return any(record.get(key) for key in ("images", "image", "videos", "video"))

    def turns(self) -> list[Turn]:
        return self.marked([Turn(one.role, text_parts(one.content), one.loss) for one in self.messages])
