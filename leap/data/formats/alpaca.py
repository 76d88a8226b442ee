"""Alpaca's instructions, with images and a history as LLaMA-Factory has them."""

from typing import Any, ClassVar

from pydantic import Field

from leap.data.formats.sample_format import FormatName, MarkedText, Role, Turn, text_parts


class Alpaca(MarkedText):
    """`instruction`, `input` and `output`, whose texts have marks, and `images`."""

    name: ClassVar[FormatName] = "alpaca"
    title: ClassVar[str] = "Alpaca's instructions"
    needs: ClassVar[tuple[str, ...]] = ("instruction", "output")
    example: ClassVar[dict[str, Any]] = {
        "instruction": "<image>What steps?",
        "input": "",
        "output": "1) Pick up the cup.",
        "images": ["a.png"],
    }

    id: Any = None
    instruction: str
    input: str = ""
    output: str
    history: list[tuple[str, str]] = Field(default_factory=list)

    def turns(self) -> list[Turn]:
        asked = "\n".join(text for text in (self.instruction, self.input) if text)
        pairs = [*self.history, (asked, self.output)]
        return self.marked(
            [turn for question, answer in pairs for turn in (_turn("user", question), _turn("assistant", answer))]
        )


def _turn(role: Role, text: str) -> Turn:
    return Turn(role, text_parts(text))
