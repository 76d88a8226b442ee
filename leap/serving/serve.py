"""The service from its first moment to its last: the port, the engine, and an end that leaves nothing behind."""

import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from leap.data.image import ImageSize
from leap.errors import LeapError, Stopped
from leap.inference.engines import EngineOptions, ModelToOpen
from leap.inference.protocol import Decoding
from leap.inference.vllm import VllmEngine
from leap.network import is_loopback
from leap.serving.backends import Backend, Behind, InProcess
from leap.serving.door import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

_ROWS = 32  # of a batch in this process: what waits while one is answered
_TO_FINISH = 5  # seconds that requests under way have when the service ends


def bind(host: str, port: int) -> socket.socket:
    """The port, before anything is loaded: who connects waits until it is. Raises LeapError where it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen()  # with SO_REUSEADDR a second service would get the port as well, until one of them listens
    except OSError as error:
        raise LeapError(
            f"{host}:{port} cannot be served at ({error.strerror}); choose another --port or --host"
        ) from error
    return bound


def shown_address(host: str, bound: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"


def host_names(host: str) -> list[str]:
    """Under which names requests may come: on this machine's own address only those of this machine."""
    if not is_loopback(f"http://{f'[{host}]' if ':' in host else host}"):
        return ["*"]
    return ["localhost", "127.0.0.1", "::1", "[::1]", host]


def model_id(name: str) -> str:
    """A folder's name as a name in the protocol, which other programs write into paths and flags."""
    return re.sub(r"[^\w.-]+", "-", name)


def open_backend(
    options: EngineOptions, model: ModelToOpen | None, images: ImageSize, decoding: Decoding, limits: Limits
) -> Backend:
    """The engine, loaded; `model` is None where a server has it. Raises LeapError where that fails."""
    if model is None:
        return Behind(options.endpoint(), images, limits.seconds)
    if options.engine == "hf":  # prepared in its own thread: worker processes would be forked anew for every batch
        options.given.setdefault("workers", 0)
    engine = options.open(model)
    if isinstance(engine, VllmEngine):
        return Behind(engine.endpoint(decoding), images, limits.seconds, engine)
    return InProcess(engine, model.name, options.given.get("batch_size", _ROWS), decoding.max_new_tokens)


def serve(app: "FastAPI", backend: Backend, bound: socket.socket) -> None:
    """Until a signal, which is raised as Stopped, or until the engine ends, whose failure is raised."""
    import uvicorn

    async def watch() -> None:
        server.should_exit |= backend.failure() is not None

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_TO_FINISH,
        callback_notify=watch,
        timeout_notify=1,
    )
    server = uvicorn.Server(config)
    server.run(sockets=[bound])
    if failure := backend.failure():
        raise failure


@contextmanager
def ended_in_order(open_engine: Callable[[], Backend]) -> Iterator[Backend]:
    """The backend; SIGINT and SIGTERM, also while it is loaded, are raised as Stopped, and it is closed in the end."""
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        backend = open_engine()
        try:
            yield backend
        except Stopped as stopped:
            if not backend.close():
                # It computes for seconds more, and PyTorch crashes where the interpreter ends under its threads.
                print(stopped, file=sys.stderr, flush=True)
                os._exit(128 + stopped.signal)
            raise
        finally:
            backend.close()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _: Any) -> None:
    raise Stopped(f"stopped by {signal.Signals(number).name}", number)
