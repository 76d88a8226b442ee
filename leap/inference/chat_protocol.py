"""OpenAI's chat protocol: what is sent, and what must come back."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from leap.data.image import ImageSize
from leap.inference.protocol import Decoding, Request
from leap.records.benchmark import Finish, TokenCount
from leap.records.training import ImagePart, TextPart

if TYPE_CHECKING:
    from openai import APIStatusError


def chat_messages(request: Request, size: ImageSize, readable: Path | None = None) -> list[dict[str, Any]]:
    """The conversation as the protocol has it, images of that size within, or their addresses under `readable`.

    Raises LeapError for a broken image.
    """
    from leap.data.image_urls import image_url

    images = iter(request.images)

    def content(part: TextPart | ImagePart) -> dict[str, Any]:
        if isinstance(part, ImagePart):
            return {"type": "image_url", "image_url": {"url": image_url(next(images), size, readable)}}
        return {"type": "text", "text": part.text}

    messages: list[dict[str, Any]] = []
    for message in request.messages:
        parts = [content(part) for part in message.parts()]
        # A text alone goes as a string, which every server takes, for system messages too.
        alone = len(parts) == 1 and parts[0]["type"] == "text"
        messages.append({"role": message.role, "content": parts[0]["text"] if alone else parts})
    return messages


# What a server may refuse, so that its own value holds: of two the first is given up first, since temperature decides
# most. The neutral ones undo a checkpoint's own defaults (repetition_penalty: vLLM, SGLang, LMDeploy; `transformers
# serve` sets it from frequency_penalty).
_NEUTRAL = {"frequency_penalty": 0.0, "repetition_penalty": 1.0}
_OPTIONAL = (*_NEUTRAL, "top_k", "seed", "top_p", "response_format", "temperature")


def json_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The response_format of JSON alone."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def fenced_json_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """That of JSON in the fence in which a planner has learned to write it: vLLM's own, and SGLang's."""
    content = {"type": "json_schema", "json_schema": schema}
    fence = {"type": "tag", "begin": "```json\n", "content": content, "end": "\n```"}
    return {"type": "structural_tag", "format": fence}


@dataclass(frozen=True)
class Fields:
    """Which fields this server takes for what we mean."""

    limit: str = "max_tokens"
    left_out: frozenset[str] = frozenset()

    def of(self, decoding: Decoding, response_format: Mapping[str, Any] | None = None) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "seed": decoding.seed,
            self.limit: decoding.max_new_tokens,
            **_NEUTRAL,
        }
        if decoding.min_new_tokens > 0:
            fields |= {"min_tokens": decoding.min_new_tokens, "ignore_eos": True}
        if decoding.temperature > 0:
            fields["top_k"] = -1
        if response_format is not None:
            fields["response_format"] = response_format
        return {name: value for name, value in fields.items() if name not in self.left_out}

    def without(self, refusal: str, named: str | None = None) -> "Fields":
        """The fields to try after a server's words about those it does not take; `named` is the one it blames.

        "temperature and top_p cannot both be given" leaves temperature, which decides more.
        """
        limit = self.limit
        if "max_completion_tokens" in refusal or (named == limit and "unsupported" in refusal.lower()):
            limit = "max_completion_tokens"
        mentioned = [name for name in _OPTIONAL if name not in self.left_out and _mentions(refusal, name)]
        if named in mentioned or (named in _OPTIONAL and named not in self.left_out):
            mentioned = [str(named)]
        gone = mentioned[:-1] if mentioned[1:] and mentioned[-1] == "temperature" else mentioned
        return Fields(limit, self.left_out | set(gone))

    def together(self, other: "Fields") -> "Fields":
        """What two requests have learnt of one server."""
        limits = {self.limit, other.limit} - {Fields().limit}
        return Fields(min(limits, default=self.limit), self.left_out | other.left_out)


def _mentions(refusal: str, name: str) -> bool:
    """Whether it is named, also as topP or top-p; Gemini says "Penalty is not enabled" of both penalties."""
    if name == "response_format" and "schema" in refusal:
        return True
    if name in _NEUTRAL and re.search(r"(?<![A-Za-z_-])[Pp]enalt(y|ies)\b", refusal):
        return True
    spelt = name.replace("_", "[_-]?")
    return re.search(rf"(?<![A-Za-z_])(?:{spelt})(?![A-Za-z_])", refusal, re.IGNORECASE) is not None


# finish_reason of OpenAI, vLLM and most others, then of Anthropic, TGI, Gemini and Mistral behind a gateway; a call of
# a tool that nobody offered is the model's own ending.
_ENDINGS: Mapping[str, Finish] = {
    **dict.fromkeys(
        ("stop", "tool_calls", "function_call", "end_turn", "stop_sequence", "eos_token", "tool_use"), "stop"
    ),
    **dict.fromkeys(("length", "max_tokens", "model_length"), "length"),
}
# OpenAI's and Azure's (Gemini's adds its reason: "content_filter: RECITATION"), Zhipu's, Gemini's own.
_FILTERED = re.compile(r"content_?filter\b.*|sensitive|(image_)?safety|recitation|blocklist|prohibited_content|spii")
# Parts of the codes of an HTTP error that says the same of the request: Azure's (and its inner one), OpenAI's,
# DashScope's, Volcano's.
_FILTER_CODES = re.compile(
    "contentfilter|responsibleaipolicy|contentpolicyviolation|datainspectionfailed|sensitivecontent|moderationblocked"
    "|contentmoderation|prohibitedcontent"
)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class Message(_Strict):
    """A response: its text, or a refusal in its place."""

    content: str | None = None
    refusal: str | None = None


class _Choice(_Strict):
    message: Message | None = None
    finish_reason: str | None = None

    def ending(self) -> Finish | None:
        """How the response ended; None for an ending that is a failure of the server, not the model's doing."""
        reason = (self.finish_reason or "").casefold()
        if _FILTERED.fullmatch(reason.replace("-", "_")):
            return "filtered"
        if (self.message is not None and self.message.refusal) or reason == "refusal":
            return "refused"
        return _ENDINGS.get(reason)


