"""Lists and descriptors, compressed for clients that take gzip: on a slow network they are most of the wait.

Files never are: their ETag, ranges and length are those of the bytes themselves.
"""

from __future__ import annotations

import re

from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_COMPRESSED = re.compile(r"/(?:models|runs|datasets|openapi\.json)(?:/[^/]+)?")
_FILES = "application/octet-stream"
# Below, it takes as many packets either way.
_MIN_BYTES = 1400


class CompressJson:
    """In front of the router: answers to GET that are long, and are no files."""

    def __init__(self, app: ASGIApp) -> None:
        self._plain = app
        excluded = (*DEFAULT_EXCLUDED_CONTENT_TYPES, _FILES)
        self._compressing = GZipMiddleware(
            _with_own_headers(app), _MIN_BYTES, compresslevel=5, exclude_content_types=excluded
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_compressed = scope["type"] == "http" and scope["method"] == "GET" and _COMPRESSED.fullmatch(scope["path"])
        await (self._compressing if is_compressed else self._plain)(scope, receive, send)


def _with_own_headers(app: ASGIApp) -> ASGIApp:
    """GZipMiddleware writes into a response's list of headers, and cached responses are sent more than once."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_copy(message: Message) -> None:
            await send({**message, "headers": [*message["headers"]]} if "headers" in message else message)

        await app(scope, receive, send_copy)

    return answer
