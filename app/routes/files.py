"""Handing out files: the safetensors bytes or ONNX, whole, in part, or not at all if the client has them."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.deps import ServiceDep
from app.errors import NoModelProblem, Problem, ProblemError
from app.schemas import BudgetFileQuery, FileFormat, FileQuery
from zoo.catalog import CheckpointRow
from zoo.checkpoint import digest_of
from zoo.local import LocalZoo

router = APIRouter(tags=["files"])

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.IGNORECASE)
_BINARY = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
_RESPONSES: dict[int | str, dict[str, object]] = {
    200: {**_BINARY, "description": "The file."},
    206: {**_BINARY, "description": "The range asked for."},
    304: {"description": "The client has this file."},
    404: {"model": NoModelProblem},
    416: {"model": Problem},
}


@router.head("/models/file", include_in_schema=False)
@router.get("/models/file", responses=_RESPONSES, response_class=Response)
def file_by_budget(query: Annotated[BudgetFileQuery, Query()], request: Request, service: ServiceDep) -> Response:
    """The file of the smallest checkpoint within the budget. Also HEAD."""
    row = service.zoo.smallest(query)
    return _answer(request, service.zoo, row, query.format, immutable=False)


@router.head("/models/{reference}/file", include_in_schema=False)
@router.get("/models/{reference}/file", responses=_RESPONSES, response_class=Response)
def file(reference: str, query: Annotated[FileQuery, Query()], request: Request, service: ServiceDep) -> Response:
    """The file of one checkpoint. Safetensors under a whole digest never change: caches may keep them. Also HEAD."""
    row = service.zoo.catalog.find(reference)
    # Another version of this service may write the same network as other ONNX bytes.
    immutable = reference == row.digest and query.format == "safetensors"
    return _answer(request, service.zoo, row, query.format, immutable=immutable)


@dataclass(frozen=True, slots=True)
class _Body:
    data: bytes
    sha256: str


def _answer(
    request: Request, zoo: LocalZoo, row: CheckpointRow, file_format: FileFormat, *, immutable: bool
) -> Response:
    data = zoo.file(row.digest, file_format)
    sha256 = row.digest if file_format == "safetensors" else digest_of(data)
    etag = f'"{sha256}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        # no-transform: proxies must not compress what is named by its bytes.
        "Cache-Control": "public, max-age=31536000, immutable, no-transform" if immutable else "no-cache, no-transform",
        "X-Checkpoint-Id": row.digest,
    }
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    headers |= {
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:",
        "Content-Disposition": f'attachment; filename="{row.name}.{file_format}"',
    }
    asked = request.headers.get("range")
    if_range = request.headers.get("if-range")
    status, body = 200, data
    # A range answers GET only, and only while the client's other part is of this very file (RFC 9110, 14.2).
    if asked and request.method == "GET" and if_range in (None, etag):
        part = _single_range(asked, len(data), headers)
        if part is not None:
            status, body = 206, data[part]
            headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(data)}"
    if request.method == "HEAD":
        headers["Content-Length"] = str(len(data))
        body = b""
    return Response(body, status, headers, media_type="application/octet-stream")


def _matches(if_none_match: str | None, etag: str) -> bool:
    if if_none_match is None:
        return False
    given = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in given or etag in given


def _single_range(asked: str, size: int, headers: dict[str, str]) -> slice | None:
    """None for what may be ignored: several ranges (a known way to exhaust a server) or another unit."""
    match = _RANGE.fullmatch(asked.strip())
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if first:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return None
    else:
        start, stop = max(0, size - int(last)), size
    if start >= size or start >= stop:
        raise ProblemError(
            416,
            "range-not-satisfiable",
            f"the file has {size} bytes, the range asked for is {asked}",
            {"Content-Range": f"bytes */{size}", "ETag": headers["ETag"]},
        )
    return slice(start, stop)
