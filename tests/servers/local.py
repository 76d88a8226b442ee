"""What the servers of the tests share: a free port of this machine, a thread for each request, a quiet handler."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests; `owner` is the server that it belongs to."""

    owner: Any
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass


class LocalServer:
    """A server from `with` to its end. `ended` is set when it ends, for handlers that hold a request back."""

    def __init__(self, handler: type[Handler]) -> None:
        self._handler = handler
        self.lock, self.ended = threading.Lock(), threading.Event()

    def __enter__(self) -> Self:
        handler = type("Handler", (self._handler,), {"owner": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name=type(self).__name__)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
