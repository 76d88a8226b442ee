"""A server behind the service, asked for as long as somebody waits for the response."""

import threading

import anyio
from anyio import to_thread
from servers.local import Handler, LocalServer

from leap.data.image import ImageSize
from leap.inference.openai import Endpoint
from leap.inference.protocol import Decoding, Request
from leap.records.training import Message
from leap.serving.backends import Behind


class _Patient(Handler):
    """It answers nothing, and notes when its client has gone."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.owner.asked.set()
        if not self.rfile.read(1):
            self.owner.left.set()


def test_a_client_that_leaves_takes_its_request_along() -> None:
    with LocalServer(_Patient) as server:
        server.asked, server.left = threading.Event(), threading.Event()  # type: ignore[attr-defined]
        backend = Behind(Endpoint(f"{server.address}/v1", "patient"), ImageSize(4, 9), timeout=60)
        request = Request(("1",), (Message(role="user", content="Plan."),), ())  # type: ignore[arg-type]

        async def leave() -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(backend.plan, request, Decoding(8))
                await to_thread.run_sync(server.asked.wait, 30)  # type: ignore[attr-defined]
                group.cancel_scope.cancel()

        anyio.run(leave)
        assert server.left.wait(10)  # type: ignore[attr-defined]
