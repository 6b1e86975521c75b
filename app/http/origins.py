"""Who may ask from a browser: the Host that it was told, the site whose page asks (CORS), and paths below a prefix.

Without a token, whoever reaches the port may read. A page of another site reaches it through the browser of somebody
on this machine; if its name is made to resolve to 127.0.0.1 (DNS rebinding), the browser even takes both for one site.
So then the Host must name this machine, and the Origin must be the same, or one that ZOO_CORS_ORIGINS names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from app.http.middleware import HEALTH, header
from app.http.problems import ProblemError
from app.settings import Settings, is_loopback

_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(:[0-9]{0,5})?")
# A file as huggingface_hub asks for it, when the proxy has taken a prefix off already that is named like its namespace.
_HUB_FILE = re.compile("/[^/]+/[^/]+/resolve/")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
# What scripts may read beside the few headers that they always may.
_EXPOSED = (
    "Accept-Ranges",
    "Allow",
    "Content-Disposition",
    "Content-Range",
    "ETag",
    "Link",
    "Location",
    "Repr-Digest",
    "Retry-After",
    "WWW-Authenticate",
    "X-Checkpoint-Id",
    "X-Error-Code",
    "X-Error-Message",
    "X-Linked-Etag",
    "X-Linked-Size",
    "X-Repo-Commit",
    "X-Request-Id",
)


class Origins:
    """HTTP/1.1 has one Host, or is a 400; without a token a foreign Host or Origin is a 403."""

    def __init__(self, settings: Settings) -> None:
        self._is_open = settings.token is None
        self._hosts = frozenset(settings.allowed_hosts)
        self._origins = frozenset(settings.cors_origins)

    def check(self, scope: Scope) -> None:
        """Raises ProblemError."""
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if not hosts and scope["http_version"] == "1.0":
            return
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
            came = " and ".join(repr(host.decode("latin-1")) for host in hosts) or "none"
            detail = f"HTTP/1.1 needs one header Host, a name or address and perhaps a port, not {came}"
            raise ProblemError(400, "bad-host", detail)
        if not self._is_open or scope["path"] in HEALTH:
            return
        host = hosts[0].decode("ascii").lower()
        name, is_local = _name_of(host)
        if not (is_local or self._hosts & {name, "*"}):
            detail = f"Host {name} is not this machine: set ZOO_ALLOWED_HOSTS={name} to answer by that name, or a token"
            raise ProblemError(403, "host-not-allowed", detail)
        origin = header(scope, b"origin").decode("latin-1").lower()
        if not origin:
            return
        # Browsers say so themselves, to servers that they take to be safe; a proxy may have changed the Host.
        is_same = header(scope, b"sec-fetch-site") in (b"same-origin", b"none") or urlsplit(origin).netloc == host
        if not is_same and not self._origins & {origin, "*"}:
            detail = f"a page of {origin} asks: set ZOO_CORS_ORIGINS={origin} to let its scripts use this server"
            raise ProblemError(403, "origin-not-allowed", detail)


@lru_cache(maxsize=256)
def _name_of(host: str) -> tuple[str, bool]:
    """Without the port; and whether it is this machine's whatever the settings say."""
    name = re.sub(":[0-9]*$", "", host).strip("[]").rstrip(".")
    return name, is_loopback(name) or name.endswith(".localhost")


def cors(origins: Sequence[str]) -> dict[str, Any]:
    """Options of Starlette's CORSMiddleware. No credentials: tokens are in a header that scripts set."""
    return {"allow_origins": origins, "allow_methods": _METHODS, "allow_headers": ("*",), "expose_headers": _EXPOSED}


class BelowPrefix:
    """Takes `prefix` off paths, where the proxy has not done so. Links are relative, so nothing else depends on it."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self.app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if f"{path}/".startswith(f"{self._prefix}/") and not self._is_off(scope):
            scope["path"] = path[len(self._prefix) :] or "/"
            scope["raw_path"] = scope["raw_path"][len(self._prefix) :] or b"/"
        await self.app(scope, receive, send)

    def _is_off(self, scope: Scope) -> bool:
        return bool(header(scope, b"x-forwarded-prefix") or _HUB_FILE.match(scope["path"]))
