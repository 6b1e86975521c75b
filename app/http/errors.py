"""Errors as RFC 9457 problem+json: what went wrong, and what to change. Below /v2, as the protocol there has them."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, Field
from sqlalchemy.exc import DatabaseError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from app.admission.work import ClosingError, QueueFullError
from app.http.links import placed
from zoo.catalog.database import is_passing
from zoo.catalog.views import CheckpointView
from zoo.errors import (
    AnnotationsError,
    BusyError,
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
# However much of a request is wrong: whoever sends a body of 80,000 unknown keys gets no answer of 80,000 lines.
_MAX_NAMED = 5
_MAX_TEXT = 80
_MAX_DETAIL = 1000


log = logging.getLogger(__name__)


class Problem(BaseModel):
    type: str = Field(examples=["no-model-meets-constraints"])
    title: str
    status: int
    detail: str = Field(description="What to change.")


class ProtocolError(BaseModel):
    error: str = Field(description="What to change.")


class NoModelProblem(Problem):
    """`best_available` only where a budget was asked for, and the zoo has anything."""

    best_available: CheckpointView | None = Field(default=None, description="The nearest checkpoint.")


class InvalidParameter(BaseModel):
    parameter: str | None = Field(default=None, description="Which one; none where it is about several together.")
    message: str


class InvalidProblem(Problem):
    errors: list[InvalidParameter] = Field(default=[], description="One for each parameter, where there are several.")


class ProblemError(Exception):
    """Raised by a route; becomes the response."""

    def __init__(self, status: int, kind: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.headers = headers


class ProblemResponse(JSONResponse):
    """Which of the two forms it has is decided as it is sent."""

    media_type = "application/problem+json"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if f"{scope['path']}/".startswith("/v2/"):
            headers = {name: value for name, value in self.headers.items() if not name.startswith("content-")}
            body = {"error": json.loads(bytes(self.body))["detail"]}
            await JSONResponse(body, self.status_code, headers)(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def problem(
    status: int, kind: str, detail: str, headers: dict[str, str] | None = None, **extensions: Any
) -> JSONResponse:
    title, detail = HTTPStatus(status).phrase, _short(detail, _MAX_DETAIL)
    body = {"type": kind, "title": title, "status": status, "detail": detail, **extensions}
    return ProblemResponse(body, status, headers)


def install(app: FastAPI) -> None:
    app.add_exception_handler(ProblemError, _ours)
    app.add_exception_handler(NoModelMeetsConstraintsError, _no_model)
    app.add_exception_handler(NotFoundError, _not_found)
    app.add_exception_handler(GoneError, _gone)
    app.add_exception_handler(ConflictError, _conflict)
    app.add_exception_handler(StaleError, _stale)
    app.add_exception_handler(NotADigestError, _not_a_digest)
    app.add_exception_handler(QueueFullError, _queue_full)
    app.add_exception_handler(ClosingError, _closing)
    app.add_exception_handler(NoSpaceError, _no_space)
    app.add_exception_handler(BusyError, _busy)
    app.add_exception_handler(AnnotationsError, _annotations)
    app.add_exception_handler(ImageError, _bad_image)
    app.add_exception_handler(CheckpointError, _damaged)
    app.add_exception_handler(DatabaseError, _catalog)
    app.add_exception_handler(OSError, _storage)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


def _ours(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ProblemError)
    return problem(error.status, error.kind, str(error), error.headers)


def _no_model(request: Request, error: Exception) -> JSONResponse:
    """Remembered as a choice is: whoever waits for a better checkpoint asks again and again."""
    assert isinstance(error, NoModelMeetsConstraintsError)
    nearest = error.best_available
    if nearest is not None:
        nearest = placed(CheckpointView.model_validate(nearest), request.scope).model_dump(mode="json")
    response = problem(404, "no-model-meets-constraints", str(error), best_available=nearest)
    request.app.state.service.recent.remember(request.scope, lambda _: response, len(response.body))
    return response


def _not_found(_: Request, error: Exception) -> JSONResponse:
    return problem(404, "not-found", str(error))


def _gone(_: Request, error: Exception) -> JSONResponse:
    return problem(410, "gone", str(error))


def _conflict(_: Request, error: Exception) -> JSONResponse:
    return problem(409, "conflict", str(error))


def _stale(_: Request, error: Exception) -> JSONResponse:
    return problem(412, "precondition-failed", str(error))


def _not_a_digest(_: Request, error: Exception) -> JSONResponse:
    return problem(422, "digest-required", str(error))


def _no_space(_: Request, error: Exception) -> JSONResponse:
    return problem(507, "no-space", str(error))


def _busy(_: Request, error: Exception) -> JSONResponse:
    return problem(503, "busy", str(error), {"Retry-After": "1"})


def _catalog(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DatabaseError)
    if not is_passing(error):
        raise error
    detail = f"the catalog cannot be read or written at the moment ({error.orig}): try again"
    return problem(503, "catalog", detail, {"Retry-After": "2"})


def _annotations(_: Request, error: Exception) -> JSONResponse:
    """Nothing that a client can mend, and not of long duration, it is to be hoped."""
    detail = f"nothing can be changed until the zoo's owner repairs or removes a file: {error}"
    return problem(503, "annotations-damaged", detail, {"Retry-After": "60"})


def _queue_full(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, QueueFullError)
    request.app.state.gate.connections.found_full(request.scope, error.is_full)
    return problem(503, "queue-full", f"{error}: try again in a second", {"Retry-After": "1"})


def _closing(_: Request, __: Exception) -> JSONResponse:
    detail = "the server is shutting down: ask again, and the next one answers"
    return problem(503, "shutting-down", detail, {"Retry-After": "1", "Connection": "close"})


def _bad_image(_: Request, error: Exception) -> JSONResponse:
    return problem(400, "bad-image", str(error))


def _damaged(_: Request, error: Exception) -> JSONResponse:
    detail = f"{error}; it is no longer in the catalog: ask again, and another one is chosen"
    return problem(503, "checkpoint-damaged", detail, {"Retry-After": "1"})


def _storage(_: Request, error: Exception) -> JSONResponse:
    """A checkpoint's file that cannot be read, or a directory that cannot be written to: what for, is in the log."""
    assert isinstance(error, OSError)
    if error.errno in NO_SPACE:
        return problem(507, "no-space", f"the zoo's directory: {error.strerror}; nothing was changed")
    log.error("503: %s", error)
    detail = f"the zoo's directory could not be read or written: {error.strerror or type(error).__name__}; try again"
    return problem(503, "storage", detail, {"Retry-After": "5"})


