"""A file as the answer to a request: whole, in part, or not at all if the client has it (RFC 9110, 13 and 14)."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import anyio
import anyio.to_thread
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from app.http.problems import problem

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.IGNORECASE)
_CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class File:
    """Its bytes, or what opens it if they are too many to be kept."""

    sha256: str
    size_bytes: int
    content: bytes | Callable[[], BinaryIO]

    @property
    def etag(self) -> str:
        return f'"{self.sha256}"'


def file_response(request: Request, file: File, headers: Mapping[str, str]) -> Response:
    """`headers` say what the file is; those about its bytes are added here."""
    all_headers = {"ETag": file.etag, "Accept-Ranges": "bytes", **headers}
    wanted = request.headers.getlist("if-match")
    if wanted and not _names(wanted, file.etag):
        detail = f"the file's ETag is {file.etag}, If-Match names another: it has changed since"
        return problem(412, "precondition-failed", detail, {"ETag": file.etag})
    if is_known(request, file.etag):
        return Response(status_code=304, headers=all_headers)
    all_headers.setdefault("Content-Type", "application/octet-stream")
    all_headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(bytes.fromhex(file.sha256)).decode()}:"
    asked = request.headers.get("range")
    status, part = 200, slice(0, file.size_bytes)
    # A range answers GET only, and only while the client's other part is of this very file (RFC 9110, 14.2).
    if asked and request.method == "GET" and request.headers.get("if-range") in (None, file.etag):
        found = _single_range(asked, file.size_bytes)
        if found is not None and found.start >= found.stop:
            detail = f"the file has {file.size_bytes} bytes, the range asked for is {asked}"
            unsatisfied = {"Content-Range": f"bytes */{file.size_bytes}", "ETag": file.etag}
            return problem(416, "range-not-satisfiable", detail, unsatisfied)
        if found is not None:
            status, part = 206, found
            all_headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{file.size_bytes}"
    all_headers["Content-Length"] = str(part.stop - part.start)
    if request.method == "HEAD":
        return Response(None, status, all_headers)
    if isinstance(file.content, bytes):
        return Response(file.content[part], status, all_headers)
    return StreamingResponse(_chunks(file.content, part), status, all_headers)


async def _chunks(content: Callable[[], BinaryIO], part: slice) -> AsyncIterator[bytes]:
    async with anyio.wrap_file(await anyio.to_thread.run_sync(content)) as opened:
        await opened.seek(part.start)
        left = part.stop - part.start
        while left:
            chunk = await opened.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise OSError("the file became shorter while it was sent")
            left -= len(chunk)
            yield chunk


def is_known(request: Request, etag: str) -> bool:
    """Whether the client has it, by its If-None-Match."""
    return _names([line.replace("W/", "") for line in request.headers.getlist("if-none-match")], etag)


def _names(lines: Sequence[str], etag: str) -> bool:
    """Whether a header's lines name it; our tags have no commas."""
    return bool({"*", etag} & {tag.strip() for line in lines for tag in line.split(",")})


def _single_range(asked: str, size: int) -> slice | None:
    """Empty past the end. None for what may be ignored: several ranges (known to exhaust servers), other units."""
    match = _RANGE.fullmatch(asked.strip())
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        return slice(max(0, size - int(last)), size)
    if last and int(last) < int(first):
        return None
    return slice(int(first), min(int(last) + 1, size) if last else size)
