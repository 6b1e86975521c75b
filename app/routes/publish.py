"""Publishing: bytes, then the checkpoint they are, then what is said of it. All of it needs the scope `publish`."""

from __future__ import annotations

import errno
import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app.deps import ServiceDep
from app.errors import ProblemError
from app.openapi import PUBLISHING, declared
from app.schemas import Changes, NoQuery, Published, ReferenceQuery
from zoo.errors import CheckpointError
from zoo.publish import Upload, no_space_is_ours, publish
from zoo.views import CheckpointView

Sha256 = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the bytes.")]


def _needs_scope(request: Request, service: ServiceDep) -> None:
    """Also on loopback, where reading is open."""
    settings = service.settings
    if settings.publish_token is None:
        detail = "this server takes no checkpoints: start it with ZOO_PUBLISH_TOKEN set"
        raise ProblemError(403, "publishing-is-off", detail)
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), settings.publish_token.encode()):
        return
    if scheme.lower() == "bearer" and settings.token and hmac.compare_digest(given.encode(), settings.token.encode()):
        raise ProblemError(403, "forbidden", "this token may read; publishing needs the one of ZOO_PUBLISH_TOKEN")
    detail = "publishing needs the header 'Authorization: Bearer <token>' with the token of ZOO_PUBLISH_TOKEN"
    raise ProblemError(401, "unauthorized", detail, {"WWW-Authenticate": "Bearer"})


router = APIRouter(tags=[PUBLISHING], dependencies=[Depends(_needs_scope)])
_BODY = {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}


@router.put("/blobs/sha256:{digest}", status_code=201, responses=declared(507), openapi_extra={"requestBody": _BODY})
async def put_blob(digest: Sha256, _: Annotated[NoQuery, Query()], request: Request, service: ServiceDep) -> Response:
    """The bytes of a checkpoint file, as the body. `POST /models` then makes a checkpoint of them."""
    with _refusals(), Upload(service.zoo.roots[0]) as upload:
        try:
            async for chunk in request.stream():
                await run_in_threadpool(upload.write, chunk)
        except ClientDisconnect:
            return Response(status_code=400)
        await run_in_threadpool(upload.keep, digest)
    return Response(status_code=201)


@router.post("/models", status_code=201, responses={200: {"model": CheckpointView}, **declared(404, 507)})
def post_model(
    body: Published, _: Annotated[NoQuery, Query()], response: Response, service: ServiceDep
) -> CheckpointView:
    """Checks uploaded bytes and adds the checkpoint that they are. One that is there already is answered with 200."""
    with _refusals():
        row, is_new = publish(service.zoo, service.zoo.roots[0], body.digest)
    service.forget()
    view = service.zoo.view(row)
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = view.links.self
    return view


@router.patch("/models/{reference}", responses=declared(404, 409, 410, 507))
def patch_model(
    reference: str, query: Annotated[ReferenceQuery, Query()], changes: Changes, service: ServiceDep
) -> CheckpointView:
    """Gives a checkpoint aliases, or deprecates it: it is then found by name, and chosen by no budget."""
    digest = service.zoo.find(reference, query.dataset).digest
    with _refusals():
        service.zoo.mark(digest, aliases=changes.aliases, deprecated=changes.deprecated)
    service.forget()
    return service.zoo.view(service.zoo.find(digest))


@router.delete("/models/{reference}", status_code=204, responses=declared(404, 410, 507))
def delete_model(reference: str, query: Annotated[ReferenceQuery, Query()], service: ServiceDep) -> None:
    """Takes a checkpoint out of the zoo. `zoo gc` deletes its file; publishing it again brings it back."""
    digest = service.zoo.find(reference, query.dataset).digest
    with _refusals():
        service.zoo.delete(digest)
    service.forget()


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        with no_space_is_ours():
            yield
    except CheckpointError as error:
        raise ProblemError(422, "not-a-checkpoint", str(error)) from error
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise ProblemError(403, "read-only", f"this zoo cannot be written to: {error}") from error