def _invalid(_: Request, error: Exception) -> JSONResponse:
    """One line for each parameter: where, what was expected, what came."""
    assert isinstance(error, RequestValidationError)
    found = [_explained(item) for item in error.errors()[:_MAX_NAMED]]
    fields = [{**({"parameter": place} if place else {}), "message": message} for place, message, _ in found]
    return problem(422, "invalid-parameter", _joined(found, len(error.errors())), errors=fields)


def explain(errors: Iterable[Any]) -> str:
    """Of pydantic's errors, in one line."""
    all_errors = list(errors)
    found = [_explained({**item, "loc": ("query", *item["loc"])}) for item in all_errors[:_MAX_NAMED]]
    return _joined(found, len(all_errors))


def repeated(items: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    """In the form of pydantic's errors: a parameter given twice would else count once, in silence."""
    times = Counter(name for name, _ in items)
    return [
        {"type": "value_error", "loc": (name,), "msg": f"given {count} times: give it once"}
        for name, count in times.items()
        if count > 1
    ]


def invalid_query(errors: Iterable[Any]) -> RequestValidationError:
    return RequestValidationError([{**item, "loc": ("query", *item["loc"])} for item in errors])


def _explained(item: Any) -> tuple[str, str, str]:
    """Where, what was expected, and what came. Where it is about several parameters together, the place is empty."""
    place = _short(".".join(str(part) for part in item["loc"][1:]))
    message = _short(item["msg"].removeprefix("Value error, "), _MAX_DETAIL // 4)
    given = item.get("input")
    is_shown = isinstance(given, str | int | float) and item["type"] != "value_error"
    came = f" (got {_short(repr(given))})" if is_shown else ""
    if item["type"] == "extra_forbidden":
        return place, "not a parameter of this route", ""
    if item["type"] == "json_invalid":  # whose place is where in the text
        return "body", f"JSON was expected: {item['ctx']['error']}", ""
    return place or ("body" if item["loc"][:1] == ("body",) else ""), message, came


def _joined(found: Sequence[tuple[str, str, str]], num_errors: int) -> str:
    lines = [f"{place}: {message}{came}" if place else f"{message}{came}" for place, message, came in found]
    if num_errors > len(found):
        lines.append(f"and {num_errors - len(found)} more")
    return "; ".join(lines)


def _short(text: str, most: int = _MAX_TEXT) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _http(request: Request, error: Exception) -> Response:
    """What the framework itself refuses: unknown paths, wrong methods, broken multipart."""
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if error.status_code == 404 and request.url.path.rstrip("/") and request.url.path.endswith("/"):
        return _without_slash(request.scope)
    if error.status_code == 404:
        detail = f"no route {_short(request.url.path)}: /openapi.json lists what there is"
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_methods(request))
        detail = f"{request.method} is not a method of {_short(request.url.path)}, which has {headers['Allow']}"
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
