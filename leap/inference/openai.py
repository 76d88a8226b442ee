"""Inference at a server that speaks OpenAI's chat protocol: vLLM, SGLang, LMDeploy, `transformers serve`, hosted ones.

Retries, waiting and concurrency are decided here, not by the client library, and every answer is checked: servers
ignore what they do not know, and fail in many ways. Text that looks like a special token is the server's to read.
"""

import os
import re
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import anyio
from anyio import to_thread
from anyio.from_thread import start_blocking_portal
from pydantic import BaseModel, ValidationError

from leap.backoff import LONGEST_PAUSE, backoff, retry_after
from leap.data.image import ImageSize
from leap.errors import LeapError, UsageError
from leap.hardware import usable_cores
from leap.inference.chat_protocol import (
    Completion,
    Fields,
    Message,
    Usage,
    cause,
    chat_messages,
    is_content_filter,
    is_too_long,
    words,
)
from leap.inference.protocol import Decoding, Request, Response
from leap.inference.throttle import Throttle
from leap.network import http_client, is_address, is_loopback, proxy_names, without_user
from leap.records.json_files import first_problem, read_record
from leap.redaction import hide, keep_hidden
from leap.terminal import first_few, in_one_line, shorten

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

NO_KEY = "none"  # local servers want none, the client library wants one
OPENAI_URL = "https://api.openai.com/v1"  # the client library's own default
_MODELS_SHOWN = 20
_CONNECTIONS = 1000  # the client library opens no more
_CONNECT = 15.0  # seconds to open a connection
_LONGEST_BACKOFF = 60.0  # seconds
_LISTEN = 0.5  # seconds until an interruption is noticed, at most
_UNREACHABLE = 4  # so many requests in a row, each with all its retries, and there is no server
_BODIES = 2  # one bad body may be an accident on the way


@dataclass
class _Server:
    """What the answers have shown of the server."""

    fields: Fields = field(default_factory=Fields)
    models: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Endpoint:
    """A model at a server, and how hard it may be asked. Raises UsageError for what cannot be used."""

    base_url: str  # up to /v1
    model: str
    api_key: str = field(default=NO_KEY, repr=False)
    concurrency: int = 32  # requests at once, at most
    timeout: float = 600.0  # seconds a request, whole
    retries: int = 8  # of a request, after the first try
    interval: float = 0.0  # seconds between the starts of two requests, at least
    omit: tuple[str, ...] = ()  # fields that are not sent: some hosted models refuse a temperature, say
    backoff: float = 0.5  # seconds before the first retry, at most; twice as many before each further one
    input_price: float | None = None  # USD per million tokens
    output_price: float | None = None
    readable: Path | None = None  # a folder whose files a server on this machine may read itself
    server: _Server = field(default_factory=_Server, repr=False, compare=False)  # known to all engines that ask it

    def __post_init__(self) -> None:
        keep_hidden(self.api_key)
        if not is_address(self.base_url):
            shown = self.base_url.rpartition("@")[2]
            raise UsageError(f"{shown}: no server's address; one looks like http://localhost:8000/v1")
        keep_hidden(urlsplit(self.base_url).password)
        if not re.fullmatch(r"[!-~]+", self.api_key):
            raise UsageError("the API key holds blanks or other characters that no key has; copy it again")
        if not 1 <= self.concurrency <= _CONNECTIONS:
            raise UsageError(f"{self.concurrency} requests at once: give 1 to {_CONNECTIONS}")
        if self.retries < 1 or self.timeout <= 0 or self.backoff < 0 or self.interval < 0:
            raise UsageError("a server needs at least 1 retry, a timeout above 0 s, and no negative times")
        if (self.input_price is None) != (self.output_price is None):
            raise UsageError("a cost needs both prices, of input and of output tokens")

    @property
    def shown_url(self) -> str:
        """The address without a user and a password in it."""
        return hide(without_user(self.base_url))

    @property
    def shown_model(self) -> str:
        """The model's name; a server may name it like the key."""
        return hide(self.model)

    def hidden(self, text: str) -> str:
        """What a server said, in one short line, without secrets and without images."""
        text = hide(text)
        text = re.sub(r"(data:[\w/+.-]*;base64,)?[A-Za-z0-9+/=_-]{200,}|data:[\w/+.-]*;base64,\S*", "[image]", text)
        text = " ".join(text.split())
        return text if len(text) <= 300 else f"{text[:300]} …"


class _Named(BaseModel):
    id: str


class _ModelList(BaseModel):
    data: list[_Named]


