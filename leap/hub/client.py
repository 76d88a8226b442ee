"""A hub of models and data sets: which one answers, what a repository holds, the bytes of a file from any place on.

`huggingface_hub` brings the client, the user's token, metadata and the hub's errors. Two things are done here, and not
by it. Reading: since its 1.18 a file starts again from the first byte in every run. Listing: its `list_repo_tree` has
no time limit, waits as long as the hub says (a day, if so), and takes the token to whatever host the next page is at.
"""

import os
import threading
from collections.abc import Callable, Generator, Iterator
from functools import cached_property
from importlib import import_module
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

from pydantic import TypeAdapter

from leap.errors import LeapError, UsageError
from leap.hub.file_listing import HUB, HubFile, Repository, Snapshot, snapshot_of
from leap.hub.hub_errors import RetryableError, in_a_line, transport_errors, understood
from leap.network import http_client, is_address, never_proxied, origin, without_user
from leap.redaction import hide, keep_hidden

MIRROR = "https://hf-mirror.com"
_FILES = TypeAdapter(list[HubFile])
_TIMEOUT = 10.0  # seconds in which the hub must answer, or the mirror is asked


def find_hub(log: Callable[[str], None], hub: str = HUB, mirror: str = MIRROR, timeout: float = _TIMEOUT) -> "Hub":
    """The hub that HF_ENDPOINT names; else `hub`, or `mirror` where that does not answer within `timeout` seconds.

    The user's token goes to no mirror that the user has not named. Raises LeapError where none answers.
    """
    from huggingface_hub import is_offline_mode

    if is_offline_mode():
        raise LeapError("HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set: unset it to download")
    if named := os.environ.get("HF_ENDPOINT", "").strip().rstrip("/"):
        if not is_address(named):
            raise UsageError(f"HF_ENDPOINT={named}: an address is needed, such as {MIRROR}")
        if not _answers(named, timeout):
            raise LeapError(f"HF_ENDPOINT={named} does not answer; check it and the network, or unset it")
        log(hide(f"hub: {named} (HF_ENDPOINT)"))
        return Hub(named)
    if _answers(hub, timeout):
        return Hub(hub)
    log(f"{hub} does not answer within {timeout:g} s; using {mirror} (set HF_ENDPOINT to choose)")
    if _answers(mirror, timeout):
        return Hub(mirror, token=False, xet=False)  # Xet's storage is the hub's own
    raise LeapError(f"neither {hub} nor {mirror} answers; check the network or proxy, or set HF_ENDPOINT")


def use_client(address: str) -> None:
    """Let huggingface_hub ask the hub at `address` with a client of ours. Raises LeapError where none can be made."""
    from huggingface_hub import get_token, set_client_factory

    keep_hidden(get_token())  # it may come from a file
    _client(address).close()
    set_client_factory(lambda: _client(address))  # it makes a new one after a fork


