"""Which way requests go, and which hosts they reach: the environment's proxies, redirects, a listing's next page."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import run_script
from downloading import DATA, QUICK, SIZES, get, on_disk, stored
from downloading import online as online
from hypothesis import given
from hypothesis import strategies as st
from servers import faulty_openai as faulty
from servers import hub_store
from servers.faulty_openai import Fault, FaultyServer
from servers.hub import HubServer

from leap.data.image import ImageSize
from leap.errors import LeapError, UsageError
from leap.hub.client import find_hub
from leap.hub.download import download, everything, log
from leap.inference.openai import Endpoint, OpenAiEngine, find_endpoint
from leap.inference.protocol import Decoding, Request, Response
from leap.network import is_loopback, never_proxied
from leap.records.training import Message

DEAD = "http://127.0.0.1:9"  # no proxy answers there
NONSENSE = [
    "socks5://127.0.0.1:7890", "socks5h://127.0.0.1:7890", "socks4://127.0.0.1:7890", "socks://127.0.0.1:7890",
    "nonsense://x", "::::", "http://[::1", "http://127.0.0.1:99999", "http://", "http://a..b:1", "   ", "\x01",
]  # fmt: skip
SPELLINGS = ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*SPELLINGS, "no_proxy", "NO_PROXY"]:
        monkeypatch.delenv(name, raising=False)


def ask(url: str, count: int = 1) -> list[Response]:
    requests = [Request(("task", str(n)), (Message(role="user", content=f"ask {n}"),), ()) for n in range(count)]
    endpoint = Endpoint(url, faulty.MODEL, faulty.KEY, timeout=20, retries=1, backoff=0.01)
    return list(OpenAiEngine(endpoint, ImageSize(4, 9)).responses(requests, Decoding()))


# This machine


@pytest.mark.parametrize(
    "host",
    "localhost LOCALHOST localhost. a.localhost ip6-localhost 127.0.0.1 127.0.0.2 127.255.0.1 127.1 2130706433 "
    "0.0.0.0 [::1] [::] [::ffff:127.0.0.1] user:pw@127.0.0.1".split(),
)
def test_hosts_that_are_this_machine(host: str) -> None:
    assert is_loopback(f"http://{host}:8000/v1")


@pytest.mark.parametrize(
    "host",
    "localhost.example.org 127.0.0.1.example.org example.org 128.0.0.1 10.0.0.1 [2001:db8::1] localhosts "
    "127.0.0.1@example.org 1270.0.0.1".split(),
)
def test_hosts_that_are_not(host: str) -> None:
    assert not is_loopback(f"http://{host}:8000/v1")


@given(st.integers(0, 2**32 - 1))
def test_exactly_127_and_0_are_this_machine(number: int) -> None:
    host = socket.inet_ntoa(number.to_bytes(4, "big"))
    assert is_loopback(f"http://{host}/") == (host.startswith("127.") or host == "0.0.0.0")


# Proxies


@pytest.mark.parametrize(
    ("name", "proxy"),
    [
        *((name, DEAD) for name in SPELLINGS),
        *(("all_proxy", proxy) for proxy in ("socks5://127.0.0.1:9", "socks://127.0.0.1:9", "nonsense")),
    ],
)
def test_a_server_on_this_machine_is_asked_directly(monkeypatch: pytest.MonkeyPatch, name: str, proxy: str) -> None:
    monkeypatch.setenv(name, proxy)
    with FaultyServer() as server:
        assert find_endpoint(server.url).model == faulty.MODEL
        assert [answer.error for answer in ask(server.url)] == [None]
        assert [answer.error for answer in ask(server.url.replace("127.0.0.1", "localhost"))] == [None]


@pytest.mark.parametrize("host", ["127.0.0.2", "::1"])
def test_so_is_one_at_another_of_its_addresses(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("http_proxy", DEAD)
    try:
        with FaultyServer(host=host) as server:
            assert [answer.error for answer in ask(server.url)] == [None]
    except OSError as error:  # a machine without IPv6
        pytest.skip(str(error))


def test_no_proxy_keeps_its_meaning_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultyServer() as proxy, FaultyServer() as server:
        monkeypatch.setenv("ALL_PROXY", proxy.address)
        ask(server.url)
        assert not proxy.seen
        ask("http://server.invalid/v1")  # any other host
        assert len(proxy.seen) == 1
        monkeypatch.setenv("NO_PROXY", "server.invalid")
        with pytest.raises(LeapError, match="no server at"):
            ask("http://server.invalid/v1")
        assert len(proxy.seen) == 1


@pytest.mark.parametrize("proxy", NONSENSE)
def test_a_proxy_that_is_none_is_one_line(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    for asking in (lambda: find_endpoint("http://server.invalid/v1"), lambda: ask("http://server.invalid/v1")):
        with pytest.raises(LeapError, match=r"cannot be asked: ALL_PROXY .* unset it") as message:
            asking()
        assert "\n" not in str(message.value)
    with pytest.raises(LeapError, match=r"ALL_PROXY"):
        find_hub(log, hub="http://hub.invalid", mirror="http://mirror.invalid")


def test_a_proxy_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", DEAD)
    with pytest.raises(LeapError, match=r"no server at .* or HTTP_PROXY, through which it is asked"):
        ask("http://server.invalid/v1")


def test_certificates_that_are_not_there_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(LeapError, match=r"certificates cannot be checked .* SSL_CERT_FILE"):
        find_endpoint("https://server.invalid/v1")


@pytest.mark.parametrize("proxy", [DEAD, "socks5://127.0.0.1:9", "socks://127.0.0.1:9"])
def test_a_hub_on_this_machine_is_asked_directly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    for name in SPELLINGS:
        monkeypatch.setenv(name, proxy)
    with HubServer([stored()]) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        download(find_hub(log), DATA, tmp_path, everything, QUICK)
    assert len(on_disk(tmp_path)) == len(SIZES)


def test_libraries_that_ask_for_themselves_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "example.org")
    never_proxied("https://example.com")
    assert os.environ["NO_PROXY"] == "example.org"
    never_proxied("http://127.0.0.3:80")
    listed = os.environ["no_proxy"].split(",")
    assert {"example.org", "127.0.0.1", "localhost", "[::1]", "127.0.0.3"} == set(listed)


@pytest.mark.parametrize(
    "url",
    ["http://[v1.x]/v1", "http://a..b/v1", "http://127.0.0.1:99999/v1", "http://a b/v1", "ftp://a/v1"],
)
def test_addresses_that_are_none_are_wrong_usage(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    with pytest.raises(UsageError, match="no server's address"):
        find_endpoint(url, "m")
    monkeypatch.setenv("HF_ENDPOINT", url)
    if url != "http://[v1.x]/v1":
        with pytest.raises(UsageError, match="an address is needed"):
            find_hub(log)


# Redirects


@pytest.fixture
def pair() -> Iterator[tuple[FaultyServer, FaultyServer]]:
    """Two servers, the second with another port."""
    with FaultyServer() as first, FaultyServer() as second:
        yield first, second


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_is_refused(pair: tuple[FaultyServer, FaultyServer], status: int) -> None:
    first, second = pair
    for there in (f"{second.url}/chat/completions", f"//localhost:{first.port}/v1", f"https://127.0.0.1:{first.port}/"):
        first.reset(lambda seen, there=there: Fault("moved", status, headers={"Location": there}))
        with pytest.raises(LeapError, match=r"redirects to .*, where nothing is sent"):
            ask(first.url)
        assert not second.seen
        assert len(first.seen) == 1  # it is not asked again


def test_no_redirect_is_followed(pair: tuple[FaultyServer, FaultyServer]) -> None:
    """Not within a server either: some make a GET of what was sent, and a circle has no end."""
    first, _ = pair
    for place in ("/v1/chat/completions/", "/v1/chat/completions"):
        first.reset(lambda seen, place=place: Fault("moved", 308, headers={"Location": place}))
        with pytest.raises(LeapError, match=rf"redirects to {place}, where nothing is sent"):
            ask(first.url)
        assert len(first.seen) == 1


@pytest.mark.parametrize("place", ["http://[::1", "http://a:b@c:d/", "", "\\\\", "http://" + "a" * 300 + ".b..c"])
def test_a_redirect_to_nowhere_is_one_line(pair: tuple[FaultyServer, FaultyServer], place: str) -> None:
    first, _ = pair
    first.reset(lambda seen: Fault("nowhere", 307, headers={"Location": place}))
    message = ""
    try:
        (answer,) = ask(first.url)
        message = str(answer.error)
    except LeapError as error:
        message = str(error)
    assert "redirect" in message.lower()
    assert "\n" not in message


def test_the_list_of_models_is_not_fetched_from_another_host(pair: tuple[FaultyServer, FaultyServer]) -> None:
    first, second = pair
    first.moved_to = f"{second.url}/models"
    with pytest.raises(LeapError, match="redirects to"):
        find_endpoint(first.url)


# The next page of a hub's listing


def test_the_next_page_is_never_another_hosts(tmp_path: Path) -> None:
    with HubServer([stored({f"{n}.txt": 3 for n in range(9)})]) as other:
        for there in (other.url, "https://huggingface.co.invalid", "//[", "http://a:b"):
            with (
                HubServer([stored({f"{n}.txt": 3 for n in range(9)})], upstream=there) as hub,
                pytest.raises(LeapError, match=r"another host|as a hub does"),
            ):
                get(hub, tmp_path / "data")
        assert not other.seen
    assert not on_disk(tmp_path)


def test_the_next_page_of_a_mirror_may_name_the_hub(tmp_path: Path) -> None:
    with HubServer([stored({f"{n}.txt": 3 for n in range(9)})], upstream="https://huggingface.co") as hub:
        get(hub, tmp_path)
    assert len(on_disk(tmp_path)) == 9


# Waits


@pytest.mark.parametrize(
    "wait", ["Fri, 31 Dec 99999999999999999999 23:59:59 GMT", "1 Jan 2026 00:00:00 +999999999999", "-1", "nan", "soon"]
)
def test_a_wait_that_is_no_number_and_no_date_is_ours_to_choose(tmp_path: Path, wait: str) -> None:
    with FaultyServer(lambda seen: None if seen.attempt else faulty.rate_limited(wait)) as server:
        assert [answer.error for answer in ask(server.url)] == [None]
    limit = hub_store.limited({"Retry-After": wait})
    with HubServer([stored()], lambda seen: None if seen.attempt else limit) as hub:
        get(hub, tmp_path)
    assert len(on_disk(tmp_path)) == len(SIZES)


@pytest.mark.parametrize("wait", ["9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_wait_without_end_ends_the_run_in_one_line(tmp_path: Path, wait: str) -> None:
    with (
        FaultyServer(lambda seen: faulty.rate_limited(wait)) as server,
        pytest.raises(LeapError, match="s of patience"),
    ):
        ask(server.url)
    for headers in ({"Retry-After": wait}, {"ratelimit": f'"api";r=0;t={"9" * 400}'}):
        with (
            HubServer([stored()], lambda seen, said=headers: hub_store.limited(said)) as hub,
            pytest.raises(LeapError, match="s of patience"),
        ):
            get(hub, tmp_path)


def test_proxies_and_redirects_on_a_command_line(workspace: Path, tmp_path: Path) -> None:
    """The whole way: exit code 1 and one line."""
    script = "scripts/evaluation/run_vlm_evaluation.py"
    flags = f"--engine openai --model x --dimension Spatial --output_dir {tmp_path}".split()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALL_PROXY", "socks5://127.0.0.1:7890")
        refused = run_script(script, *flags, "--base_url", "http://server.invalid/v1", root=workspace)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        assert "ALL_PROXY names a SOCKS proxy: pip install socksio" in refused.stderr
        with FaultyServer(response=lambda body: json.dumps([])) as server:
            done = run_script(script, *flags, "--base_url", server.url, root=workspace)
    assert done.returncode == 0, done.stderr
