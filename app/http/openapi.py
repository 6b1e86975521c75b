"""The OpenAPI document: FastAPI's own, completed with what it cannot see.

Routes declare the statuses that are theirs alone, by `declared(404, 410)`. What the layers in front of them may
answer to anyone is added here, as are the token, the media types of errors, and bodies that routes read themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.http.problems import InvalidProblem, NoModelProblem, Problem, ProtocolError

STATUSES = {
    400: "Malformed: not HTTP, not an image, not a tensor.",
    401: "No token, or an unknown one.",
    403: "Not allowed: the token's scope, the Host, or a zoo that takes no checkpoints.",
    404: "Not found.",
    408: "The request came too slowly.",
    409: "The name is taken.",
    410: "The checkpoint was deleted.",
    412: "The checkpoint has changed since (If-Match).",
    413: "The body is too large.",
    414: "The URL is too long.",
    415: "The body is of a type, or compressed in a way, that is not read.",
    416: "The file has no such range.",
    422: "A parameter, or the body, says what cannot be.",
    429: "More than one client's share.",
    431: "The header is too large.",
    500: "The server failed; its log says more under the request's X-Request-Id.",
    503: "Busy, loading or draining.",
    507: "No space.",
}
# Whatever is asked for; more where a body comes along.
_ANYWHERE = (400, 401, 403, 414, 422, 429, 431, 500, 503)
_WITH_BODY = (408, 413, 415)
_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
_TOKEN = {"type": "http", "scheme": "bearer", "description": "ZOO_TOKEN to read, ZOO_PUBLISH_TOKEN to change."}
_TEMPLATE = "#/components/schemas/{model}"
# Of the routes with this tag; also where reading needs none.
PUBLISHING = "publish"
# As a media type's content.
BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}


def declared(*statuses: int, model: type[BaseModel] = Problem) -> dict[int | str, dict[str, Any]]:
    """A route's `responses`. Those of a missing model carry the nearest one where a budget was asked for."""
    return {status: {"model": model, "description": STATUSES[status]} for status in statuses}


def file_responses(media_type: str, noun: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers by `file_response`, but for refusals."""
    content = {media_type: BINARY}
    return {
        200: {"content": content, "description": f"The {noun}."},
        206: {"content": content, "description": "The range asked for."},
        304: {"description": f"The client has this {noun}."},
    }


def reading(router: APIRouter, path: str, **options: Any) -> Any:
    """GET, and HEAD, which answers the same without the body."""

    def register(function: Any) -> Any:
        router.head(path, **options)(function)
        return router.get(path, **options)(function)

    return register


def described(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of a body that a route reads itself, for `openapi_extra`."""
    return model.model_json_schema(ref_template=_TEMPLATE)


def operation_id(route: APIRoute) -> str:
    """The function's name: what generated clients call their methods."""
    return f"head_{route.name}" if route.methods == {"HEAD"} else route.name


def install(app: FastAPI, open_paths: frozenset[str] | None) -> None:
    """`open_paths` need no token; None where nothing but publishing does."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = FastAPI.openapi(app)
            for path, method, operation in _operations(schema):
                _complete(path, method, operation)
                if operation.get("tags") == [PUBLISHING] or (open_paths is not None and path not in open_paths):
                    operation["security"] = [{"token": []}]
                _name(operation, schema["components"]["schemas"])
            components = schema["components"]
            components["securitySchemes"] = {"token": _TOKEN}
            components["schemas"] |= _of_errors()
            for name in ("HTTPValidationError", "ValidationError"):
                components["schemas"].pop(name, None)
            components["schemas"] = dict(sorted(components["schemas"].items()))
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            yield path, method, operation


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    is_protocol = f"{path}/".startswith("/v2/")
    responses = operation["responses"]
    statuses = {*map(int, responses), *_ANYWHERE, *(_WITH_BODY if "requestBody" in operation else ())}
    if method == "head":
        statuses -= {206, 416}  # HEAD knows no ranges (RFC 9110, 14.2)
    for status in sorted(statuses):
        response = responses.setdefault(str(status), {"description": STATUSES.get(status, "")})
        if status >= 400:
            response["content"] = _content(status, response, is_protocol=is_protocol)
            if status in (429, 503):
                response["headers"] = _RETRY_AFTER
        if method == "head":
            response.pop("content", None)
    operation["responses"] = {str(status): responses[str(status)] for status in sorted(statuses)}


def _content(status: int, response: dict[str, Any], *, is_protocol: bool) -> dict[str, Any]:
    """FastAPI takes the media type of errors to be that of answers, and 422 to be in its own form."""
    if is_protocol:
        return {"application/json": {"schema": _reference(ProtocolError)}}
    if status == 422:
        return {"application/problem+json": {"schema": _reference(InvalidProblem)}}
    own = response.get("content", {}).get("application/json", {"schema": _reference(Problem)})
    return {"application/problem+json": own}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _TEMPLATE.format(model=model.__name__)}


def _of_errors() -> dict[str, Any]:
    errors = [(model, "serialization") for model in (Problem, InvalidProblem, NoModelProblem, ProtocolError)]
    _, schema = models_json_schema(errors, ref_template=_TEMPLATE)  # type: ignore[arg-type]
    definitions: dict[str, Any] = schema["$defs"]
    return definitions


def _name(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Moves the schemas of bodies that routes read themselves, and what they refer to, to where references lead."""
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = content["schema"]
        if "title" not in schema:
            continue
        for name, definition in {**schema.pop("$defs", {}), schema["title"]: schema}.items():
            assert schemas.setdefault(name, definition) == definition, f"two schemas are named {name}"
        content["schema"] = {"$ref": _TEMPLATE.format(model=schema["title"])}