def find_endpoint(
    base_url: str | None = None, model: str | None = None, api_key: str | None = None, **limits: Any
) -> Endpoint:
    """The endpoint that flags or OPENAI_BASE_URL and OPENAI_API_KEY name; `limits` are Endpoint's other fields.

    A key alone is for OpenAI's own server, as it is to the client library.

    Without `model` it is the only one that the server has. Raises UsageError where an address or a choice is missing,
    LeapError where no server answers or it refuses the key.
    """
    key = (api_key or os.environ.get("OPENAI_API_KEY") or NO_KEY).strip()
    url = base_url or os.environ.get("OPENAI_BASE_URL") or (OPENAI_URL if key != NO_KEY else None)
    if not url:
        raise UsageError(
            "no server: give --base_url http://HOST:PORT/v1 or set OPENAI_BASE_URL; OPENAI_API_KEY alone means OpenAI's"
        )
    endpoint = Endpoint(url.rstrip("/").removesuffix("/chat/completions"), model or "", key, **limits)
    models = _models(endpoint)
    if model:
        return endpoint
    if models is None or len(models) != 1:
        listed = "it does not list them" if models is None else "it has " + (_few(models) or "none")
        raise UsageError(f"{endpoint.shown_url}: name one of its models with --model ({listed})")
    return replace(endpoint, model=models[0])


def _models(endpoint: Endpoint) -> list[str] | None:
    """Names of the server's models; None where it does not list any. A server that is busy, or still starting, is asked
    again by the client library."""
    import openai

    timeout = openai.Timeout(min(30.0, endpoint.timeout))
    with open_client(endpoint, openai.OpenAI, openai.DefaultHttpxClient, timeout, max_retries=3) as client:
        try:
            body = client.models.with_raw_response.list().content
            return [model.id for model in _ModelList.model_validate_json(body).data]
        except openai.APIConnectionError as error:
            raise _no_server(endpoint, cause(error)) from error
        except openai.APIStatusError as error:
            if error.status_code in (401, 403) or error.status_code < 400:
                raise _end_of_run(endpoint, error) from error
            if not endpoint.model and (error.status_code == 429 or error.status_code > 501):
                raise LeapError(
                    f"{endpoint.shown_url} answered {error.status_code} ({endpoint.hidden(words(error))}) when asked "
                    "for its models, several times; wait until it has started, or name one with --model"
                ) from error
            return None
        except ValidationError:
            return None


def _few(models: Iterable[str]) -> str:
    return first_few(sorted(map(hide, models)), _MODELS_SHOWN)


def open_client(endpoint: Endpoint, protocol: type, http: type, timeout: Any, max_retries: int) -> Any:
    """The library's client, with the endpoint's address and key. Raises LeapError where none can be made.

    It follows no redirect, unlike the library's own: prompts, images and keys are meant for one server."""
    sent = http_client(http, endpoint.base_url, timeout=timeout, follow_redirects=False)
    url, key = endpoint.base_url, endpoint.api_key
    return protocol(base_url=url, api_key=key, timeout=timeout, max_retries=max_retries, http_client=sent)


def _no_server(endpoint: Endpoint, why: str) -> LeapError:
    proxies = "" if is_loopback(endpoint.base_url) else proxy_names()
    through = f", or {proxies}, through which it is asked" if proxies else ""
    return LeapError(f"no server at {endpoint.shown_url} ({why}); start it or correct the address{through}")


class OpenAiEngine:
    """One model at one server. Nothing is kept open between calls of `responses`.

    Answers are asked for in a `response_format`; a server that takes none is asked without, and `describe` says so.
    """

    def __init__(self, endpoint: Endpoint, images: ImageSize, response_format: Mapping[str, Any] | None = None) -> None:
        from leap.data import image_urls  # noqa: F401  (loads libraries; see there)

        self._endpoint, self._images, self._response_format = endpoint, images, response_format

    def describe(self) -> dict[str, Any]:
        """`server_model` is what the answers so far named as their model; `fields_refused` the server does not take."""
        refused = self._endpoint.server.fields.left_out
        return {
            "engine": "openai",
            "base_url": self._endpoint.shown_url,
            "model": self._endpoint.shown_model,
            "server_model": _few(self._endpoint.server.models) or None,
            "concurrency": self._endpoint.concurrency,
            **({"takes_json_schema": "response_format" not in refused} if self._response_format else {}),
            **({"fields_refused": sorted(refused)} if refused else {}),
        }

    def load(self, folder: Path, base: Path | None, expected: int = 0) -> str | None:
        return "its server has the one model"

    def close(self) -> None:
        pass

    def responses(self, requests: Sequence[Request], decoding: Decoding) -> Generator[Response, None, None]:
        """Answers as they come. Closing the iterator, or an interruption, ends all requests and their thread."""
        finished: SimpleQueue[Response | None] = SimpleQueue()
        with start_blocking_portal() as portal:
            run = _Run(self._endpoint, self._images, decoding, self._response_format, len(requests))
            task = portal.start_task_soon(run.all, requests, finished.put)
            task.add_done_callback(lambda _: finished.put(None))
            while (response := _next_of(finished)) is not None:
                yield response
            task.result()

    async def response(self, request: Request, decoding: Decoding) -> Response:
        """One, asked for in the caller's event loop: when the caller is cancelled, the server is asked no longer."""
        found: list[Response] = []
        await _Run(self._endpoint, self._images, decoding, self._response_format, 1).all([request], found.append)
        return found[0]


