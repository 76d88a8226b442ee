"""How much of a model's context requests take, for a server that must know before it is asked."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from heapq import nlargest
from pathlib import Path
from typing import IO, Any

from leap.data.chat_encoding import ChatFormat
from leap.data.image import BlankImage, ImageEncoder, ImageSource, SentImage, open_image
from leap.errors import LeapError
from leap.inference.protocol import Request
from leap.records.remote import open_file

_COUNTED = 256  # requests whose texts are counted to the last token


@dataclass(frozen=True)
class RequestSize:
    """The longest prompt, in tokens with those of its images, and the most images that one request has."""

    tokens: int
    images: int


def largest_request(requests: Sequence[Request], processor: Any, encoder: ImageEncoder) -> RequestSize:
    """Of all requests, as the model's own chat template and tokenizer have them. Images are not decoded.

    Only the longest by their bytes, a third of a token each, are counted exactly: thousands of texts would take as long
    as a server's start, and differ by a sentence.
    """

    @cache  # the few-shot examples show each image in many requests
    def tokens_of(source: ImageSource) -> int:
        path = source.like if isinstance(source, BlankImage) else source
        try:
            with _open(path) as file, open_image(file) as image:
                width, height = image.size  # on its side or upright, it is as many tokens
            return encoder.tokens(height, width)
        except (OSError, LeapError):
            return 1  # its own request will fail, and say why

    of_images = {id(request): sum(map(tokens_of, request.images)) for request in requests}
    longest = nlargest(_COUNTED, requests, key=lambda request: of_images[id(request)] + _bytes(request) / 3)
    lengths = ChatFormat(processor).lengths([(request.messages, "") for request in longest])
    tokens = [
        length.prompt - length.images + of_images[id(request)] for request, length in zip(longest, lengths, strict=True)
    ]
    images = max((len(request.images) for request in requests), default=0)
    return RequestSize(max(tokens, default=0), images)


def _open(source: Path | SentImage) -> IO[bytes]:
    return io.BytesIO(source.content) if isinstance(source, SentImage) else open_file(source)


def _bytes(request: Request) -> int:
    return sum(
        len(part.text.encode(errors="replace"))
        for message in request.messages
        for part in message.parts()
        if part.type == "text"
    )
