"""Conversations as the service keys them, and what it passes on to another server."""

from typing import Any

import anyio
import pytest

from leap.data.image import SentImage
from leap.inference.protocol import Request
from leap.records.training import ImagePart, Message, TextPart
from leap.serving.chat_requests import keyed, refuse_too_much
from leap.serving.refusals import Refused

IMAGE = ImagePart(type="image", image="sent")


def text(value: str) -> TextPart:
    return TextPart(type="text", text=value)


def turns(*given: tuple[str, list[TextPart | ImagePart]]) -> tuple[Message, ...]:
    return tuple(Message(role=role, content=parts) for role, parts in given)  # type: ignore[arg-type]


A, B, C = text("A"), text("B"), text("C")
ALIKE = [
    [
        turns(("user", [A]), ("assistant", [B]), ("user", [C])),
        turns(("system", [A]), ("user", [B]), ("user", [C])),
        turns(("user", [A, B, C])),
        turns(("user", [A, text("B\0C")])),
        turns(("user", [text("A\0B"), C])),
    ],
    [turns(("user", [IMAGE, text("image")])), turns(("user", [text("image"), IMAGE]))],
]


@pytest.mark.parametrize("conversations", ALIKE)
def test_only_the_same_conversation_has_the_same_key(conversations: list[tuple[Message, ...]]) -> None:
    """Requests of one key in a batch are answered once: another's would be somebody else's response."""
    requests = [Request((), messages, (SentImage(b"png"),)) for messages in conversations]
    assert len({keyed(request, "greedy").key for request in requests}) == len(requests)
    assert keyed(requests[0], "greedy").key == keyed(requests[0], "greedy").key


def test_too_many_images_are_refused_before_one_is_decoded() -> None:
    """None of these could be."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body: dict[str, Any] = {"messages": [{"role": "user", "content": [image] * 9}] * 2}
    with pytest.raises(Refused, match="messages: 18 images; send at most 16"):
        anyio.run(refuse_too_much, body)


@pytest.mark.parametrize("choices", [0, 17, 10_000, "10000", 2.0, True])
def test_one_place_is_no_ten_thousand_responses(choices: Any) -> None:
    messages = [{"role": "user", "content": "Plan."}]
    anyio.run(refuse_too_much, {"messages": messages, "n": 16})
    with pytest.raises(Refused, match="n: a whole number from 1 to 16 is needed"):
        anyio.run(refuse_too_much, {"messages": messages, "n": choices})
