"""Maps exceptions to problem+json responses."""

from __future__ import annotations

import logging
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from app.http.links import placed
from app.http.problems import MAX_NAMED, ProblemError, explained, joined, problem, short
from zoo.catalog.views import CheckpointView
from zoo.errors import (
    AnnotationsError,
    BusyError,
    CatalogError,
    CheckpointError,
    ConflictError,
    GoneError,
    ImageError,
    NoModelMeetsConstraintsError,
    NoSpaceError,
    NotADigestError,
    NotFoundError,
    StaleError,
)
from zoo.store.directory import NO_SPACE

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

log = logging.getLogger(__name__)


# Whose message is all that there is to say.
_PLAIN: dict[type[Exception], tuple[int, str, dict[str, str] | None]] = {
    NotFoundError: (404, "not-found", None),
    GoneError: (410, "gone", None),
    ConflictError: (409, "conflict", None),
    StaleError: (412, "precondition-failed", None),
    NotADigestError: (422, "digest-required", None),
    NoSpaceError: (507, "no-space", None),
    BusyError: (503, "busy", {"Retry-After": "1"}),
    ImageError: (400, "bad-image", None),
}


async def _plain(status: int, kind: str, headers: dict[str, str] | None, _: Request, error: Exception) -> JSONResponse:
    return problem(status, kind, str(error), headers)


async def _ours(_: Request, error: ProblemError) -> JSONResponse:
    return error.response()


async def _no_model(request: Request, error: NoModelMeetsConstraintsError) -> JSONResponse:
    """Remembered as a choice is: whoever waits for a better checkpoint asks again and again."""
    nearest = error.best_available
    if nearest is not None:
        nearest = placed(CheckpointView.model_validate(nearest), request.scope).model_dump(mode="json")
    response = problem(404, "no-model-meets-constraints", str(error), best_available=nearest)
    request.app.state.service.response_cache.remember(request.scope, lambda _: response, len(response.body))
    return response


async def _catalog(_: Request, error: CatalogError) -> JSONResponse:
    if not error.is_passing:
        raise error
    return problem(503, "catalog", f"{error}: try again", {"Retry-After": "2"})


async def _annotations(_: Request, error: AnnotationsError) -> JSONResponse:
    """503: the zoo's owner has to repair a file, a client cannot."""
    detail = f"nothing can be changed until the zoo's owner repairs or removes a file: {error}"
    return problem(503, "annotations-damaged", detail, {"Retry-After": "60"})


async def _damaged(_: Request, error: CheckpointError) -> JSONResponse:
    detail = f"{error}; it is no longer in the catalog: ask again, and another one is chosen"
    return problem(503, "checkpoint-damaged", detail, {"Retry-After": "1"})


async def _storage(_: Request, error: OSError) -> JSONResponse:
    """A checkpoint's file that cannot be read, or a directory that cannot be written to: what for, is in the log."""
    if error.errno in NO_SPACE:
        return problem(507, "no-space", f"the zoo's directory: {error.strerror}; nothing was changed")
    log.error("503: %s", error)
    detail = f"the zoo's directory could not be read or written: {error.strerror or type(error).__name__}; try again"
    return problem(503, "storage", detail, {"Retry-After": "5"})


async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
    """One line for each parameter: where, what was expected, what came."""
    found = [explained(item) for item in error.errors()[:MAX_NAMED]]
    fields = [{**({"parameter": place} if place else {}), "message": message} for place, message, _ in found]
    return problem(422, "invalid-parameter", joined(found, len(error.errors())), errors=fields)


async def _http(request: Request, error: HTTPException) -> Response:
    """Refusals of the framework: unknown paths, wrong methods, broken multipart bodies."""
    detail = str(error.detail)
    if error.status_code == 404 and request.url.path.rstrip("/") and request.url.path.endswith("/"):
        return _without_slash(request.scope)
    if error.status_code == 404:
        detail = f"no route {short(request.url.path)}: /openapi.json lists what there is"
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(await run_in_threadpool(_methods, request))
        detail = f"{request.method} is not a method of {short(request.url.path)}, which has {headers['Allow']}"
    kind = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    return problem(error.status_code, kind, detail, headers)


def _without_slash(scope: Scope) -> Response:
    """Starlette's own redirect names this host, and a path that a proxy knows by another name."""
    query = scope["query_string"].decode("latin-1")
    place = "../" + quote(scope["path"].rstrip("/").rpartition("/")[2])
    return RedirectResponse(f"{place}?{query}" if query else place, 307)


def _methods(request: Request) -> list[str]:
    """Of all routes that share this one's path; the framework's own Allow is of the first alone."""
    template = getattr(request.scope.get("route"), "path", request.url.path)
    documented = request.app.openapi()["paths"].get(template)
    if documented:
        return [method for method in _METHODS if method.lower() in documented]
    scopes = {method: {**request.scope, "method": method} for method in _METHODS}
    routes = request.app.router.routes
    return [
        method for method, scope in scopes.items() if any(route.matches(scope)[0] is Match.FULL for route in routes)
    ]


HANDLERS: dict[Any, Any] = {
    **{kind_of_error: partial(_plain, *answer) for kind_of_error, answer in _PLAIN.items()},
    ProblemError: _ours,
    NoModelMeetsConstraintsError: _no_model,
    AnnotationsError: _annotations,
    CheckpointError: _damaged,
    CatalogError: _catalog,
    OSError: _storage,
    RequestValidationError: _invalid,
    HTTPException: _http,
}
