"""A training sample: a conversation with images, and the answer to learn.

`target.steps` is learned. Earlier assistant turns in `messages` are context, as they would be when it is asked, but
for those marked `"learn": true`.

{"messages": [{"role": "user", "content": [{"type": "image", "image": "images/327-1.png"},
                                           {"type": "text", "text": "What steps ...?"}]}],
 "target": {"steps": "1) Pick up the cup. 2) ..."}}
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

Text = Annotated[str, StringConstraints(min_length=1)]
REQUEST = 'What steps should the robot take to carry out this request: "{instruction}" Answer with numbered steps.'
VIDEO_FILE = (
    "video files are not read; extract frames (ffmpeg -i FILE -vf fps=1 frame-%03d.png) and list these images in "
    "the video's place"
)


def numbered(steps: Sequence[str]) -> str:
    """ "1) Pick up the apple. 2) Place it in the basket."."""
    return " ".join(f"{number}) {step}" for number, step in enumerate(steps, start=1))


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("the answer is empty")
    return text


def _as_text(name: Any) -> Any:
    """Other tools number their samples: 327 is the name "327"."""
    return str(name) if isinstance(name, int | float) and not isinstance(name, bool) else name


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class ImagePart(BaseModel):
    type: Literal["image"]
    image: Text  # a path; a relative one starts at the image root


class VideoPart(BaseModel):
    """A video is its frames' images, which `Message` puts in its place; a file is none that anything here decodes."""

    type: Literal["video"]

    @model_validator(mode="after")
    def refuse(self) -> "VideoPart":
        raise ValueError(VIDEO_FILE)


ContentPart = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]


def _frames(part: Any) -> list[Any]:
    """The part itself; images in place of a video that is given as a list of its frames."""
    if isinstance(part, dict) and part.get("type") == "video" and isinstance(frames := part.get("video"), list):
        return [{"type": "image", "image": frame} for frame in frames]
    return [part]


class Message(BaseModel):
    """One turn. A content that is a plain string means one text part."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[list[ContentPart], Field(min_length=1)]
    learn: bool | None = None  # whether an assistant's turn is learned, as the target is

    @field_validator("content", mode="before")
    @classmethod
    def text_alone(cls, content: Any) -> Any:
        if isinstance(content, list):
            return [part for given in content for part in _frames(given)]
        return [{"type": "text", "text": content}] if isinstance(content, str) and content else content

    @model_validator(mode="after")
    def learns_text(self) -> "Message":
        if self.learn and (self.role != "assistant" or not all(isinstance(part, TextPart) for part in self.content)):
            raise ValueError("`learn` is for an assistant's turn of text alone")
        return self

    def parts(self) -> list[TextPart | ImagePart]:
        """Texts and images in reading order."""
        return [part for part in self.content if not isinstance(part, VideoPart)]

    def text(self) -> str:
        """Its texts in a row, without its images."""
        return "".join(part.text for part in self.parts() if isinstance(part, TextPart))


class Target(BaseModel):
    steps: Annotated[str, AfterValidator(_not_blank)]  # numbered steps, or a fenced JSON plan


class TrainingSample(BaseModel):
    """One line of a training file. Unknown keys are kept out of the way, not refused: data sets carry notes."""

    model_config = ConfigDict(extra="ignore")

    id: Annotated[str | None, BeforeValidator(_as_text)] = None
    messages: Annotated[list[Message], Field(min_length=1)]
    target: Target

    @model_validator(mode="after")
    def ends_with_a_question(self) -> "TrainingSample":
        if self.messages[-1].role != "user":
            raise ValueError("the last of `messages` must be the user's, since `target.steps` answers it")
        return self

    def images(self) -> list[str]:
        """Image paths in reading order."""
        return [part.image for message in self.messages for part in message.parts() if isinstance(part, ImagePart)]
