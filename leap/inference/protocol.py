"""What every inference engine understands and returns."""

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from leap.data.image import BlankImage, ImageSource, SentImage
from leap.records.benchmark import Finish
from leap.records.files import file_digest
from leap.records.remote import present
from leap.records.training import ImagePart, Message


@dataclass(frozen=True)
class Decoding:
    """How answers are drawn. Temperature 0 is greedy: the likeliest token, always."""

    max_new_tokens: int = 512
    min_new_tokens: int = 0  # no end of turn before; benchmarks force one length on every engine with it
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def of_request(self, key: tuple[str, ...]) -> "Decoding":
        """With a seed of the request's own where responses are sampled: one seed for all of them would draw the same
        random numbers for each, so that examples would be lucky together."""
        if self.temperature == 0:
            return self
        digest = hashlib.sha256(repr((self.seed, *key)).encode()).digest()
        return replace(self, seed=int.from_bytes(digest[:4]) >> 1)  # servers take 31 bits


@dataclass(frozen=True)
class Request:
    """One conversation to answer. `images` fill its image places in reading order."""

    key: tuple[str, ...]  # the dimension, task and example number, say; a sampled response depends on it
    messages: tuple[Message, ...]
    images: tuple[ImageSource, ...]

    @property
    def text_length(self) -> int:
        """Characters of all its texts."""
        return sum(len(part.text) for message in self.messages for part in message.parts() if part.type == "text")


def request_hash(request: Request) -> str:
    """sha256 of all that the model is shown: the texts, and the contents of the images, in reading order."""
    digest = hashlib.sha256()
    for message in request.messages:
        for part in message.parts():
            digest.update(b"image\0" if isinstance(part, ImagePart) else part.text.encode() + b"\0")
    for source in request.images:
        digest.update(image_digest(source))
    return digest.hexdigest()


def image_digest(source: ImageSource) -> bytes:
    """Of what is shown for it: the same for equal images, wherever they are from."""
    if isinstance(source, SentImage):
        return hashlib.sha256(source.content).digest()
    if isinstance(source, BlankImage):
        return b"BlankImage" + file_digest(present(source.like))
    return file_digest(present(source))


@dataclass(frozen=True)
class Response:
    """A model's answer, or the reason why there is none; never both. A refusal and an empty text are answers."""

    key: tuple[str, ...]  # the dimension, task and example number, say
    text: str | None = None
    finish: Finish | None = None
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    error: str | None = None


class Engine(Protocol):
    """Answers requests in any order; a request that fails gives a Response with `error`, not an exception.

    A failure of the engine itself (no such server, a wrong key) raises LeapError: no request can be answered then.
    """

    def responses(self, requests: Sequence[Request], decoding: Decoding) -> Generator[Response, None, None]: ...

    def describe(self) -> dict[str, Any]:
        """Engine, device and number format, for the manifest."""
        ...

    def load(self, folder: Path, base: Path | None, expected: int = 0) -> str | None:
        """Answer with the model in `folder` (an adapter on its `base`) from now on; else why another engine must.
        `expected` requests come in all, whatever part of them is asked at a time.

        Nothing is asked of this one then. Raises LeapError for a model that cannot be read; this one stays as it was.
        """
        ...

    def close(self) -> None:
        """Give back memory, processes and connections; nothing is asked afterwards."""
        ...