def _next_of(finished: SimpleQueue[Response | None]) -> Response | None:
    """The next response. A wait without an end would not hear a signal that another thread of this process got."""
    while True:
        try:
            return finished.get(timeout=_LISTEN)
        except Empty:
            continue


class _Failed(Exception):
    """No response to a request."""

    def __init__(
        self, text: str, kind: Literal["final", "passing", "bad body", "unreachable"], usage: Usage | None = None
    ):
        super().__init__(text)
        self.kind, self.usage = kind, usage or Usage()  # what was used is paid for all the same


class _Run:
    """One call of `responses`: one event loop, one client, one throttle."""

    def __init__(
        self,
        endpoint: Endpoint,
        images: ImageSize,
        decoding: Decoding,
        response_format: Mapping[str, Any] | None,
        requests: int,
    ) -> None:
        self._endpoint, self._server = endpoint, endpoint.server
        self._images, self._decoding, self._response_format = images, decoding, response_format
        self._throttle = Throttle(endpoint.concurrency)
        self._unreachable, self._most_unreachable = 0, min(_UNREACHABLE, requests)

    async def all(self, requests: Sequence[Request], finished: Callable[[Response], None]) -> None:
        import openai

        endpoint, waiting = self._endpoint, iter(requests)
        timeout = openai.Timeout(endpoint.timeout, connect=min(_CONNECT, endpoint.timeout))
        # No retry of the library's: it knows nothing of the other requests, which wait as long as this one must.
        client = open_client(endpoint, openai.AsyncOpenAI, openai.DefaultAsyncHttpxClient, timeout, max_retries=0)
        packing = anyio.CapacityLimiter(usable_cores())

        async def work() -> None:
            for request in waiting:  # shared: each takes the next, so that few images are in memory
                try:
                    messages = await to_thread.run_sync(
                        chat_messages, request, self._images, endpoint.readable, limiter=packing
                    )
                except LeapError as error:  # this request's own images
                    finished(Response(request.key, error=str(error)))
                else:
                    finished(await self._response(client, request.key, messages))

        async with client:
            try:
                async with anyio.create_task_group() as group:
                    for _ in range(min(endpoint.concurrency, len(requests))):
                        group.start_soon(work)
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None

    async def _response(self, client: "AsyncOpenAI", key: tuple[str, ...], messages: list[dict[str, Any]]) -> Response:
        """A response, or its error after all retries. Raises LeapError where no request can be answered."""
        bad_bodies = 0
        for tries in count(1):
            try:
                return await self._ask(client, key, messages)
            except _Failed as failure:
                bad_bodies += failure.kind == "bad body"
                if failure.kind == "final":
                    used = failure.usage
                    return Response(
                        key, error=str(failure), prompt_tokens=used.prompt_tokens, new_tokens=used.completion_tokens
                    )
                if bad_bodies == _BODIES or tries > self._endpoint.retries:
                    self._unreachable += failure.kind == "unreachable"
                    if self._unreachable >= self._most_unreachable:
                        raise _no_server(self._endpoint, str(failure)) from failure
                    return Response(key, error=f"{failure} (asked {tries} times)")
            await anyio.sleep(backoff(tries, self._endpoint.backoff, _LONGEST_BACKOFF))
        raise AssertionError("unreachable")

    async def _ask(self, client: "AsyncOpenAI", key: tuple[str, ...], messages: list[dict[str, Any]]) -> Response:
        import openai

        reached = True
        async with self._throttle.slot() as sent_under:
            self._throttle.pause(self._endpoint.interval)
            try:
                with anyio.fail_after(self._endpoint.timeout):  # the client's own is for each piece of a body
                    body = await self._send(client, key, messages)
            except (openai.APITimeoutError, TimeoutError, openai.APIConnectionError) as error:
                why = self._endpoint.hidden(cause(error))
                if reached := type(error.__cause__).__name__ not in ("ConnectError", "ConnectTimeout"):
                    late = isinstance(error, openai.APITimeoutError | TimeoutError)
                    limit = f"no whole answer within {self._endpoint.timeout:g} s"
                    raise _Failed(limit if late else f"the connection was lost ({why})", "passing") from error
                raise _Failed(why, "unreachable") from error
            except openai.APIStatusError as error:
                if is_content_filter(error):
                    return Response(key, "", "filtered")
                raise self._refusal(error, sent_under) from error
            finally:
                self._unreachable *= not reached
        self._throttle.speed_up()
        return self._checked(key, body)

    async def _send(self, client: "AsyncOpenAI", key: tuple[str, ...], messages: list[dict[str, Any]]) -> bytes:
        """The body of an accepted request, whichever of our fields had to be left out for it."""
        import openai

        fields = self._server.fields
        while True:
            sent = fields.of(self._decoding.of_request(key), self._response_format)
            try:
                response = await client.chat.completions.with_raw_response.create(
                    model=self._endpoint.model,
                    messages=messages,  # type: ignore[arg-type]
                    extra_body={name: value for name, value in sent.items() if name not in self._endpoint.omit},
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                others = fields.without(words(error), error.param if isinstance(error.param, str) else None)
                if others == fields or is_content_filter(error) or is_too_long(error):
                    raise
                fields = others
            else:
                self._note_fields(fields)  # only now: an error may quote a field that is not its cause
                return response.content

    def _note_fields(self, taken: Fields) -> None:
        """What was left out of a request that was answered is left out of all from now on, and said once."""
        known, self._server.fields = self._server.fields, self._server.fields.together(taken)
        if refused := sorted(self._server.fields.left_out - known.left_out):
            notice = f"{self._endpoint.shown_model} at {self._endpoint.shown_url} refuses {', '.join(refused)}"
            print(
                in_one_line(f"{notice}: left out from now on, so that its own values hold"), file=sys.stderr, flush=True
            )

    def _refusal(self, error: "APIStatusError", sent_under: int) -> Exception:
        """What an HTTP error means: for the whole run, for this try, or for this request alone."""
        status = error.status_code
        if status in _ADVICE or status < 400 or (status == 429 and error.code == "insufficient_quota"):
            return _end_of_run(self._endpoint, error)
        text = f"the server answered {status} ({self._endpoint.hidden(words(error))})"
        if status not in (408, 409, 425, 429) and status < 500:
            return _Failed(text, "final")
        if status == 429:
            self._throttle.slow_down(sent_under)
        wait = retry_after(error.response.headers)
        if wait > LONGEST_PAUSE:
            return LeapError(f"{text}: it asks for {wait:.0f} s of patience; the same command continues later")
        self._throttle.pause(wait)
        return _Failed(text, "passing")

    def _checked(self, key: tuple[str, ...], body: bytes) -> Response:
        try:
            completion = read_record(body, Completion)
        except ValidationError as error:
            problem = self._endpoint.hidden(first_problem(error))
            raise _Failed(f"the server's answer is no chat completion ({problem})", "bad body") from error
        if completion.model:
            self._server.models.add(shorten(hide(completion.model), 200))
        (choice,), usage = completion.choices, completion.usage or Usage()
        ending, message, new = choice.ending(), choice.message or Message(), usage.completion_tokens
        if choice.message is None and ending != "filtered":
            raise _Failed("the server's answer is no chat completion (a choice without a message)", "bad body")
        if ending is None:
            said = self._endpoint.hidden(str(choice.finish_reason))
            reason = f"the answer ended with {said}, which is neither its end nor the limit of new tokens"
            raise _Failed(reason, "final", usage)
        # An answer of another length than all others could have is no answer to the same question.
        least, most = self._decoding.min_new_tokens, self._decoding.max_new_tokens
        if ending in ("stop", "length") and new is not None and not least <= new <= most:
            field = "min_tokens" if new < least else self._server.fields.limit
            raise _Failed(
                f"{new} new tokens where {least} to {most} were asked for: it ignores {field}", "final", usage
            )
        return Response(key, hide(message.refusal or message.content or ""), ending, usage.prompt_tokens, new)


_ADVICE = {
    401: "it refuses the key; set OPENAI_API_KEY",
    402: "the account has no money left",
    403: "this key may not do that",
    404: "is {model!r} served there, and does the address end as the server's does (/v1)?",
}


def _end_of_run(endpoint: Endpoint, error: "APIStatusError") -> LeapError:
    """For an HTTP error that every request would meet."""
    status = error.status_code
    if status < 400:
        there = endpoint.hidden(error.response.headers.get("location", ""))
        advice = (
            f"it redirects to {there or 'nowhere'}, where nothing is sent; if that is your server, give its address"
        )
    else:
        advice = _ADVICE.get(status, "the account's quota is used up").format(model=endpoint.shown_model)
    return LeapError(f"{endpoint.shown_url} answered {status} ({endpoint.hidden(words(error))}): {advice}")
