"""Inference at a server that speaks OpenAI's chat protocol: vLLM, SGLang, LMDeploy, `transformers serve`, hosted ones.

Retries, waiting and concurrency are decided here, not by the client library, and every answer is checked: servers
ignore what they do not know, and fail in many ways. Text that looks like a special token is the server's to read.
"""

import os
import re
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

import anyio
from anyio import to_thread
from anyio.from_thread import start_blocking_portal
from pydantic import BaseModel, ValidationError

from leap.backoff import LONGEST_PAUSE, backoff, retry_after
from leap.data.image import ImageSize
from leap.errors import LeapError, UsageError
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
from leap.network import http_client, is_address, is_loopback, proxy_names, refuse_redirect, without_user
from leap.records.files import first_problem, read_record
from leap.redaction import hide, keep_hidden
from leap.terminal import first_few, in_one_line, shorten

if TYPE_CHECKING:
    from openai import APIConnectionError, APIStatusError, AsyncOpenAI

NO_KEY = "none"  # local servers want none, the client library wants one
OPENAI_URL = "https://api.openai.com/v1"  # the client library's own default
_MODELS_SHOWN = 20
_CONNECTIONS = 1000  # the client library opens no more
_CONNECT = 15.0  # seconds to open a connection
_LONGEST_BACKOFF = 60.0  # seconds
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
    url = url.rstrip("/").removesuffix("/chat/completions")
    endpoint = Endpoint(url, model or "", key, **limits)
    models = _models(endpoint)
    if model:
        return endpoint
    if models is None or len(models) != 1:
        raise UsageError(f"{endpoint.shown_url}: name one of its models with --model ({_listed(models)})")
    return replace(endpoint, model=models[0])


def _listed(models: list[str] | None) -> str:
    if models is None:
        return "it does not list them"
    return "it has " + (first_few(sorted(map(hide, models)), _MODELS_SHOWN) or "none")


def _models(endpoint: Endpoint) -> list[str] | None:
    """Names of the server's models; None where it does not list any."""
    import openai

    timeout = openai.Timeout(min(30.0, endpoint.timeout))
    client = _client(endpoint, openai.OpenAI, openai.DefaultHttpxClient, refuse_redirect, timeout, max_retries=1)
    with client:
        try:
            body = client.models.with_raw_response.list().content
            return [model.id for model in _ModelList.model_validate_json(body).data]
        except openai.APIConnectionError as error:
            _refuse_misled(error)
            raise _no_server(endpoint, cause(error)) from error
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):
                _refuse_run(endpoint, error)
            return None
        except ValidationError:
            return None


def _client(
    endpoint: Endpoint, protocol: type, http: type, redirects: Callable[..., Any], timeout: Any, max_retries: int
) -> Any:
    """The library's client, with the endpoint's address and key. Raises LeapError where none can be made."""
    sent = http_client(http, endpoint.base_url, timeout=timeout, event_hooks={"response": [redirects]})
    return protocol(
        base_url=endpoint.base_url,
        api_key=endpoint.api_key,
        timeout=timeout,
        max_retries=max_retries,
        http_client=sent,
    )


async def _refuse_redirect(response: Any) -> None:
    refuse_redirect(response)


def _refuse_misled(error: "APIConnectionError") -> None:
    """Raises LeapError for a redirect that is not followed, or one of too many: no request would fare better."""
    reason = error.__cause__
    if isinstance(reason, LeapError):
        raise reason
    if type(reason).__name__ == "TooManyRedirects":
        raise LeapError(f"{without_user(str(error.request.url))} redirects in a circle; correct the address") from error


def _no_server(endpoint: Endpoint, why: str) -> LeapError:
    proxies = "" if is_loopback(endpoint.base_url) else proxy_names()
    through = f", or {proxies}, through which it is asked" if proxies else ""
    return LeapError(f"no server at {endpoint.shown_url} ({why}); start it or correct the address{through}")


