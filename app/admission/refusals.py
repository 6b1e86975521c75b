"""Answers of the gate itself, for requests that never reach the app."""

from __future__ import annotations

import secrets
from http import HTTPStatus

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import problem


def app(status: int, kind: str, detail: str) -> ASGIApp:
    """Answers, and closes the connection."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await problem(status, kind, detail, {"Connection": "close", "X-Request-Id": _id()})(scope, receive, send)

    return refuse


def raw(status: int, kind: str, detail: str) -> bytes:
    """The same as bytes, for a connection on which no request is under way."""
    phrase = HTTPStatus(status).phrase
    body = orjson.dumps({"type": kind, "title": phrase, "status": status, "detail": detail})
    head = (
        f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/problem+json\r\ncontent-length: {len(body)}\r\n"
        f"connection: close\r\nx-request-id: {_id()}\r\n"
        f"{'retry-after: 1' + chr(13) + chr(10) if status == HTTPStatus.SERVICE_UNAVAILABLE else ''}\r\n"
    )
    return head.encode() + body


def _id() -> str:
    return secrets.token_hex(16)
