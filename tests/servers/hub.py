"""A hub on this machine that speaks the hub's protocol, fails as it is told, and remembers what it sent.

    with HubServer([Stored("someone/data", "dataset", {"a.txt": b"..."})], plan=plan) as hub:
        ... hub.url ... hub.seen ... hub.sent["a.txt"]

A plan says what happens to each request for a file's content or for a listing, to each upload of one, and to each
commit: None is a right answer. It takes uploads too, large files by git LFS' protocol: what a commit has lies in
`hub.received`.
"""

import base64
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from servers.hub_store import Fault, Plan, Seen, Stored, faultless
from servers.local import Handler, LocalServer

PAGE = 7  # files in a page of a listing


class HubServer(LocalServer):
    """A hub on a free port of this machine, from `with` to its end."""

    def __init__(self, stored: Sequence[Stored], plan: Plan = faultless, upstream: str = "") -> None:
        """`upstream`: the address that its listings' links name in place of its own."""
        super().__init__(_Handler)
        self.stored = {(repository.kind, repository.name): repository for repository in stored}
        self.plan, self.upstream = plan, upstream
        self.seen, self.attempts = list[Seen](), Counter[tuple[str, str]]()
        self.sent = Counter[str]()  # bytes of each file's content
        self.received, self.created = dict[str, bytes](), b""
        self.large = dict[str, bytes]()  # uploaded contents by their SHA-256; a commit names those that it takes

    @property
    def url(self) -> str:
        return self.address

    def reset(self, plan: Plan = faultless) -> None:
        """Forget what was seen and sent, and follow another plan."""
        with self.lock:
            self.plan, self.seen, self.attempts, self.sent = plan, [], Counter(), Counter()

    def arrive(self, what: str, path: str, start: int, token: str | None) -> Seen:
        with self.lock:
            seen = Seen(what, path, self.attempts[what, path], start, token, time.monotonic())
            self.attempts[what, path] += 1
            self.seen.append(seen)
        return seen


