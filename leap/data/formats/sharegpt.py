"""ShareGPT's conversations, as LLaVA, LLaMA-Factory and Qwen's own fine-tuning code have them with images."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from leap.data.formats.sample_format import FormatName, MarkedText, Role, Turn, text_parts

_ROLES: dict[str, Role] = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system",
}  # fmt: skip


class _Turn(BaseModel):
    speaker: Literal["human", "user", "gpt", "assistant", "system"] = Field(alias="from")
    value: str


class ShareGPT(MarkedText):
    """`conversations` of turns `from` human and gpt, whose texts have marks, and `image` or `images`."""

    name: ClassVar[FormatName] = "sharegpt"
    title: ClassVar[str] = "ShareGPT's conversations (LLaVA)"
    needs: ClassVar[tuple[str, ...]] = ("conversations",)
    example: ClassVar[dict[str, Any]] = {
        "conversations": [
            {"from": "human", "value": "<image>What steps?"},
            {"from": "gpt", "value": "1) Pick up the cup."},
        ],
        "images": ["a.png"],
    }

    id: Any = None
    conversations: list[_Turn]

    def turns(self) -> list[Turn]:
        return self.marked([Turn(_ROLES[one.speaker], text_parts(one.value)) for one in self.conversations])
