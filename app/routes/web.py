"""The page at `/` and the API's at `/docs`. Only these two are asked for again: all else has a digest in its URL."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

from fastapi import APIRouter, Request, Response

from app.http.file_response import is_known
from app.http.openapi import reading
from app.http.problems import ProblemError
from app.routes import page_files
from app.service import ServiceDep

router = APIRouter(include_in_schema=False)

# blob: is an image that a person drops, before it is sent; nothing else comes from anywhere but here.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Vary": "Accept-Encoding"}
# What every view begins with (js/zoo.js), asked for while the script is still on its way.
_ASKED_FIRST = ("models?dataset=*&amp;limit=200&amp;prefer=params", "datasets")


# Swagger UI draws its icons from data: URLs, and sets widths in the page.
_DOCS_POLICY = _POLICY.replace("img-src 'self' blob:", "img-src 'self' data:").replace(
    "style-src 'self'", "style-src 'self' 'unsafe-inline'"
)


@reading(router, "/")
def index(request: Request, service: ServiceDep) -> Response:
    # With a token in the browser's memory, only the script can ask.
    asked = _ASKED_FIRST if service.settings.token is None else ()
    preloads = [f'<link rel="preload" as="fetch" crossorigin href="{address}">' for address in asked]
    return _page("index.html", {"preloads": "\n    ".join(preloads)}, _POLICY, request)


@reading(router, "/docs")
def docs(request: Request) -> Response:
    swagger = f"web/swagger-{distribution('fastapi-offline').version}"
    return _page("docs.html", {"swagger": swagger}, _DOCS_POLICY, request)


def _page(name: str, values: dict[str, str], policy: str, request: Request) -> Response:
    page = page_files.files()[name].decode()
    for key, value in {**values, "assets": f"web/{page_files.version()}"}.items():
        page = page.replace(f"{{{key}}}", value)
    etag = f'"{hashlib.sha256(page.encode()).hexdigest()}"'
    headers = {**_HEADERS, "Content-Security-Policy": policy, "Cache-Control": "no-cache", "ETag": etag}
    if is_known(request, etag):
        return Response(status_code=304, headers=headers)
    return Response(page, headers=headers, media_type=page_files.MEDIA_TYPES[".html"])


@router.get("/web/swagger-{version}/{name}")
def swagger(version: str, name: str, request: Request) -> Response:
    """Files of a package, found without importing it."""
    if name not in ("swagger-ui-bundle.js", "swagger-ui.css"):
        raise ProblemError(404, "not-found", f"the page has no file {name}: load /docs again")
    found = distribution("fastapi-offline")
    if version != found.version:
        detail = f"this server has fastapi-offline {found.version}, not {version}: load /docs again"
        raise ProblemError(404, "not-found", detail)
    return _file(name, Path(str(found.locate_file(f"fastapi_offline/static/{name}"))).read_bytes(), request)


@router.get("/web/{version}/{name:path}")
def asset(version: str, name: str, request: Request) -> Response:
    if name not in page_files.files() or version != page_files.version():
        raise ProblemError(404, "not-found", f"the page has no file {name} in version {version}: load / again")
    return _file(name, page_files.files()[name], request)


def _file(name: str, content: bytes, request: Request) -> Response:
    headers = {**_HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        content = _compressed(content)
    return Response(content, headers=headers, media_type=page_files.MEDIA_TYPES[Path(name).suffix])


@cache
def _compressed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)
