"""Publishing: bytes, then the checkpoint they are, then what is said of it. All of it needs the publish token."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app.http.auth import PublisherRoute
from app.http.links import placed
from app.http.openapi import BINARY, PUBLISHING, declared
from app.http.problems import ProblemError
from app.http.schemas import Changes, NoQuery, Published, ReferenceQuery, Sha256
from app.service import Service, ServiceDep
from zoo.catalog.views import CheckpointView
from zoo.errors import CheckpointError
from zoo.library.publishing.publish import Upload, publish
from zoo.store.entries import Alias

AliasPath = Annotated[Alias, Path(description="Of one data set, that of the checkpoint.")]


def _expected_tags(
    request: Request,
    _: Annotated[
        str | None,
        Header(
            alias="if-match",
            description="Only if the checkpoint's ETag, as GET /models/{id} answers it, is still this one.",
        ),
    ] = None,
) -> list[str] | None:
    lines = request.headers.getlist("if-match")
    tags = [tag.strip() for line in lines for tag in line.split(",")]
    return None if not lines or "*" in tags else tags


IfMatch = Annotated[list[str] | None, Depends(_expected_tags)]

router = APIRouter(tags=[PUBLISHING], route_class=PublisherRoute)
_BODY = {"required": True, "content": {"application/octet-stream": BINARY}}


@router.put("/blobs/sha256:{digest}", status_code=201, responses=declared(507), openapi_extra={"requestBody": _BODY})
async def put_blob(digest: Sha256, _: Annotated[NoQuery, Query()], request: Request, service: ServiceDep) -> Response:
    """The bytes of a file, as the body. `POST /models` then makes a checkpoint of them, or one of each level."""
    with _refusals(), Upload(service.zoo.uploads) as upload:
        try:
            async for chunk in request.stream():
                await run_in_threadpool(upload.write, chunk)
        except ClientDisconnect:
            return Response(status_code=400)
        await run_in_threadpool(upload.keep, digest)
    return Response(status_code=201)


@router.post("/models", status_code=201, responses={200: {"model": CheckpointView}, **declared(404, 507)})
def post_model(
    body: Published, _: Annotated[NoQuery, Query()], request: Request, response: Response, service: ServiceDep
) -> CheckpointView:
    """Checks uploaded bytes, runs the network once, and adds the checkpoint. One that is there is answered with 200.

    Of an elastic file each level is run and becomes a checkpoint; the answer is the largest.

    The digest alone, of a deleted checkpoint whose file is still there, brings it back.
    """
    with _refusals():
        row, is_new = publish(service.zoo, body.digest, stage=body.stage, terms=service.publishing.terms)
    view = _changed(service.zoo.chooser.view(row), request, response, service)
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = view.links.self
    return view


@router.patch("/models/{reference}", responses=declared(404, 409, 410, 412, 507))
def patch_model(
    reference: str,
    query: Annotated[ReferenceQuery, Query()],
    changes: Changes,
    request: Request,
    response: Response,
    service: ServiceDep,
    expected: IfMatch,
) -> CheckpointView:
    """Gives a checkpoint aliases, deprecates it (found by name, chosen by no budget), stages or promotes it."""
    row = service.zoo.chooser.find(reference, query.dataset)
    if changes.staged is False:
        service.publishing.check_promotion(service.zoo, row)
    with _refusals():
        view = service.zoo.annotator.mark(
            row.digest,
            aliases=changes.aliases,
            deprecated=changes.deprecated,
            staged=changes.staged,
            move=changes.move,
            expected=expected,
        )
    return _changed(view, request, response, service)


@router.put("/models/{reference}/aliases/{alias}", responses=declared(404, 409, 410, 412, 507))
def put_alias(
    reference: str,
    alias: AliasPath,
    query: Annotated[ReferenceQuery, Query()],
    request: Request,
    response: Response,
    service: ServiceDep,
    expected: IfMatch,
) -> CheckpointView:
    """Gives a checkpoint one more alias; in the same step, no other of its data set has it any longer."""
    with _refusals():
        view = service.zoo.annotator.alias(alias, reference, dataset=query.dataset, expected=expected)
    return _changed(view, request, response, service)


@router.delete("/models/{reference}/aliases/{alias}", status_code=204, responses=declared(404, 410, 412, 507))
def delete_alias(
    reference: str,
    alias: AliasPath,
    query: Annotated[ReferenceQuery, Query()],
    service: ServiceDep,
    expected: IfMatch,
) -> None:
    """Takes an alias away, if it is still this checkpoint's."""
    with _refusals():
        service.zoo.annotator.unalias(alias, reference, dataset=query.dataset, expected=expected)
    service.forget()


@router.delete("/models/{reference}", status_code=204, responses=declared(404, 410, 412, 507))
def delete_model(
    reference: str, query: Annotated[ReferenceQuery, Query()], service: ServiceDep, expected: IfMatch
) -> None:
    """Takes a checkpoint out of the zoo, by its whole digest: a name may be another's the second time.

    `zoo gc` deletes its file; publishing it again brings it back.
    """
    if query.dataset is not None:
        service.zoo.chooser.find(reference, query.dataset)
    with _refusals():
        service.zoo.annotator.delete(reference, expected=expected)
    service.forget()


def _changed(view: CheckpointView, request: Request, response: Response, service: Service) -> CheckpointView:
    service.forget()
    response.headers["ETag"] = service.zoo.annotator.tag(view.id)
    return placed(view, request.scope)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise ProblemError(422, "not-a-checkpoint", str(error)) from error
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ProblemError(403, "read-only", f"this zoo cannot be written to: {error}") from error
        raise