def _client(address: str) -> Any:
    """What huggingface_hub makes for itself, but for the way to this machine."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils._http import hf_request_event_hook  # its client's own; it has no public name

    library = import_module(HfHubHTTPError.__bases__[0].__module__)  # it differs from release to release
    hooks = {"request": [hf_request_event_hook]}
    return http_client(library.Client, address, event_hooks=hooks, follow_redirects=True, timeout=None)


def _answers(address: str, timeout: float) -> bool:
    """Whether there is an HTTP answer, whatever it says. In a thread: finding a name has no time limit of its own."""
    client, answered = _client(address), SimpleQueue[bool]()

    def ask() -> None:
        try:
            with client:
                client.head(address, timeout=timeout)
            answered.put(True)
        except transport_errors():
            answered.put(False)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answered.get(timeout=timeout)
    except Empty:
        return False


class Hub:
    """One hub. Each method asks once: RetryableError where another try may help, LeapError where none would."""

    def __init__(self, endpoint: str, token: bool | None = None, xet: bool = True) -> None:
        """`token`: False sends none; None the user's, if there is one."""
        use_client(endpoint)
        self.endpoint = endpoint
        self._token, self._xet = token, xet
        self._lock = threading.Lock()
        self._groups: dict[str, Any] = {}  # by commit

    @cached_property
    def _headers(self) -> dict[str, str]:
        from huggingface_hub.utils import build_hf_headers

        return build_hf_headers(token=self._token, library_name="leap")

    @cached_property
    def _timeout(self) -> float:
        """Seconds without a byte; HF_HUB_DOWNLOAD_TIMEOUT sets it."""
        from huggingface_hub import constants

        return float(constants.HF_HUB_DOWNLOAD_TIMEOUT)

    def snapshot(self, repository: Repository) -> Snapshot:
        """The repository's files now, or at its revision."""
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self.endpoint, token=self._token)
        with understood(self.endpoint, repository):
            found = api.repo_info(
                repository.name, repo_type=repository.kind, revision=repository.revision, timeout=self._timeout
            )
            if not found.sha:
                raise LeapError(f"{self.endpoint} names no commit of {repository.name}; is it a hub?")
            files = list(self._listed(repository, found.sha))
        return snapshot_of(repository, found.sha, files)

    def _listed(self, repository: Repository, commit: str) -> Iterator[HubFile]:
        from huggingface_hub import get_session
        from huggingface_hub.utils import hf_raise_for_status

        page: str | None = f"{self.endpoint}/api/{repository.kind}s/{repository.name}/tree/{commit}?recursive=true"
        while page:
            answer = get_session().get(page, headers=self._headers, timeout=self._timeout)
            hf_raise_for_status(answer)
            yield from _FILES.validate_json(answer.content)
            found = answer.links.get("next", {}).get("url")
            page = self._own(found) if found else None

    def _own(self, page: str) -> str:
        """The next page's address. Raises LeapError where it leads to another host: our headers hold the token."""
        page = urljoin(f"{self.endpoint}/", page)
        if origin(page) == origin(HUB):  # a mirror may hand on the hub's own address
            return self.endpoint + urlunsplit(("", "", *urlsplit(page)[2:]))
        if origin(page) != origin(self.endpoint):
            raise LeapError(
                f"{self.endpoint}: its listing goes on at {without_user(page)}, another host, where nothing is asked; "
                "set HF_ENDPOINT to a hub that lists its own files"
            )
        return page

    def content(self, snapshot: Snapshot, file: HubFile, start: int) -> Generator[bytes, None, None]:
        """The file's bytes from `start` on, piece by piece: from Xet's storage until that fails once, else by HTTP."""
        session = self._xet_session if file.xet and self._xet else None
        if session is None:
            yield from self._by_http(snapshot, file, start)
        else:
            yield from self._by_xet(session, snapshot, file, start)

    def _by_http(self, snapshot: Snapshot, file: HubFile, start: int) -> Generator[bytes, None, None]:
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import hf_raise_for_status

        repository = snapshot.repository
        url = hf_hub_url(
            repository.name, file.path, repo_type=repository.kind, revision=snapshot.commit, endpoint=self.endpoint
        )
        headers = {**self._headers, "Accept-Encoding": "identity"}  # places in the file are places in the body
        if start:
            headers["Range"] = f"bytes={start}-"
        with (
            understood(self.endpoint, repository),
            get_session().stream("GET", url, headers=headers, timeout=self._timeout) as answer,
        ):
            hf_raise_for_status(answer)
            if answer.status_code == 206 and not answer.headers.get("content-range", "").startswith(f"bytes {start}-"):
                raise RetryableError(f"{file.path}: another part of the file came than was asked for")
            ahead = start if answer.status_code != 206 else 0  # a server may send the whole file all the same
            for piece in answer.iter_bytes():
                if len(piece) > ahead:
                    yield piece[ahead:]
                ahead = max(0, ahead - len(piece))

    @cached_property
    def _xet_session(self) -> Any:
        """None without the library, or where HF_HUB_DISABLE_XET says so."""
        from huggingface_hub import constants

        if constants.HF_HUB_DISABLE_XET:
            return None
        try:
            from hf_xet import XetSession
        except ImportError:  # a platform or an older release without it
            return None
        never_proxied(self.endpoint)
        return XetSession()

    def _by_xet(self, session: Any, snapshot: Snapshot, file: HubFile, start: int) -> Generator[bytes, None, None]:
        from hf_xet import XetFileInfo

        try:
            group = self._xet_group(session, snapshot)
            yield from group.download_stream(XetFileInfo(file.xet, file.size), start=start)
        except (OSError, RuntimeError, ValueError) as error:
            self._xet = False
            raise RetryableError(
                f"{file.path}: Xet's storage failed ({in_a_line(error)}); going on by plain HTTP", notify=True
            ) from error

    def _xet_group(self, session: Any, snapshot: Snapshot) -> Any:
        kind, name = snapshot.repository.kind, snapshot.repository.name
        with self._lock:  # one connection and one token for all files
            if snapshot.commit not in self._groups:
                self._groups[snapshot.commit] = session.new_download_stream_group(
                    token_refresh_url=f"{self.endpoint}/api/{kind}s/{name}/xet-read-token/{snapshot.commit}",
                    token_refresh_headers=self._headers,
                )
            return self._groups[snapshot.commit]
