"""What the servers of the tests share: a free port of this machine, a thread for each request, a quiet handler."""

import socket
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

    def __init__(self, handler: type[Handler], host: str = "127.0.0.1") -> None:
        self._handler, self._host = handler, host
        self.lock, self.ended = threading.Lock(), threading.Event()

    def __enter__(self) -> Self:
        handler = type("Handler", (self._handler,), {"owner": self})
        kind = _Server6 if ":" in self._host else _Server
        self._server = kind((self._host, 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name=type(self).__name__)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def address(self) -> str:
        return f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{self.port}"

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


class _Server6(_Server):
    address_family = socket.AF_INET6
