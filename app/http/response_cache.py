"""One-second response cache with refresh-ahead: what an answer costs (a thread, validation, SQL) is paid once a second.

Taken out, a `GET /models` costs 37 times the CPU time (docs/benchmarks.md).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

# For so long a URL is answered as it was: together a second, which the service may be late in following its zoo. In
# the latter part one request looks the URL up again, and the others need not wait for it.
_FRESH_SECONDS = 0.9
_LOOKUP_SECONDS = 0.1
_MAX_URLS = 4096
# Of URLs and answers together; what files take is bounded where they are kept.
_MAX_BYTES = 8 * 1024 * 1024
_MAX_ANSWER_BYTES = _MAX_BYTES // 8


@dataclass(slots=True)
class _Known:
    """How a URL is answered that was asked for at the time `since`, and the route of it, which metrics name."""

    since: float
    again: Callable[[Scope], ASGIApp | None]
    route: BaseRoute
    num_bytes: int
    is_looked_up: bool = False


class ResponseCache:
    """All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._urls: dict[tuple[str, str, bytes], _Known] = {}
        self._num_bytes = 0
        self._forgotten = 0.0

    def answer(self, scope: Scope) -> ASGIApp | None:
        """None unless this URL was answered a moment ago; whoever finds the answer then may `remember` it."""
        if scope["method"] not in ("GET", "HEAD"):
            return None
        scope["asked_at"] = now = time.monotonic()
        known = self._urls.get(_url(scope))
        if known is None or now - known.since > _FRESH_SECONDS + _LOOKUP_SECONDS:
            return None
        if now - known.since > _FRESH_SECONDS and not known.is_looked_up:
            known.is_looked_up = True
            return None
        scope["route"] = known.route
        return known.again(scope)

    def remember(self, scope: Scope, again: Callable[[Scope], ASGIApp | None], answer_bytes: int = 0) -> None:
        """`again` answers this URL once more, or with None where it no longer can."""
        url = _url(scope)
        num_bytes = len(url[1]) + len(url[2]) + answer_bytes
        asked_at = scope.get("asked_at")
        if asked_at is None or num_bytes > _MAX_ANSWER_BYTES:
            return
        with self._lock:
            if asked_at <= self._forgotten:  # found before the change, perhaps
                return
            before = self._urls.pop(url, None)
            self._num_bytes -= before.num_bytes if before else 0
            if len(self._urls) >= _MAX_URLS or self._num_bytes + num_bytes > _MAX_BYTES:
                self._clear()
            self._urls[url] = _Known(asked_at, again, scope["route"], num_bytes)
            self._num_bytes += num_bytes

    def forget(self) -> None:
        """After a change of the zoo that whoever made it should see at once."""
        with self._lock:
            self._clear()
            self._forgotten = time.monotonic()

    def _clear(self) -> None:
        self._urls.clear()
        self._num_bytes = 0


class AnswerFromCache:
    """In front of the router."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        again = scope["app"].state.service.response_cache.answer(scope) if scope["type"] == "http" else None
        await (again or self.app)(scope, receive, send)


class CachedRoute(APIRoute):
    """For answers that depend on the URL and the zoo alone."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        find = super().get_route_handler()

        async def answer(request: Request) -> Response:
            response = await find(request)
            request.app.state.service.response_cache.remember(request.scope, lambda _: response, len(response.body))
            return response

        return answer


def _url(scope: Scope) -> tuple[str, str, bytes]:
    return scope["method"], scope["path"], scope["query_string"]