class _Handler(Handler):
    owner: HubServer

    def do_HEAD(self) -> None:
        self.do_GET()  # the bodies are left out where they are written

    def do_GET(self) -> None:
        try:
            self._get(urlsplit(self.path))
        except OSError:  # the client has gone
            self.close_connection = True

    def _get(self, url: Any) -> None:
        path = unquote(url.path)
        if match := re.fullmatch(r"/content/(model|dataset)/([^/]+/[^/]+)/(.*)", path):
            return self._content(self.owner.stored[match[1], match[2]], match[3])
        match = re.fullmatch(
            r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/(revision|tree|xet-read-token)/([^/]+)(?:/(.+))?)?", path
        )
        if match:
            return self._api(*match.groups(), query=parse_qs(url.query))
        match = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/(main|[0-9a-f]{40})/(.*)", path)
        if match is None:  # what else the client asks a hub for
            return self._send(404, b"{}")
        return self._resolve("dataset" if match[1] else "model", match[2], match[4])

    def _api(
        self, kind: str, name: str, what: str | None, revision: str, folder: str | None, query: Mapping[str, Any]
    ) -> None:
        stored = self.owner.stored.get((kind, name))
        if stored is None:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if stored.refuses:
            return self._send(stored.refuses[0], b"{}", {"X-Error-Code": stored.refuses[1]})
        if revision not in (None, "main", stored.commit):
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if what == "xet-read-token":
            token = {"accessToken": "x", "exp": int(time.time()) + 3600, "casUrl": stored.xet_storage}
            return self._send(200, json.dumps(token).encode())
        if what != "tree":
            about = {"id": name, "sha": stored.commit, "private": stored.private, "siblings": []}
            return self._send(200, json.dumps(about).encode())
        if folder and not any(path.startswith(f"{folder}/") for path in stored.files):
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        if not self._failed(self._seen("list", f"{kind}s/{name}")):
            below = f"{folder}/" if folder else ""
            flat = query.get("recursive") == ["false"]
            entries = [
                entry
                for entry in stored.entries()
                if entry["path"].startswith(below) and not (flat and "/" in entry["path"].removeprefix(below))
            ]
            self._page(stored, kind, entries, int(query.get("cursor", ["0"])[0]))

    def _page(self, stored: Stored, kind: str, entries: list[dict[str, Any]], start: int) -> None:
        more = f"{self.owner.upstream or self.owner.url}/api/{kind}s/{stored.name}/tree/{stored.commit}"
        link = {"Link": f'<{more}?recursive=true&cursor={start + PAGE}>; rel="next"'}
        content = json.dumps(entries[start : start + PAGE]).encode()
        self._send(200, content, link if start + PAGE < len(entries) else {})

    def _resolve(self, kind: str, name: str, path: str) -> None:
        """As the hub does: git's own files at once, large ones at another address, without the token."""
        stored = self.owner.stored[kind, name]
        headers = {"X-Repo-Commit": stored.commit, "ETag": f'"{stored.entry(path)["oid"]}"'}
        if lfs := stored.entry(path).get("lfs"):
            headers |= {"X-Linked-Etag": f'"{lfs["oid"]}"', "X-Linked-Size": str(lfs["size"])}
            self._seen("other", path)
            place = f"http://localhost:{self.owner.port}/content/{kind}/{name}/{path}"
            return self._send(302, b"", headers | {"Location": place})
        return self._content(stored, path, headers)

    def _content(self, stored: Stored, path: str, headers: Mapping[str, str] | None = None) -> None:
        seen = self._seen("file", path)
        if self._failed(seen):
            return
        fault = self.owner.plan(seen) or Fault("none")
        content = stored.files[path]
        if fault.wrong:
            content = content[: len(content) // 2] + b"\xff" + content[len(content) // 2 + 1 :]
        start = 0 if fault.whole else seen.start
        made = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        self.send_response(206 if start else 200)
        for name, value in {**(headers or {}), **made, "Content-Length": str(len(content) - start)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._body(path, content[start:][: fault.cut_after], fault)
        if fault.cut_after is not None:
            self.close_connection = True

    def _body(self, path: str, content: bytes, fault: Fault) -> None:
        step = fault.step if fault.slow else max(1, len(content))
        for place in range(0, len(content), step):
            if fault.slow and self.owner.ended.wait(fault.slow):
                self.close_connection = True
                return
            piece = content[place : place + step]
            self.wfile.write(piece)
            with self.owner.lock:
                self.owner.sent[path] += len(piece)

    def _failed(self, seen: Seen) -> bool:
        """Whether the plan gives an error in place of an answer."""
        fault = self.owner.plan(seen)
        if fault is None or fault.status == 200:
            return False
        self._send(fault.status, b'{"error": "planned"}', fault.headers)
        return True

    def _seen(self, what: str, path: str) -> Seen:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return self.owner.arrive(what, path, int(asked[1]) if asked else 0, self.headers.get("Authorization"))

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self._request_body()
        name = next((repository.name for repository in self.owner.stored.values()), "someone/new")
        if self.path == "/api/repos/create":
            self.owner.created = body
            answer: dict[str, Any] = {"url": f"{self.owner.url}/{name}", "id": name}
        elif self.path == "/api/validate-yaml":
            answer = {"errors": [], "warnings": []}
        elif "/preupload/" in self.path:
            answer = {"files": [self._upload_mode(file) for file in json.loads(body)["files"]]}
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            answer = {"transfer": "basic", "objects": [self._lfs_action(one) for one in json.loads(body)["objects"]]}
        elif "/commit/" in self.path:
            if self._failed(self._seen("commit", name)):
                return None
            entries = [json.loads(line) for line in body.splitlines()]
            sent = {entry["value"]["path"]: self._committed(entry) for entry in entries if entry["key"] != "header"}
            self.owner.received |= sent
            answer = {"commitUrl": f"{self.owner.url}/{name}/commit/1", "commitOid": "1"}
        else:
            return self._send(404, b"{}")
        return self._send(200, json.dumps(answer).encode())

    def _upload_mode(self, file: Mapping[str, Any]) -> dict[str, Any]:
        mode = "lfs" if file["size"] >= next(iter(self.owner.stored.values())).lfs_from else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}

    def _lfs_action(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Where a content is to be put; nowhere if it is here already."""
        if wanted["oid"] in self.owner.large:
            return dict(wanted)
        return {**wanted, "actions": {"upload": {"href": f"{self.owner.url}/large/{wanted['oid']}"}}}

    def _committed(self, entry: Mapping[str, Any]) -> bytes:
        file = entry["value"]
        return self.owner.large[file["oid"]] if entry["key"] == "lfsFile" else base64.b64decode(file["content"])

    def do_PUT(self) -> None:
        body, oid = self._request_body(), self.path.rpartition("/")[2]
        if self._failed(self._seen("upload", oid)):
            return
        right = hashlib.sha256(body).hexdigest() == oid
        if right:
            self.owner.large[oid] = body
        self._send(200 if right else 400, b"{}")

    def _request_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body
