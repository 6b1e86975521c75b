"""The page at `/` and the API's at `/docs`: files of `app/web`, and the scripts of two libraries from Python packages.

The page names its files below a path that holds their digest, so that browsers keep them for good and never mix two
versions; only the page itself is asked for again.
"""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

from fastapi import APIRouter, Request, Response

from app.http.openapi import reading
from app.http.problems import ProblemError

router = APIRouter(include_in_schema=False)

_ROOT = Path(__file__).parent.parent / "web"
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml; charset=utf-8",
}
# blob: is an image that a person drops, before it is sent; nothing else comes from anywhere but here.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Vary": "Accept-Encoding"}


# Swagger UI draws its icons from data: URLs, and sets widths in the page.
_DOCS_POLICY = _POLICY.replace("img-src 'self' blob:", "img-src 'self' data:").replace(
    "style-src 'self'", "style-src 'self' 'unsafe-inline'"
)


@reading(router, "/")
def index(request: Request) -> Response:
    return _page("index.html", _POLICY, request)


@reading(router, "/docs")
def docs(request: Request) -> Response:
    return _page("docs.html", _DOCS_POLICY, request)


def _page(name: str, policy: str, request: Request) -> Response:
    page = (_ROOT / name).read_text().replace("{assets}", f"web/{_version()}")
    scripts = [name for name in _assets() if name.startswith("js/") and name != "js/docs.js"]
    preloads = (f'<link rel="modulepreload" href="web/{_version()}/{script}">' for script in scripts)
    page = page.replace("{preloads}", "\n    ".join(preloads))
    page = page.replace("{plotly}", f"web/plotly-{distribution('plotly').version}.min.js")
    page = page.replace("{swagger}", f"web/swagger-{distribution('fastapi-offline').version}")
    etag = f'"{hashlib.sha256(page.encode()).hexdigest()}"'
    headers = {**_HEADERS, "Content-Security-Policy": policy, "Cache-Control": "no-cache", "ETag": etag}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(page, headers=headers, media_type=_MEDIA_TYPES[".html"])


@router.get("/web/plotly-{version}.min.js")
def plotly(version: str, request: Request) -> Response:
    return _packaged("plotly", version, "plotly/package_data/plotly.min.js", request)


@router.get("/web/swagger-{version}/{name}")
def swagger(version: str, name: str, request: Request) -> Response:
    if name not in ("swagger-ui-bundle.js", "swagger-ui.css"):
        raise ProblemError(404, "not-found", f"the page has no file {name}: load /docs again")
    return _packaged("fastapi-offline", version, f"fastapi_offline/static/{name}", request)


def _packaged(package: str, version: str, path: str, request: Request) -> Response:
    """A package's file, found without importing it: plotly is larger than this service."""
    found = distribution(package)
    if version != found.version:
        raise ProblemError(404, "not-found", f"this server has {package} {found.version}, not {version}: load / again")
    return _file(Path(str(found.locate_file(path))), request)


@router.get("/web/{version}/{name:path}")
def asset(version: str, name: str, request: Request) -> Response:
    path = _assets().get(name)
    if path is None or version != _version():
        raise ProblemError(404, "not-found", f"the page has no file {name} in version {version}: load / again")
    return _file(path, request)


@cache
def _assets() -> dict[str, Path]:
    """By their path below app/web; a request can name nothing else."""
    return {str(path.relative_to(_ROOT)): path for path in sorted(_ROOT.rglob("*")) if path.suffix in _MEDIA_TYPES}


@cache
def _version() -> str:
    digest = hashlib.sha256()
    for name, path in _assets().items():
        digest.update(f"{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _file(path: Path, request: Request) -> Response:
    headers = {**_HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
    media_type = _MEDIA_TYPES[path.suffix]
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(path.read_bytes(), headers=headers, media_type=media_type)
    return Response(_compressed(path), headers={**headers, "Content-Encoding": "gzip"}, media_type=media_type)


@cache
def _compressed(path: Path) -> bytes:
    """All of them together take 1.5 MB of memory, nearly all of it Plotly."""
    return gzip.compress(path.read_bytes(), mtime=0)