class OpenAiEngine:
    """One model at one server. Nothing is kept open between calls of `responses`.

    Answers are asked for as JSON of a `schema`; a server that takes none is asked without, and `describe` says so.
    """

    def __init__(self, endpoint: Endpoint, images: ImageSize, schema: Mapping[str, Any] | None = None) -> None:
        from leap.data import image_urls  # noqa: F401  (loads libraries; see there)

        self._endpoint, self._images, self._schema, self._server = endpoint, images, schema, endpoint.server

    def describe(self) -> dict[str, Any]:
        """`server_model` is what the answers so far named as their model; `fields_refused` the server does not take."""
        refused = self._server.fields.left_out
        return {
            "engine": "openai",
            "base_url": self._endpoint.shown_url,
            "model": self._endpoint.shown_model,
            "server_model": first_few(sorted(self._server.models), _MODELS_SHOWN) or None,
            "concurrency": self._endpoint.concurrency,
            **({"takes_json_schema": "response_format" not in refused} if self._schema else {}),
            **({"fields_refused": sorted(refused)} if refused else {}),
        }

    def close(self) -> None:
        pass

    def responses(self, requests: Sequence[Request], decoding: Decoding) -> Generator[Response, None, None]:
        """Answers as they come. Closing the iterator, or an interruption, ends all requests and their thread."""
        finished: SimpleQueue[Response | None] = SimpleQueue()
        with start_blocking_portal() as portal:
            run = portal.start_task_soon(self._response_all, requests, decoding, finished.put)
            run.add_done_callback(lambda _: finished.put(None))
            while (response := finished.get()) is not None:
                yield response
            run.result()

    async def _response_all(
        self, requests: Sequence[Request], decoding: Decoding, finished: Callable[[Response], None]
    ) -> None:
        import openai

        endpoint, waiting = self._endpoint, iter(requests)
        timeout = openai.Timeout(endpoint.timeout, connect=min(_CONNECT, endpoint.timeout))
        http = openai.DefaultAsyncHttpxClient
        async with _client(endpoint, openai.AsyncOpenAI, http, _refuse_redirect, timeout, max_retries=0) as client:
            run = _Run(endpoint, client, self._server, self._images, decoding, len(requests), self._schema)

            async def work() -> None:
                for request in waiting:  # shared: each takes the next, so that few images are in memory
                    finished(await run.response(request))

            try:
                async with anyio.create_task_group() as group:
                    for _ in range(min(endpoint.concurrency, len(requests))):
                        group.start_soon(work)
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None


class _Refused(Exception):
    """No answer to this request, and asking again would not help. The tokens are paid for all the same."""

    def __init__(self, text: str, usage: Usage | None = None) -> None:
        super().__init__(text)
        self.usage = usage or Usage()


class _BadBody(Exception):
    """An answer that is none: broken on the way, or not of the protocol."""


class _RetryableError(Exception):
    """No answer this time."""


class _Unreachable(_RetryableError):
    """Not even a connection."""


