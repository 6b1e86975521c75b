"""Handing out files, safetensors or ONNX: of one checkpoint, or of the one that a budget chooses."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.http.downloads import Download
from app.http.openapi import declared, file_responses, reading
from app.http.problems import NoModelProblem
from app.http.schemas import NoQuery, ReferenceFileQuery, Sha256
from app.service import Service, ServiceDep
from zoo.catalog.rows import CheckpointRow
from zoo.choosing.budget import Budget, FileFormat

router = APIRouter(tags=["files"])

RESPONSES = (
    file_responses("application/octet-stream", "file") | declared(404, model=NoModelProblem) | declared(410, 412, 416)
)


@reading(router, "/models/file", responses=RESPONSES, response_class=Response)
def file_by_budget(query: Annotated[Budget, Query()], request: Request, service: ServiceDep) -> Response:
    """The file that the budget chooses; the header X-Checkpoint-Because says why."""
    row = service.zoo.chooser.choose(query)
    download = _download(service, row, query.format, immutable=False)
    download.headers.update(because(query))
    return service.downloads.send(request, download)


@reading(router, "/models/{reference}/file", responses=RESPONSES, response_class=Response)
def file(
    reference: str, query: Annotated[ReferenceFileQuery, Query()], request: Request, service: ServiceDep
) -> Response:
    """The file of one checkpoint. Safetensors under a whole digest never change: caches may keep them."""
    row = service.zoo.chooser.find(reference, query.dataset)
    # Another version of this service may write the same network as other ONNX bytes.
    immutable = reference == row.digest and query.format == "safetensors"
    return service.downloads.send(request, _download(service, row, query.format, immutable=immutable))


@reading(router, "/blobs/sha256:{digest}", responses=RESPONSES, response_class=Response)
def blob(digest: Sha256, _: Annotated[NoQuery, Query()], request: Request, service: ServiceDep) -> Response:
    """A file by the SHA-256 of its bytes, elastic ones too: the first `prefix_bytes` of such a file hold a level."""
    levels = service.zoo.files.levels_of(digest)
    if not service.zoo.catalog.rows(levels):
        service.zoo.chooser.find(levels[-1] if levels else digest)  # raises: of levels all are deleted
    headers = {
        "Cache-Control": service.cache_control(immutable=True),
        "Content-Disposition": f'attachment; filename="{digest}.safetensors"',
    }
    return service.downloads.send(request, Download(digest, "safetensors", headers))


def because(budget: Budget) -> dict[str, str]:
    """Why the file is of the checkpoint that it is of."""
    return {"X-Checkpoint-Because": re.sub("[^ -~]", "?", budget.because())}


def _download(service: Service, row: CheckpointRow, file_format: FileFormat, *, immutable: bool) -> Download:
    headers = {
        "Cache-Control": service.cache_control(immutable=immutable),
        "X-Checkpoint-Id": row.digest,
        "Content-Disposition": f'attachment; filename="{row.name}.{file_format}"',
    }
    return Download(row.digest, file_format, headers)
