"""LEAP's own form: messages, and apart from them the response to learn."""

from dataclasses import replace
from typing import Any, ClassVar

from leap.data.formats.qwen_messages import QwenMessage
from leap.data.formats.sample_format import FormatName, SampleFormat, Turn, text_parts
from leap.records.training import Target


class _Message(QwenMessage):
    learn: bool = False

    def turn(self) -> Turn:
        return replace(super().turn(), learned=self.learn)


class LeapSample(SampleFormat):
    """As leap.records.training has it. Lines of JSON are read there; this is for tables."""

    name: ClassVar[FormatName] = "leap"
    title: ClassVar[str] = "LEAP's own"
    needs: ClassVar[tuple[str, ...]] = ("messages", "target")
    example: ClassVar[dict[str, Any]] = {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What steps?"}],
            }
        ],
        "target": {"steps": "1) Pick up the cup."},
    }

    id: Any = None
    messages: list[_Message]
    target: Target

    def turns(self) -> list[Turn]:
        return [*(message.turn() for message in self.messages), Turn("assistant", text_parts(self.target.steps))]
