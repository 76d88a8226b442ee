"""What every request passes before it is read: the key, a place among those under way, bounds on size and time."""

import asyncio
import hmac
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import anyio
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from leap.serving.refusals import Refused

_DRAINED = 2**28  # bytes of a refused body that are read and dropped, so that its sender gets to read why
_TO_DRAIN = 10.0  # seconds
_LONGEST_LENGTH = 20  # digits


@dataclass(frozen=True)
class Limits:
    """Of one server."""

    waiting: int = 64  # requests under way and waiting; others are sent away
    body: int = 2**25  # bytes; base64 makes a third more of an image
    seconds: float = 300.0  # a request, from its first byte to its last


class Places:
    """Those of the requests under way."""

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Raises Refused where all are taken."""
        if self._taken >= self._most:
            raise Refused(429, f"{self._most} requests are under way or waiting; ask again in a moment", retry=True)
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


class Door:
    """ASGI middleware. The key and the places are for the programs' interfaces; the page has its own."""

    def __init__(self, app: ASGIApp, limits: Limits, places: Places, api_key: str | None) -> None:
        self._app, self._limits, self._places = app, limits, places
        self._expected = f"Bearer {api_key}".encode() if api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = whole = False

        async def receive_noting() -> Message:
            nonlocal whole
            message = await receive()
            whole = message["type"] != "http.request" or not message.get("more_body")
            return message

        async def send_noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._let_in(scope, receive_noting, send_noting)
        except ClientDisconnect:  # in the middle of its body
            pass
        except asyncio.CancelledError:  # the service ends, and cancels what it has waited for in vain
            if not started:
                await Refused(503, "the service has ended").to_response()(scope, receive, send)
        except Refused as refusal:
            if not whole:
                await _drain(receive)
            if not started:
                await refusal.to_response()(scope, receive, send)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        guarded = scope["path"].startswith(("/plan", "/v1/"))
        headers = Headers(scope=scope)
        if guarded and self._expected and not self._has_key(headers):
            raise Refused(401, "the API key is missing or wrong; send it as Authorization: Bearer KEY")
        # Browsers say so truthfully. Any page could else make a service of this machine compute.
        if scope["method"] == "POST" and headers.get("sec-fetch-site") == "cross-site":
            raise Refused(403, "pages of other sites may ask nothing here")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > _LONGEST_LENGTH or int(length) > self._limits.body:
            raise self._too_large()
        asks = guarded and scope["method"] == "POST"
        with self._places.one() if asks else nullcontext():
            try:
                with anyio.fail_after(self._limits.seconds if asks else None):
                    await self._while_wanted(scope, receive, send)
            except TimeoutError as error:
                raise Refused(504, f"no response within {self._limits.seconds:g} s") from error

    def _has_key(self, headers: Headers) -> bool:
        assert self._expected
        return hmac.compare_digest(headers.get("authorization", "").encode(), self._expected)

    async def _while_wanted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Given up when the client goes away, which nobody notices who does not wait for its next message."""
        read, whole, gone = 0, False, anyio.Event()

        async def receive_bounded() -> Message:
            nonlocal read, whole
            if whole:
                await gone.wait()
                return {"type": "http.disconnect"}
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limits.body:  # without its length in the headers it is counted as it comes
                raise self._too_large()
            if whole := message["type"] == "http.request" and not message.get("more_body"):
                group.start_soon(watch)
            return message

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()
            group.cancel_scope.cancel()

        try:
            async with anyio.create_task_group() as group:
                await self._app(scope, receive_bounded, send)
                group.cancel_scope.cancel()
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    def _too_large(self) -> Refused:
        return Refused(413, f"the body is too large; send at most {self._limits.body:,} bytes")


async def _drain(receive: Receive) -> None:
    dropped = 0
    with anyio.move_on_after(_TO_DRAIN):
        while dropped < _DRAINED:
            message = await receive()
            dropped += len(message.get("body", b""))
            if message["type"] != "http.request" or not message.get("more_body"):
                return
