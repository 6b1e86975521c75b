"""What every request passes, as plain ASGI: an id, the clock, the token, the limit on its body."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import logs
from app.errors import problem
from app.metrics import Metrics

if TYPE_CHECKING:  # of an extra
    from app.tracing import Tracing

log = logging.getLogger(__name__)
access_log = logging.getLogger("app.access")

PROBES = ("/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready")
# A page cannot be opened with a header; it holds nothing of the zoo, and asks for the token itself.
PAGES, PAGE_FILES = ("/", "/docs"), "/web/"
# nginx's number for a client that went away before its answer.
CLIENT_GONE = 499
# So much of a refused body is read and thrown away: many clients look for an answer only when all of it is sent, and
# closing a connection on which bytes still come takes the answer away from them.
_MAX_DRAINED_BYTES = 128 * 1024 * 1024
_MAX_DRAIN_SECONDS = 10
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


def is_open(path: str) -> bool:
    """Whether anybody may ask, where reading needs a token."""
    return path in (*PROBES, *PAGES) or path.startswith(PAGE_FILES)


class LimitBody:
    """413 for a body that declares or turns out to be too large."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = header(scope, b"content-length")
        if declared.isdigit() and int(declared) > self.max_bytes:
            await self._refuse(scope, receive, send)
            return
        received, answered = 0, False

        async def limited_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise _BodyTooLargeError
            return message

        async def watched_send(message: Message) -> None:
            """FastAPI makes a 400 of whatever goes wrong while it reads a JSON body: that is kept back."""
            nonlocal answered
            if answered or received <= self.max_bytes:
                answered = True
                await send(message)

        try:
            await self.app(scope, limited_receive, watched_send)
        except _BodyTooLargeError:
            if answered:
                raise
        if received > self.max_bytes and not answered:
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        detail = (
            f"a request body may have at most {self.max_bytes} bytes: send fewer or smaller images, or raise "
            "ZOO_MAX_BODY_BYTES"
        )
        refusal = problem(413, "body-too-large", detail, {"Connection": "close"})

        async def unfinished_send(message: Message) -> None:
            """Whoever reads while it sends has the whole answer at once, and may stop."""
            is_body = message["type"] == "http.response.body"
            await send({**message, "more_body": True} if is_body else message)

        await refusal(scope, receive, unfinished_send)
        with suppress(TimeoutError):
            async with asyncio.timeout(_MAX_DRAIN_SECONDS):
                await _drain(receive)
        await send({"type": "http.response.body", "body": b""})


async def _drain(receive: Receive) -> None:
    num_bytes = 0
    while num_bytes <= _MAX_DRAINED_BYTES:
        message = await receive()
        num_bytes += len(message.get("body", b""))
        if not message.get("more_body"):
            return


class _BodyTooLargeError(Exception):
    pass
