"""A stand-in for vLLM's Python environment: its command line, health and limit on images, and always one answer."""

import sys
from pathlib import Path

_MAIN = """
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

flags = dict(zip(sys.argv, sys.argv[1:]))
limit = json.loads(flags["--limit-mm-per-prompt"])["image"]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send(200, {"data": [{"id": "leap"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        parts = [part for message in body["messages"] for part in message["content"] if isinstance(part, dict)]
        images = sum(part["type"] == "image_url" for part in parts)
        if images > limit:
            self.send(400, {"error": {"message": f"At most {limit} image(s) may be provided in one prompt."}})
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": f"{images} images"}, "finish_reason": "stop"}
        self.send(200, {"model": "leap", "choices": [choice]})

    def send(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(flags["--port"])), Handler).serve_forever()
"""
_FILES = {
    "vllm/__init__.py": '__version__ = "0.99.0"\n',
    "vllm/platforms.py": 'class current_platform:\n    device_type = "cpu"\n',
    "vllm/entrypoints/__init__.py": "",
    "vllm/entrypoints/cli/__init__.py": "",
    "vllm/entrypoints/cli/main.py": _MAIN,
    "vllm-0.99.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: vllm\nVersion: 0.99.0\n",
}


def make_interpreter(folder: Path) -> str:
    """The path of a Python that finds the stand-in where it looks for vLLM."""
    for name, text in _FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return str(python)
