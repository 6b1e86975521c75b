"""Files on their way out: the last ones asked for stay in memory, and what a URL stands for is known for a moment."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request, Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app.file_response import File, file_response
from zoo.checkpoint import digest_of
from zoo.local import LocalZoo

# For so long a URL stands for what it stood for: together a second, which the service may be late in following its
# zoo. In the latter part one request looks the URL up again, and the others need not wait for it.
_FRESH_SECONDS = 0.9
_LOOKUP_SECONDS = 0.1
_MAX_URLS = 4096
# A file may take this part of the memory for files; a larger one is streamed from disk.
_LARGEST_PART = 8


@dataclass(frozen=True, slots=True)
class Download:
    """What a URL stands for: a checkpoint in one format, and the headers that go with it."""

    digest: str
    file_format: str
    headers: dict[str, str]


@dataclass(slots=True)
class _Known:
    """What a URL stood for at the time `since`, and the route that found it out, which metrics name."""

    since: float
    download: Download
    route: BaseRoute
    is_looked_up: bool = False


class Downloads:
    """All methods may be called from any thread."""

    def __init__(self, zoo: LocalZoo, max_bytes: int) -> None:
        self._zoo = zoo
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._files: OrderedDict[tuple[str, str], File] = OrderedDict()
        self._num_bytes = 0
        self._urls: dict[tuple[str, bytes], _Known] = {}

    def file(self, digest: str, file_format: str) -> File:
        """Raises CheckpointError where the bytes on disk are not the digest's, NotFoundError where there are none."""
        key = (digest, file_format)
        file = self._kept(key)
        if file is None:
            file = self._read(key)
            if not isinstance(file.content, Path):
                self._keep(key, file)
        return file

    def send(self, request: Request, download: Download) -> Response:
        """The answer, which this URL will get for a moment without further questions. Raises what `file` raises."""
        file = self.file(download.digest, download.file_format)
        with self._lock:
            if len(self._urls) >= _MAX_URLS:
                self._urls.clear()
            self._urls[_url(request.scope)] = _Known(time.monotonic(), download, request.scope["route"])
        return file_response(request, file, download.headers)

    def send_again(self, scope: Scope) -> Response | None:
        """None unless this URL was answered a moment ago, from memory."""
        known = self._urls.get(_url(scope))
        if known is None:
            return None
        age = time.monotonic() - known.since
        if age > _FRESH_SECONDS + _LOOKUP_SECONDS:
            return None
        if age > _FRESH_SECONDS and not known.is_looked_up:
            known.is_looked_up = True
            return None
        file = self._kept((known.download.digest, known.download.file_format))
        if file is None:
            return None
        scope["route"] = known.route
        return file_response(Request(scope), file, known.download.headers)

    def forget_urls(self) -> None:
        """After a change of the zoo that whoever made it should see at once."""
        with self._lock:
            self._urls.clear()

    def _kept(self, key: tuple[str, str]) -> File | None:
        with self._lock:
            file = self._files.get(key)
            if file is not None:
                self._files.move_to_end(key)
        return file

    def _read(self, key: tuple[str, str]) -> File:
        digest, file_format = key
        if file_format == "safetensors":
            size_bytes = self._zoo.path(digest).stat().st_size
            if size_bytes > self._max_bytes // _LARGEST_PART:
                return File(digest, size_bytes, self._zoo.verified_path(digest))
        data = self._zoo.file(digest, file_format)
        return File(digest if file_format == "safetensors" else digest_of(data), len(data), data)

    def _keep(self, key: tuple[str, str], file: File) -> None:
        with self._lock:
            if key not in self._files:
                self._files[key] = file
                self._num_bytes += file.size_bytes
            while self._num_bytes > self._max_bytes:
                _, oldest = self._files.popitem(last=False)
                self._num_bytes -= oldest.size_bytes


class SendAgain:
    """In front of the router: what it takes to find a file (a thread, validation, SQL) is done once in a moment."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app: ASGIApp | None = None
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            app = scope["app"].state.service.downloads.send_again(scope)
        await (app or self.app)(scope, receive, send)


def _url(scope: Scope) -> tuple[str, bytes]:
    return scope["path"], scope["query_string"]
