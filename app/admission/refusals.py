"""Answers of the gate itself, for requests that never reach the app."""

from __future__ import annotations

import secrets
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.admission.work import ClosingError, QueueFullError
from app.http.problems import problem

QUEUE_FULL = "too many requests like this one wait already: try again in a second"


def app(status: int, kind: str, detail: str) -> ASGIApp:
    """Answers, and closes the connection."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await problem(status, kind, detail, {"Connection": "close", "X-Request-Id": _id()})(scope, receive, send)

    return refuse


def raw(status: int, kind: str, detail: str, *, path: str = "", close: bool = True) -> bytes:
    """The same as bytes, for a connection on which no request is under way."""
    headers = {"X-Request-Id": _id()}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "1"
    if close:
        headers["Connection"] = "close"
    answer = problem(status, kind, detail, headers).at(path)
    head = b"HTTP/1.1 %d %s\r\n" % (status, HTTPStatus(status).phrase.encode())
    return head + b"".join(b"%s: %s\r\n" % header for header in answer.raw_headers) + b"\r\n" + bytes(answer.body)


def _id() -> str:
    return secrets.token_hex(16)


async def _queue_full(request: Request, error: QueueFullError) -> JSONResponse:
    request.app.state.gate.overflow.found_full(request.scope, error.queue, lambda _: error.is_full())
    return problem(503, "queue-full", f"{error}: try again in a second", {"Retry-After": "1"})


async def _closing(_: Request, __: ClosingError) -> JSONResponse:
    detail = "the server is shutting down: ask again, and the next one answers"
    return problem(503, "shutting-down", detail, {"Retry-After": "1", "Connection": "close"})


HANDLERS: dict[Any, Any] = {QueueFullError: _queue_full, ClosingError: _closing}
