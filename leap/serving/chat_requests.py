"""OpenAI's chat protocol from the server's side: requests whose every field is honoured or refused; responses."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic_core import from_json

from leap.cli import LARGEST_COUNT
from leap.inference.protocol import Decoding, Request, Response, request_hash
from leap.inference.vllm_server import IMAGES_PER_PROMPT, MAX_MODEL_LEN
from leap.records.json_files import first_problem
from leap.records.training import ImagePart, Message, TextPart
from leap.serving.refusals import Refused
from leap.serving.sent_images import check_image, read_data_uri

Shape = TypeVar("Shape", bound=BaseModel)
MOST_CHARACTERS = 4 * MAX_MODEL_LEN  # of a request's texts: no engine reads more
# Values with which a field says nothing: the protocol's defaults, which many clients send.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "stream": (False,),
    "logprobs": (False,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "top_k": (-1,),
    "stop": ([],),
    "response_format": ({"type": "text"},),
}
MOST_CHOICES = 16  # of one request that is passed on: the server behind computes as many responses in its place
_OF_THE_IMAGES = ("mm_processor_kwargs", "media_io_kwargs")  # vLLM's: they would lift the bounds on images


def _safe_temperature(value: float) -> float:
    if 0 < value < 1e-3:  # logits overflow when they are divided by it
        raise ValueError("0 (greedy) or a number from 0.001 to 2 is needed")
    return value


class _Exact(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _ImageUrl(_Exact):
    url: str
    detail: Literal["auto"] | None = None  # the image size is the model's, and no request's


class _Text(_Exact):
    type: Literal["text"]
    text: str


class _Image(_Exact):
    type: Literal["image_url"]
    image_url: _ImageUrl


_Content = (
    Annotated[str, StringConstraints(min_length=1)]
    | Annotated[list[Annotated[_Text | _Image, Field(discriminator="type")]], Field(min_length=1)]
)


class _Turn(_Exact):
    role: Literal["system", "user", "assistant"]
    content: _Content


class _AnyTurn(BaseModel):
    """A turn for another server: what may hold an address is known, the rest is its own."""

    content: _Content | Literal[""] | None = None


_CONVERSATION = TypeAdapter(list[_AnyTurn])
_Tokens = Annotated[int, Field(ge=1, le=MAX_MODEL_LEN)]


class ChatRequest(_Exact):
    """What the engine in this process can honour."""

    model: str
    messages: Annotated[list[_Turn], Field(min_length=1, max_length=100)]
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    # As the protocol, and vLLM: sampled, unless the client says otherwise.
    temperature: Annotated[float, Field(ge=0, le=2), AfterValidator(_safe_temperature)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=-LARGEST_COUNT, le=LARGEST_COUNT)] | None = None

    def decoding(self, otherwise: int) -> Decoding:
        """`otherwise` is the limit of new tokens where the request has none."""
        most = self.max_completion_tokens or self.max_tokens or otherwise
        return Decoding(most, temperature=self.temperature, top_p=self.top_p)


def read_body(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises Refused for anything else, nesting without end and half characters included."""
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Refused(400, f"the body is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise Refused(400, f"the body is a JSON {type(value).__name__}; an object is needed")
    return value


def read_chat(body: Mapping[str, Any]) -> ChatRequest:
    """Raises Refused with the name of what cannot be honoured."""
    given = {name: value for name, value in body.items() if value is not None and not _says_nothing(name, value)}
    if unknown := sorted(given.keys() - ChatRequest.model_fields.keys()):
        name = unknown[0][:60]
        raise Refused(
            400, f"{name}: the engine in this process cannot honour it; leave it out, or serve with vLLM", name
        )
    chat = validated(ChatRequest, given)
    if chat.messages[-1].role != "user":
        raise Refused(400, "messages: the last one must be the user's", "messages")
    if chat.max_tokens and chat.max_completion_tokens:
        raise Refused(400, "max_tokens: max_completion_tokens is given too; send one of them", "max_tokens")
    return chat


def _says_nothing(name: str, value: Any) -> bool:
    neutral = _NEUTRAL.get(name, ())
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in neutral)


