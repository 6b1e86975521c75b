"""What a request's body may be, by its route: decided from the head, before any of the body is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.admission.body_budget import Held
from app.admission.gate import Gate
from app.admission.json_size import MAX_SMALL_JSON_BYTES, check_small_json
from app.http.problems import ProblemError

_IMAGES = re.compile(r"/predict|/v2/models/.+/infer")
_STREAMED = re.compile(r"/blobs/.+")
# Smaller bodies are counted at once, and not as they come.
_SMALL_BYTES = 64 * 1024


class AdmitBody:
    """413, 415, 422 and 503. The rest of a refused body is read and thrown away by the connection."""

    def __init__(self, app: ASGIApp, max_bytes: int, gate: Gate) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.budget = gate.bodies
        self._overflow = gate.overflow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        declared, encoding = _framing(scope) if scope["type"] == "http" else (0, b"")
        if declared == 0:
            await self.app(scope, receive, send)
            return
        try:
            if encoding not in (b"", b"identity"):
                raise _encoded(encoding)
            with Held(self.budget) as held:
                await self._admit(scope, receive, send, declared, held)
        except ProblemError as refusal:
            await refusal.response()(scope, receive, send)

    async def _admit(self, scope: Scope, receive: Receive, send: Send, declared: int | None, held: Held) -> None:
        path = scope["path"]
        if path == "/predict" and declared is not None and declared <= min(_SMALL_BYTES, self.max_bytes):  # the busiest
            self._check_room(scope, declared)
            held.add(declared)  # the server takes no more than was declared
            await self.app(scope, receive, send)
            return
        path = path.removeprefix(scope.get("root_path", ""))
        takes_images = _IMAGES.fullmatch(path) is not None
        is_streamed = _STREAMED.fullmatch(path) is not None
        max_bytes = self.max_bytes if takes_images or is_streamed else min(MAX_SMALL_JSON_BYTES, self.max_bytes)
        if declared is not None and declared > max_bytes:
            raise _too_large(max_bytes)
        if declared is not None and not is_streamed:
            self._check_room(scope, declared)
        received = 0

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            num_bytes = len(message.get("body", b""))
            received += num_bytes
            if received > max_bytes:
                raise _too_large(max_bytes)
            if is_streamed:
                held.give_back()  # what came before is written
            if not held.add(num_bytes):
                raise _no_room()
            return message

        if takes_images or is_streamed:
            await self.app(scope, counted_receive, send)
            return
        body = await Request(scope, counted_receive).body()
        check_small_json(body)
        await self.app(scope, _replay(body, receive), send)

    def _check_room(self, scope: Scope, declared: int) -> None:
        if not self.budget.has_room(declared):
            self._overflow.found_full(scope, "bodies", lambda other: not self.budget.has_room(_framing(other)[0] or 0))
            raise _no_room()


def _framing(scope: Mapping[str, Any]) -> tuple[int | None, bytes]:
    """The body's length, None where only its end will tell; and its encoding."""
    length: int | None = 0
    encoding = b""
    for name, value in scope["headers"]:
        if name == b"content-length":
            length = int(value)  # the parser has seen to it that it is one
        elif name == b"transfer-encoding":
            length = None
        elif name == b"content-encoding":
            encoding = value.strip().lower()
    return length, encoding


def _replay(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _too_large(max_bytes: int) -> ProblemError:
    detail = f"the body of this request may have at most {max_bytes} bytes"
    if max_bytes != MAX_SMALL_JSON_BYTES:
        detail += ": send fewer or smaller images, or raise ZOO_MAX_BODY_BYTES"
    return ProblemError(413, "body-too-large", detail)


def _no_room() -> ProblemError:
    detail = "the bodies of other requests take all the memory that there is for them: try again in a second"
    return ProblemError(503, "too-many-bodies", detail, {"Retry-After": "1"})


def _encoded(encoding: bytes) -> ProblemError:
    name = encoding[:40].decode("latin-1")
    detail = f"Content-Encoding {name}: send the body as it is, not compressed"
    return ProblemError(415, "unsupported-media-type", detail, {"Accept-Encoding": "identity"})
