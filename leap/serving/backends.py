"""Who answers: an engine in this process, or a server behind this one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, StreamingResponse
from starlette.responses import Response as HttpResponse

from leap.data.image import ImageSize
from leap.errors import LeapError
from leap.inference.chat_protocol import fenced_json_format
from leap.inference.openai import Endpoint, OpenAiEngine, open_client
from leap.inference.protocol import Decoding, Engine, Request, Response
from leap.inference.vllm import VllmEngine
from leap.serving.chat_requests import chat_request, completion, read_chat, refuse_too_much
from leap.serving.plans import PLAN_SCHEMA
from leap.serving.refusals import Refused
from leap.serving.request_batches import Batches

if TYPE_CHECKING:
    from openai import AsyncOpenAI


class InProcess:
    """transformers in this process; requests that wait are answered together."""

    def __init__(self, engine: Engine, model: str, rows: int, max_new_tokens: int) -> None:
        self.model, self._engine, self._max_new_tokens = model, engine, max_new_tokens
        self._batches = Batches(engine, rows)

    async def plan(self, request: Request, decoding: Decoding) -> Response:
        """No engine in this process can be held to a plan: what was asked for is what it writes, in a chat too."""
        try:
            response = await asyncio.wrap_future(self._batches.ask(request, decoding))
        except LeapError as error:
            raise Refused(503, str(error)) from error
        if response.error is not None:
            lacks_memory = response.error.startswith("out of memory")
            raise Refused(503 if lacks_memory else 400, response.error)
        return response

    async def chat(self, body: dict[str, Any]) -> HttpResponse:
        chat = read_chat(body)
        response = await self.plan(await chat_request(chat), chat.decoding(self._max_new_tokens))
        return JSONResponse(completion(response, self.model))

    def failure(self) -> BaseException | None:
        return self._batches.failure

    def close(self) -> bool:
        """Whether it came to rest."""
        return self._batches.close()


class Behind:
    """A server that speaks the same protocol; ours is before it for plans, limits and the page.

    `vllm` is the engine whose server it is, where it is our own.
    """

    def __init__(self, endpoint: Endpoint, images: ImageSize, timeout: float, vllm: VllmEngine | None = None) -> None:
        self.model, self._vllm = endpoint.model, vllm
        self._endpoint = replace(endpoint, timeout=timeout, retries=1)
        self._engine = OpenAiEngine(self._endpoint, images, fenced_json_format(PLAN_SCHEMA))
        self._client: AsyncOpenAI | None = None

    async def plan(self, request: Request, decoding: Decoding) -> Response:
        try:
            response = await self._engine.response(request, decoding)
        except LeapError as error:
            raise Refused(502, str(error)) from error
        if response.error is not None:
            raise Refused(502, response.error)
        return response

    async def chat(self, body: dict[str, Any]) -> HttpResponse:
        """Passed on as it is, streams included, once it is sure that nothing will be fetched for it."""
        import openai

        await refuse_too_much(body)
        stack = AsyncExitStack()
        try:
            answer = await stack.enter_async_context(
                self._open().chat.completions.with_streaming_response.create(model="", messages=[], extra_body=body)
            )
        except openai.APIStatusError as error:
            content = await error.response.aread()
            return HttpResponse(content, error.status_code, media_type=error.response.headers.get("content-type"))
        except openai.APIConnectionError as error:
            raise Refused(502, f"the server behind this one does not answer ({error})") from error

        async def pieces() -> AsyncIterator[bytes]:
            async with stack:
                async for piece in answer.iter_bytes():
                    yield piece

        return StreamingResponse(pieces(), answer.status_code, media_type=answer.headers.get("content-type"))

    def _open(self) -> "AsyncOpenAI":
        """One client for all requests, made in the loop that uses it."""
        import openai

        if self._client is None:
            self._client = open_client(self._endpoint, openai.AsyncOpenAI, openai.DefaultAsyncHttpxClient, None, 0)
        assert self._client
        return self._client

    def failure(self) -> BaseException | None:
        try:
            if self._vllm:
                self._vllm.check()
        except LeapError as error:
            return error
        return None

    def close(self) -> bool:
        if self._vllm:
            self._vllm.close()
        return True


Backend = InProcess | Behind
