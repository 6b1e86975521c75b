"""What every request passes, as plain ASGI: an id, the clock, the checks of its head."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.problems import ProblemError, problem
from app.monitoring import logs
from app.monitoring.metrics import Metrics

if TYPE_CHECKING:  # of an extra
    from app.monitoring.tracing import Tracing

log = logging.getLogger(__name__)
access_log = logging.getLogger("app.access")

HEALTH = ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready")
PROBES = (*HEALTH, "/metrics")
# A page cannot be opened with a header; it holds nothing of the zoo, and asks for the token itself.
PAGES, PAGE_FILES = ("/", "/docs"), "/web/"
# nginx's number for a client that went away before its answer.
CLIENT_GONE = 499
# When the last byte of a request had come, by time.perf_counter.
COMPLETE_AT = "zoo.complete_at"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


def header(scope: Scope, name: bytes) -> bytes:
    """Empty where there is none. Starlette's Headers take longer to make than to read."""
    for key, value in scope["headers"]:
        if key == name:
            return value
    return b""


def _quoted(path: str) -> str:
    """As a URL has it: the server has decoded it, and %0a would begin a line of the client's own."""
    return quote(path, safe="/:@!$&'()*+,;=~")


class ObserveRequests:
    """Outermost: gives the answer its X-Request-Id, counts it, and turns a crash into a problem+json 500."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None) -> None:
        self.app = app
        self.metrics = metrics
        self.tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = header(scope, b"x-request-id")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16).encode()
        logs.request_id.set(request_id.decode())
        started = time.perf_counter()
        status = 0

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        try:
            await self.app(scope, receive, observed_send)
        except ClientDisconnect:
            status = status or CLIENT_GONE
        except asyncio.CancelledError:
            status = status or CLIENT_GONE
            raise
        except Exception:
            log.exception("request %s failed: %s %s", request_id.decode(), scope["method"], _quoted(scope["path"]))
            if status:
                raise
            detail = f"the server failed; its log says more under request {request_id.decode()}"
            await problem(500, "internal-error", detail)(scope, receive, observed_send)
        finally:
            # The route's template, not the path: a label for each checkpoint would grow without bound.
            route = getattr(scope.get("route"), "path", "unmatched")
            seconds = time.perf_counter() - started
            self.metrics.answered(scope["method"], route, status, seconds)
            if access_log.isEnabledFor(logging.INFO):
                asked = {"method": scope["method"], "path": scope["path"]}
                facts = {**asked, "status": status, "duration_ms": round(seconds * 1000, 3)}
                access_log.info("%s %s", scope["method"], _quoted(scope["path"]), extra=facts)
            if self.tracing is not None:
                ended_ns = time.time_ns()
                started_ns = ended_ns - int(seconds * 1e9)
                self.tracing.answered(scope, route, status, request_id.decode(), started_ns, ended_ns)


class CheckHead:
    """Refuses a request with the ProblemError that `check` raises for it, before anything of its body is read."""

    def __init__(self, app: ASGIApp, check: Callable[[Scope], None]) -> None:
        self.app = app
        self.check = check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self.check(scope)
            except ProblemError as refusal:
                await refusal.response()(scope, receive, send)
                return
        await self.app(scope, receive, send)


def is_open(path: str) -> bool:
    """Whether anybody may ask, where reading needs a token."""
    return path in (*PROBES, *PAGES) or path.startswith(PAGE_FILES)
