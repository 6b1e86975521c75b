"""File downloads, with an LRU cache in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial

from fastapi import Request, Response
from starlette.types import Scope

from app.http.file_response import File, file_response
from app.http.response_cache import ResponseCache
from zoo.checkpoint.file import digest_of
from zoo.library.local import LocalZoo

# A file may take this part of the memory for files; a larger one is streamed from the store.
_LARGEST_PART = 8


@dataclass(frozen=True, slots=True)
class Download:
    """What a URL stands for: a checkpoint in one format, and the headers that go with it."""

    digest: str
    file_format: str
    headers: dict[str, str]


class Downloads:
    """All methods may be called from any thread."""

    def __init__(self, zoo: LocalZoo, max_bytes: int, cache: ResponseCache) -> None:
        self._zoo = zoo
        self._cache = cache
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._files: OrderedDict[tuple[str, str], File] = OrderedDict()
        self._num_bytes = 0

    def file(self, digest: str, file_format: str) -> File:
        """Raises CheckpointError where the bytes on disk are not the digest's, NotFoundError where there are none."""
        key = (digest, file_format)
        file = self._kept(key)
        if file is None:
            file = self._read(key)
            if isinstance(file.content, bytes):
                self._keep(key, file)
        return file

    def send(self, request: Request, download: Download) -> Response:
        """The answer, which this URL will get for a moment without further questions. Raises what `file` raises."""
        file = self.file(download.digest, download.file_format)
        self._cache.remember(request.scope, partial(self._send_again, download))
        return file_response(request, file, download.headers)

    def _send_again(self, download: Download, scope: Scope) -> Response | None:
        """None where the file is no longer in memory."""
        file = self._kept((download.digest, download.file_format))
        return None if file is None else file_response(Request(scope), file, download.headers)

    def _kept(self, key: tuple[str, str]) -> File | None:
        with self._lock:
            file = self._files.get(key)
            if file is not None:
                self._files.move_to_end(key)
        return file

    def _read(self, key: tuple[str, str]) -> File:
        digest, file_format = key
        if file_format == "safetensors":
            size_bytes = self._zoo.files.size_bytes(digest)
            if size_bytes > self._max_bytes // _LARGEST_PART:
                self._zoo.files.verify(digest)
                return File(digest, size_bytes, partial(self._zoo.files.open, digest))
        data = self._zoo.files.file(digest, file_format)
        return File(digest if file_format == "safetensors" else digest_of(data), len(data), data)

    def _keep(self, key: tuple[str, str], file: File) -> None:
        with self._lock:
            if key not in self._files:
                self._files[key] = file
                self._num_bytes += file.size_bytes
            while self._num_bytes > self._max_bytes:
                _, oldest = self._files.popitem(last=False)
                self._num_bytes -= oldest.size_bytes