class Usage(_Strict):
    """Tokens, where the server counts them."""

    prompt_tokens: TokenCount = None
    completion_tokens: TokenCount = None


class Completion(_Strict):
    """An answer as it must be: exactly one choice. What else is in it does not matter."""

    model: str | None = None
    choices: Annotated[list[_Choice], Field(min_length=1, max_length=1)]
    usage: Annotated[Usage | None, BeforeValidator(lambda found: found if isinstance(found, dict) else None)] = None


def is_content_filter(error: "APIStatusError") -> bool:
    """Whether an HTTP error is the verdict of the API's content filter on this request, by its code, or by the reasons
    that OpenRouter gives beside its 403: the same status means that a key may not do something."""
    said = error.body if isinstance(error.body, dict) else {}
    inner, beside = (said.get("innererror") or said.get("inner_error"), said.get("metadata"))
    codes = [said.get("code"), said.get("type"), inner.get("code") if isinstance(inner, dict) else None]
    return (isinstance(beside, dict) and not beside.keys().isdisjoint(("flagged_input", "reasons"))) or any(
        _FILTER_CODES.search(re.sub(r"[\W_]", "", code).casefold()) for code in codes if isinstance(code, str)
    )


def is_too_long(error: "APIStatusError") -> bool:
    """Whether an HTTP error says, by its code, that a prompt is too long: whatever fields it names beside."""
    return isinstance(error.code, str) and "length" in error.code


def words(error: "APIStatusError") -> str:
    """What the server itself said."""
    said = error.body
    if isinstance(said, dict):
        said = said.get("message") or said.get("detail") or said  # FastAPI's own errors have a detail
    return said if isinstance(said, str) else str(said or error.message)


def cause(error: Exception) -> str:
    """Why there was no connection, or no longer."""
    reason = error.__cause__
    return str(reason) or type(reason).__name__