class _Run:
    """One call of `responses`."""

    def __init__(
        self,
        endpoint: Endpoint,
        client: "AsyncOpenAI",
        server: _Server,
        images: ImageSize,
        decoding: Decoding,
        requests: int,
        schema: Mapping[str, Any] | None,
    ) -> None:
        self._endpoint, self._client, self._server = endpoint, client, server
        self._images, self._decoding, self._schema = images, decoding, schema
        self._throttle = Throttle(endpoint.concurrency)
        self._packing = anyio.CapacityLimiter(os.cpu_count() or 1)
        self._unreachable, self._retries = 0, min(_UNREACHABLE, requests)

    async def response(self, request: Request) -> Response:
        """The request's answer, or its error after all retries. Raises LeapError where no request can be answered."""
        try:
            messages = await to_thread.run_sync(
                chat_messages, request, self._images, self._endpoint.readable, limiter=self._packing
            )
        except LeapError as error:  # this request's own images
            return Response(request.key, error=str(error))
        bad_bodies, tries = 0, 0
        while True:
            tries += 1
            try:
                return await self._ask(request.key, messages)
            except _Refused as failure:
                tokens = failure.usage.prompt_tokens, failure.usage.completion_tokens
                return Response(request.key, error=str(failure), prompt_tokens=tokens[0], new_tokens=tokens[1])
            except _BadBody as failure:
                bad_bodies += 1
                last: Exception = failure
            except _RetryableError as failure:
                last = failure
            if bad_bodies == _BODIES or tries > self._endpoint.retries:
                self._note_unreachable(last)
                return Response(request.key, error=f"{last} (asked {tries} times)")
            await anyio.sleep(backoff(tries, self._endpoint.backoff, _LONGEST_BACKOFF))

    def _note_unreachable(self, failure: Exception) -> None:
        if isinstance(failure, _Unreachable):
            self._unreachable += 1
            if self._unreachable >= self._retries:
                raise _no_server(self._endpoint, str(failure))

    async def _ask(self, key: tuple[str, ...], messages: list[dict[str, Any]]) -> Response:
        import openai

        timeout = self._endpoint.timeout
        async with self._throttle.slot() as sent_under:
            self._throttle.pause(self._endpoint.interval)
            try:
                with anyio.fail_after(timeout):  # the client's own timeout is for each piece of a body
                    body = await self._send(messages)
            except openai.APIConnectionError as error:
                self._lost(error)
            except TimeoutError as error:
                self._unreachable = 0
                raise _RetryableError(f"no whole answer within {timeout:g} s") from error
            except openai.APIStatusError as error:
                self._unreachable = 0
                if is_content_filter(error):
                    return Response(key, "", "filtered")
                self._refusal(error, sent_under)
        self._unreachable = 0
        self._throttle.speed_up()
        return self._checked(key, body)

    async def _send(self, messages: list[dict[str, Any]]) -> bytes:
        """The body of an accepted request, whichever of our fields had to be left out for it."""
        import openai

        fields = self._server.fields
        while True:
            sent = fields.of(self._decoding, self._schema)
            try:
                response = await self._client.chat.completions.with_raw_response.create(
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

    def _lost(self, error: "APIConnectionError") -> NoReturn:
        import openai

        _refuse_misled(error)
        if type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout"):
            raise _Unreachable(self._endpoint.hidden(cause(error))) from error
        self._unreachable = 0
        if isinstance(error, openai.APITimeoutError):
            raise _RetryableError(f"no whole answer within {self._endpoint.timeout:g} s") from error
        raise _RetryableError(f"the connection was lost ({self._endpoint.hidden(cause(error))})") from error

    def _refusal(self, error: "APIStatusError", sent_under: int) -> NoReturn:
        """What an HTTP error means: for the whole run, for this try, or for this request alone."""
        status = error.status_code
        if status in (401, 402, 403, 404) or (status == 429 and error.code == "insufficient_quota"):
            _refuse_run(self._endpoint, error)
        text = f"the server answered {status} ({self._endpoint.hidden(words(error))})"
        if status not in (408, 409, 425, 429) and status < 500:
            raise _Refused(text) from error
        if status == 429:
            self._throttle.slow_down(sent_under)
        wait = retry_after(error.response.headers)
        if wait > LONGEST_PAUSE:
            raise LeapError(
                f"{text}: it asks for {wait:.0f} s of patience; the same command continues later"
            ) from error
        self._throttle.pause(wait)
        raise _RetryableError(text) from error

    def _checked(self, key: tuple[str, ...], body: bytes) -> Response:
        try:
            completion = read_record(body, Completion)
        except ValidationError as error:
            problem = self._endpoint.hidden(first_problem(error))
            raise _BadBody(f"the server's answer is no chat completion ({problem})") from error
        if completion.model:
            self._server.models.add(shorten(hide(completion.model), 200))
        (choice,), usage = completion.choices, completion.usage or Usage()
        ending, message = choice.ending(), choice.message or Message()
        if choice.message is None and ending != "filtered":
            raise _BadBody("the server's answer is no chat completion (a choice without a message)")
        if ending is None:
            said = self._endpoint.hidden(str(choice.finish_reason))
            reason = f"the answer ended with {said}, which is neither its end nor the limit of new tokens"
            raise _Refused(reason, usage)
        if ending in ("stop", "length"):
            self._check_length(usage)
        text = hide(message.refusal or message.content or "")
        return Response(key, text, ending, usage.prompt_tokens, usage.completion_tokens)

    def _check_length(self, usage: Usage) -> None:
        """An answer of another length than all others could have is no answer to the same question."""
        least, most = self._decoding.min_new_tokens, self._decoding.max_new_tokens
        new = usage.completion_tokens
        if new is not None and not least <= new <= most:
            field = "min_tokens" if new < least else self._server.fields.limit
            raise _Refused(f"{new} new tokens where {least} to {most} were asked for: it ignores {field}", usage)


def _refuse_run(endpoint: Endpoint, error: "APIStatusError") -> NoReturn:
    advice = {
        401: "it refuses the key; set OPENAI_API_KEY",
        402: "the account has no money left",
        403: "this key may not do that",
        404: f"is {endpoint.shown_model!r} served there, and does the address end as the server's does (/v1)?",
        429: "the account's quota is used up",
    }[error.status_code]
    raise LeapError(
        f"{endpoint.shown_url} answered {error.status_code} ({endpoint.hidden(words(error))}): {advice}"
    ) from error
