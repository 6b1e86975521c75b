"""Problems as RFC 9457 has them: what went wrong, and what to change. Below /v2, in the form of the protocol there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from zoo.catalog.views import CheckpointView

# However much of a request is wrong: whoever sends a body of 80,000 unknown keys gets no answer of 80,000 lines.
MAX_NAMED = 5
_MAX_TEXT = 80
_MAX_DETAIL = 1000


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

    def response(self) -> JSONResponse:
        return problem(self.status, self.kind, str(self), self.headers)


class ProblemResponse(JSONResponse):
    """Which of the two forms it has is decided as it is sent."""

    media_type = "application/problem+json"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse.__call__(self.at(scope["path"]), scope, receive, send)

    def at(self, path: str) -> JSONResponse:
        """The form that it has there."""
        if not f"{path}/".startswith("/v2/"):
            return self
        headers = {name: value for name, value in self.headers.items() if not name.startswith("content-")}
        return JSONResponse({"error": json.loads(bytes(self.body))["detail"]}, self.status_code, headers)


def problem(
    status: int, kind: str, detail: str, headers: dict[str, str] | None = None, **extensions: Any
) -> ProblemResponse:
    title, detail = HTTPStatus(status).phrase, short(detail, _MAX_DETAIL)
    body = {"type": kind, "title": title, "status": status, "detail": detail, **extensions}
    return ProblemResponse(body, status, headers)


def explain(errors: Iterable[Any]) -> str:
    """Of pydantic's errors, in one line."""
    all_errors = list(errors)
    found = [explained({**item, "loc": ("query", *item["loc"])}) for item in all_errors[:MAX_NAMED]]
    return joined(found, len(all_errors))


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


def explained(item: Any) -> tuple[str, str, str]:
    """Where, what was expected, and what came. Where it is about several parameters together, the place is empty."""
    place = short(".".join(str(part) for part in item["loc"][1:]))
    message = short(item["msg"].removeprefix("Value error, "), _MAX_DETAIL // 4)
    given = item.get("input")
    is_shown = isinstance(given, str | int | float) and item["type"] != "value_error"
    came = f" (got {short(repr(given))})" if is_shown else ""
    if item["type"] == "extra_forbidden":
        return place, "not a parameter of this route", ""
    if item["type"] == "json_invalid":  # whose place is where in the text
        return "body", f"JSON was expected: {item['ctx']['error']}", ""
    return place or ("body" if item["loc"][:1] == ("body",) else ""), message, came


def joined(found: Sequence[tuple[str, str, str]], num_errors: int) -> str:
    lines = [f"{place}: {message}{came}" if place else f"{message}{came}" for place, message, came in found]
    if num_errors > len(found):
        lines.append(f"and {num_errors - len(found)} more")
    return "; ".join(lines)


def short(text: str, most: int = _MAX_TEXT) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
