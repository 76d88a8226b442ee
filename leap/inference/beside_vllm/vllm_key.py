"""Read by vLLM's own process, which has no LEAP: each address of its server wants the key, not those under /v1 alone.

The addresses by which a server takes other weights let anyone call its insides: another user of the machine, or a page
in a browser.
"""

import hmac
import os
from typing import Any


class EveryAddressWantsTheKey:
    """ASGI middleware for `vllm serve --middleware`; the key is in VLLM_API_KEY. Only /health is for all."""

    def __init__(self, app: Any) -> None:
        self._app, self._wanted = app, f"Bearer {os.environ['VLLM_API_KEY']}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        free = scope["type"] == "lifespan" or scope.get("path") == "/health"
        if free or hmac.compare_digest(given, self._wanted):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body"})
        else:
            await send({"type": "websocket.close"})
