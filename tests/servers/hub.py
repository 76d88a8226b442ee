"""A hub with one model repository, for tests: `python hub.py FOLDER private|public` prints its address.

It answers the requests of an upload and asks for every file inside the commit itself.
"""

import base64
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

RECEIVED = Path(sys.argv[1])


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/api/repos/create":
            (RECEIVED / "created.json").write_bytes(body)
            self._answer({"url": f"http://{self.headers['Host']}/someone/leap-test", "id": "someone/leap-test"})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
            self._answer({"files": files})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                self._keep(json.loads(line))
            self._answer({"commitUrl": f"http://{self.headers['Host']}/someone/leap-test/commit/1", "commitOid": "1"})
        else:
            self.send_error(404, self.path)

    def _keep(self, entry: dict[str, Any]) -> None:
        if entry["key"] == "file":
            value = entry["value"]
            (RECEIVED / "files" / value["path"]).write_bytes(base64.b64decode(value["content"]))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, value: dict[str, Any]) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self._answer({"id": "someone/leap-test", "private": sys.argv[2] == "private"})

    def log_message(self, format: str, *arguments: Any) -> None:
        print(format % arguments, file=sys.stderr)


if __name__ == "__main__":
    (RECEIVED / "files").mkdir(parents=True)
    server = HTTPServer(("127.0.0.1", 0), Hub)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
