"""How a zoo's server is reached: address, token, proxy, certificates."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import httpx

from zoo.client.proxies import Proxy, proxy_of
from zoo.errors import RemoteError
from zoo.protocol import AnyPath

Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)


def opened(kind: type[Http], url: str, token: str | None, timeout_s: float, proxy: Proxy | None) -> Http:
    headers = {b"Authorization": f"Bearer {token}".encode()} if token else {}
    return kind(
        base_url=url,
        headers=headers,
        timeout=timeout_s,
        follow_redirects=True,
        proxy=None if proxy is None else proxy.url,
        # Of the environment httpx reads certificates, here, and proxies, which `proxy` is instead.
        verify=httpx.create_ssl_context(),
        trust_env=False,
    )


def proxy_to(url: str) -> Proxy | None:
    """Raises RemoteError where the URL is none, or cannot be asked."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise RemoteError(f"{url}: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise RemoteError(f"{url} cannot be reached: it is no http:// or https:// URL, like http://127.0.0.1:8000")
    return proxy_of(parsed, os.environ)


def path_of(given: AnyPath | None) -> Path | None:
    return None if given is None else Path(given)
