"""How much of a model's context requests take, for a server that must be told before it is asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leap.data.chat import ChatFormat
from leap.data.pictures import BlankPicture, PictureEncoder, open_image
from leap.errors import LeapError
from leap.inference.protocol import Request

_AT_ONCE = 256  # requests whose texts are in memory


@dataclass(frozen=True)
class RequestSize:
    """The longest prompt, in tokens with those of its images, and the most images that one request has."""

    tokens: int
    images: int


def largest_request(requests: Sequence[Request], processor: Any, encoder: PictureEncoder) -> RequestSize:
    """Of all requests, as the model's own chat template and tokenizer have them. Images are not decoded."""
    chat, image_tokens = ChatFormat(processor), _ImageTokens(encoder)
    longest = 0
    for start in range(0, len(requests), _AT_ONCE):
        part = requests[start : start + _AT_ONCE]
        lengths = chat.lengths([(request.messages, "") for request in part])
        for request, length in zip(part, lengths, strict=True):
            longest = max(longest, length.prompt + sum(image_tokens.of(source) - 1 for source in request.pictures))
    return RequestSize(longest, max((len(request.pictures) for request in requests), default=0))


class _ImageTokens:
    """Tokens of images; the few-shot examples show each image in many requests."""

    def __init__(self, encoder: PictureEncoder) -> None:
        self._encoder, self._known = encoder, dict[Path, int]()

    def of(self, source: Path | BlankPicture) -> int:
        path = source.like if isinstance(source, BlankPicture) else source
        if path not in self._known:
            self._known[path] = self._read(path)
        return self._known[path]

    def _read(self, path: Path) -> int:
        try:
            with path.open("rb") as file, open_image(file) as image:
                width, height = image.size  # on its side or upright, it is as many tokens
            return self._encoder.tokens(height, width)
        except (OSError, LeapError):
            return 1  # its own request will fail, and say why
