"""Which proxy a URL is asked through: the variables that curl and others read, except that loopback is always direct.

    http_proxy, https_proxy, all_proxy    in lower or upper case; the scheme's own one first
    no_proxy                              * | host | .suffix | *.suffix | address | network/bits, each also with :port

A name stands for its subdomains too. (httpx reads these itself, but asks a proxy for 127.0.0.1, takes no networks, and
names no variable when that goes wrong.)
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

import httpx

from zoo.errors import RemoteError

_SCHEMES = ("http", "https", "socks5", "socks5h")
_PORTS = {"http": 80, "https": 443}
_ENTRY = re.compile(r"(?P<host>\[[^]]+\]|[^:]+|[0-9a-f:.]*:[0-9a-f:.]*:[0-9a-f:./]*)(?::(?P<port>[0-9]+))?")


@dataclass(frozen=True, slots=True)
class Proxy:
    url: str
    variable: str

    def __str__(self) -> str:
        """Without its password, for messages."""
        shown = httpx.URL(self.url)
        return f"the proxy {shown.copy_with(username=None, password=None)} ({self.variable})"


def proxy_of(url: httpx.URL, environment: Mapping[str, str]) -> Proxy | None:
    """None where the URL is asked directly. Raises RemoteError where the variable names no proxy that can be used."""
    if _is_loopback(url.host) or _is_exempt(url, environment.get("no_proxy") or environment.get("NO_PROXY") or ""):
        return None
    names = [name for kind in (url.scheme, "all") for name in (f"{kind}_proxy", f"{kind.upper()}_PROXY")]
    if "REQUEST_METHOD" in environment:  # in CGI this one is a header that the client sent (httpoxy)
        names.remove("HTTP_PROXY")
    variable = next((name for name in names if environment.get(name)), None)
    return None if variable is None else _checked(environment[variable].strip(), variable, url)


def _checked(given: str, variable: str, url: httpx.URL) -> Proxy:
    try:
        parsed = httpx.URL(given if "://" in given else f"http://{given}")
    except httpx.InvalidURL as error:
        raise RemoteError(f"{url} cannot be reached: {variable} is no URL of a proxy ({error})") from error
    if parsed.scheme not in _SCHEMES or not parsed.host:
        kinds = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise RemoteError(f"{url} cannot be reached: {variable} should be the URL of a proxy, one of {kinds}")
    proxy = Proxy(str(parsed), variable)
    if parsed.scheme.startswith("socks") and find_spec("socksio") is None:
        raise RemoteError(
            f"{url} cannot be reached through {proxy}: SOCKS needs pip install 'checkpoint-zoo[socks]'; "
            "or name the host in NO_PROXY"
        )
    return proxy


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or host.endswith(".localhost") if address is None else address.is_loopback


def _is_exempt(url: httpx.URL, no_proxy: str) -> bool:
    port = url.port or _PORTS.get(url.scheme)
    return any(_fits(entry.lower(), url.host, port) for entry in re.split(r"[,\s]+", no_proxy) if entry)


def _fits(entry: str, host: str, port: int | None) -> bool:
    if entry == "*":
        return True
    parts = _ENTRY.fullmatch(entry)
    if parts is None or (parts["port"] and int(parts["port"]) != port):
        return False
    address = _address(host)
    if address is not None:
        try:
            return address in ipaddress.ip_network(parts["host"].strip("[]"), strict=False)
        except ValueError:
            return False
    name = parts["host"].removeprefix("*").removeprefix(".")
    return host == name or host.endswith(f".{name}")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
