"""HTTP clients for everything here that talks to a server: which way requests go, and which hosts they may reach.

A server on this machine is asked directly, any other as the environment's proxies say. What is meant for one server
(prompts, images, keys) goes to no other: a redirect elsewhere is an error.
"""

import ipaddress
import os
import socket
import sys
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies

from leap.errors import LeapError, UsageError

_PORTS = {"http": 80, "https": 443}
_THIS_MACHINE = ("localhost", "127.0.0.1", "[::1]")
_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")


def is_loopback(address: str) -> bool:
    """Whether a URL's host is this machine, by its name alone: nothing is looked up."""
    host = (urlsplit(address).hostname or "").rstrip(".").partition("%")[0]
    if host in _NAMES or host.endswith(".localhost"):
        return True
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return _is_short_loopback(host)
    mapped = getattr(found, "ipv4_mapped", None) or found
    return bool(mapped.is_loopback or mapped.is_unspecified)


def _is_short_loopback(host: str) -> bool:
    """127.1 and 2130706433 are 127.0.0.1 to everything that connects."""
    try:
        return host[:1].isdigit() and socket.inet_aton(host)[0] in (0, 127)
    except OSError:
        return False


def origin(address: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: what two URLs of one server share. Raises ValueError for a port that is none."""
    parts = urlsplit(address)
    return parts.scheme.lower(), parts.hostname or "", parts.port or _PORTS.get(parts.scheme.lower())


def without_user(address: str) -> str:
    """A URL without a user and a password in it, and without its query."""
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def http_client(client: type, address: str, **options: Any) -> Any:
    """A `client` (of httpx, or of the release that took its place) for a server at `address`.

    Raises UsageError for an address that is none, LeapError where the environment's proxies or certificates cannot be
    used.
    """
    library = sys.modules[
        next(base.__module__ for base in client.__mro__ if base.__name__ in ("Client", "AsyncClient"))
    ]
    try:
        library.URL(address)
    except library.InvalidURL as error:
        raise UsageError(f"{without_user(address)}: no server's address ({error})") from error
    transport = library.AsyncHTTPTransport if issubclass(client, library.AsyncClient) else library.HTTPTransport
    try:
        if not is_loopback(address):
            for proxy in _proxies().values():
                _check_host(proxy)
            return client(**options)
        direct = transport(limits=options["limits"]) if "limits" in options else transport()
        hosts = dict.fromkeys([*_THIS_MACHINE, _host(address)])
        try:
            return client(mounts={f"all://{host}": direct for host in hosts}, **options)
        except (ImportError, ValueError, library.InvalidURL):  # a proxy that is none: it is not needed here
            return client(transport=direct, **options)
    except (ImportError, ValueError, OSError, library.InvalidURL) as error:
        raise LeapError(f"{without_user(address)} cannot be asked: {_advice(error)}") from error


def is_address(text: str) -> bool:
    """Whether a text is the address of an HTTP server."""
    try:
        _check_host(text)
    except ValueError:  # brackets, a port or a name that are none
        return False
    return urlsplit(text).scheme in ("http", "https") and text.isprintable() and " " not in text


def _check_host(address: str) -> None:
    """Raises ValueError where a URL (or HOST:PORT) names no host and port that a connection could be opened to."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    host = (parts.hostname or "").strip()
    if not host or parts.port == 0:
        raise ValueError("no host and port")
    host.encode("idna")  # what the resolver does with a name, and fails at for some


def _host(address: str) -> str:
    host = urlsplit(address).hostname or ""
    return f"[{host}]" if ":" in host else host


def _advice(error: Exception) -> str:
    if isinstance(error, OSError):
        names = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
        return f"its certificates cannot be checked ({error}); mend or unset {' and '.join(names) or 'what names them'}"
    if isinstance(error, ImportError):
        return f"{proxy_names()} names a SOCKS proxy: pip install socksio, or unset it"
    return f"{proxy_names()} is no proxy that can be used ({error}); correct or unset it"


def proxy_names() -> str:
    """What names the proxies that are used: variables as they stand in the environment; "" where there is none."""
    return ", ".join(_proxies())


def _proxies() -> dict[str, str]:
    """The proxies in use by what names them: of two spellings the lower-case one counts, even where it is empty."""
    found = getproxies()
    used = {scheme: found[scheme] for scheme in ("http", "https", "all") if found.get(scheme)}
    names = {scheme: [name for name in os.environ if name.lower() == f"{scheme}_proxy"] for scheme in used}
    return {
        next((name for name in names[scheme] if os.environ[name] == proxy), f"this machine's {scheme} proxy"): proxy
        for scheme, proxy in used.items()
    }


def never_proxied(address: str) -> None:
    """Tell libraries that read the environment for themselves to ask a server on this machine directly."""
    if not is_loopback(address):
        return
    names = ("NO_PROXY", "no_proxy")  # some read the one, some the other
    given = [host for name in names for host in os.environ.get(name, "").split(",") if host]
    listed = ",".join(dict.fromkeys([*given, *_THIS_MACHINE, _host(address)]))
    os.environ.update(dict.fromkeys(names, listed))
