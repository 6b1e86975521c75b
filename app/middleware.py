"""What every request passes, as plain ASGI: an id, the clock, the token, the limit on its body."""

from __future__ import annotations

import hmac
import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import problem
from app.metrics import Metrics

log = logging.getLogger(__name__)

PROBES = ("/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready")
# A page cannot be opened with a header; it holds nothing of the zoo, and asks for the token itself.
PAGE, PAGE_FILES = "/", "/web/"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class ObserveRequests:
    """Outermost: gives the answer its X-Request-Id, counts it, and turns a crash into a problem+json 500."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
        started = time.perf_counter()
        status = 0

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, observed_send)
        except Exception:
            log.exception("request %s failed: %s %s", request_id, scope["method"], scope["path"])
            if status:
                raise
            detail = f"the server failed; its log says more under request {request_id}"
            await problem(500, "internal-error", detail)(scope, receive, observed_send)
        finally:
            # The route's template, not the path: a label for each checkpoint would grow without bound.
            route = getattr(scope.get("route"), "path", "unmatched")
            self.metrics.requests.labels(scope["method"], route, status).inc()
            self.metrics.request_seconds.labels(route).observe(time.perf_counter() - started)


class RequireToken:
    """With a token set, all but probes and the page need `Authorization: Bearer …`: it, or the one for publishing."""

    def __init__(self, app: ASGIApp, token: str | None, publish_token: str | None = None) -> None:
        self.app = app
        self.token = token
        self.accepted = [accepted.encode() for accepted in (token, publish_token) if accepted]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.token is not None and not _is_open(scope["path"]):
            scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
            is_known = any(hmac.compare_digest(given.encode(), accepted) for accepted in self.accepted)
            if scheme.lower() != "bearer" or not is_known:
                detail = "this server needs the header 'Authorization: Bearer <token>'" + (
                    ", and the token given is another one" if given else ""
                )
                headers = {"WWW-Authenticate": "Bearer"}
                await problem(401, "unauthorized", detail, headers)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _is_open(path: str) -> bool:
    return path in (*PROBES, PAGE) or path.startswith(PAGE_FILES)


class LimitBody:
    """413 for a body that declares or turns out to be too large."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = problem(
            413,
            "body-too-large",
            f"a request body may have at most {self.max_bytes} bytes: send fewer or smaller images",
            {"Connection": "close"},
        )
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdigit() and int(declared) > self.max_bytes:
            await refusal(scope, receive, send)
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
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self.app(scope, limited_receive, watched_send)
        except _BodyTooLargeError:
            if answered:
                raise
            await refusal(scope, receive, send)


class _BodyTooLargeError(Exception):
    pass
