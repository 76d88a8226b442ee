"""OpenAI's messages with the assistant's turn, as their fine-tuning files have them: images are URLs in the content."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from leap.data.formats.qwen_messages import part_types
from leap.data.formats.sample_format import FormatName, Part, Role, SampleFormat, Turn, text_parts


class _ImageURL(BaseModel):
    url: str  # a data: or file: URI, or a path; `detail` is not used: the recipe's bounds hold for every image


class _TextPart(BaseModel):
    type: Literal["text"]
    text: str

    def part(self) -> list[Part]:
        return text_parts(self.text)


class _ImagePart(BaseModel):
    type: Literal["image_url"]
    image_url: _ImageURL | str

    def part(self) -> list[Part]:
        url = self.image_url if isinstance(self.image_url, str) else self.image_url.url
        return [{"type": "image", "image": url}]


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[_TextPart | _ImagePart, Field(discriminator="type")]]
    weight: Literal[0, 1] = 1  # of an assistant's turn: whether it is learned

    def turn(self) -> Turn:
        role: Role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, str):
            return Turn(role, text_parts(self.content), bool(self.weight))
        return Turn(role, [part for given in self.content for part in given.part()], bool(self.weight))


class OpenAIMessages(SampleFormat):
    """`messages` with texts, or parts of type text and image_url; text alone is the same in many forms."""

    name: ClassVar[FormatName] = "openai"
    title: ClassVar[str] = "OpenAI's messages"
    needs: ClassVar[tuple[str, ...]] = ("messages",)
    example: ClassVar[dict[str, Any]] = {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}},
                    {"type": "text", "text": "What steps?"},
                ],
            },
            {"role": "assistant", "content": "1) Pick up the cup."},
        ]
    }

    id: Any = None
    messages: list[_Message]

    @classmethod
    def decides(cls, record: Mapping[str, Any]) -> bool:
        return "image_url" in part_types(record)

    def turns(self) -> list[Turn]:
        return [message.turn() for message in self.messages]