def validated(shape: type[Shape], given: Mapping[str, Any]) -> Shape:
    """Raises Refused naming the first field that is not as it should be."""
    try:
        return shape.model_validate(given)
    except ValidationError as error:
        raise refused(error) from error


def refused(error: ValidationError) -> Refused:
    place = error.errors(include_url=False)[0]["loc"]
    return Refused(400, first_problem(error), str(place[0]) if place else None)


async def chat_request(chat: ChatRequest) -> Request:
    """Its conversation with its images, which are checked."""
    urls = [part.image_url.url for turn in chat.messages for part in _parts(turn.content) if isinstance(part, _Image)]
    characters = sum(
        len(part.text) for turn in chat.messages for part in _parts(turn.content) if isinstance(part, _Text)
    )
    if characters > MOST_CHARACTERS or len(urls) > IMAGES_PER_PROMPT:
        most = f"at most {MOST_CHARACTERS:,} and {IMAGES_PER_PROMPT}"
        raise Refused(400, f"messages: {characters:,} characters and {len(urls)} images; send {most}", "messages")
    images = [await check_image(read_data_uri(url, "messages"), "messages") for url in urls]
    messages = tuple(
        Message(role=turn.role, content=[_as_ours(part) for part in _parts(turn.content)]) for turn in chat.messages
    )
    seed = secrets.randbelow(LARGEST_COUNT) if chat.seed is None else chat.seed
    return keyed(Request((), messages, tuple(images)), str(seed) if chat.temperature else "greedy")


def keyed(request: Request, draw: str) -> Request:
    """With all in its key that its response depends on: in whatever batch, and however often it is asked.

    The hash knows no turns: A, B and C from one user are to it what they are from three.
    """
    turns = [(turn.role, [(part.type, len(_text(part))) for part in turn.parts()]) for turn in request.messages]
    return replace(request, key=(request_hash(request), repr(turns), draw))


def _text(part: TextPart | ImagePart) -> str:
    return part.text if isinstance(part, TextPart) else ""


def _parts(content: str | list[_Text | _Image] | None) -> list[_Text | _Image]:
    return [_Text(type="text", text=content)] if isinstance(content, str) else content or []


def _as_ours(part: _Text | _Image) -> TextPart | ImagePart:
    return TextPart(type="text", text=part.text) if isinstance(part, _Text) else ImagePart(type="image", image="sent")


async def refuse_too_much(body: Mapping[str, Any]) -> None:
    """For a request that is passed on. Raises Refused where the server would fetch something, read an image that is
    none or too large, or more of them than a prompt may have, or write more responses than one place is worth."""
    if lifted := [name for name in _OF_THE_IMAGES if name in body]:
        raise Refused(400, f"{lifted[0]}: the image size is the model's; leave it out", lifted[0])
    choices = body.get("n")
    if choices is not None and (type(choices) is not int or not 1 <= choices <= MOST_CHOICES):
        raise Refused(400, f"n: a whole number from 1 to {MOST_CHOICES} is needed", "n")
    try:
        turns = _CONVERSATION.validate_python(body.get("messages"))
    except ValidationError as error:
        raise Refused(400, f"messages: {first_problem(error)}", "messages") from error
    urls = [part.image_url.url for turn in turns for part in _parts(turn.content) if isinstance(part, _Image)]
    if len(urls) > IMAGES_PER_PROMPT:  # before one is decoded: in a small body there is room for hundreds of large ones
        raise Refused(400, f"messages: {len(urls)} images; send at most {IMAGES_PER_PROMPT}", "messages")
    for url in urls:
        await check_image(read_data_uri(url, "messages"), "messages")


def completion(response: Response, model: str) -> dict[str, Any]:
    """A response as the protocol has it."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": response.text, "refusal": None},
        "finish_reason": response.finish,
        "logprobs": None,
    }
    prompt, new = response.prompt_tokens or 0, response.new_tokens or 0
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new},
    }
