"""Resumable, verified, atomic download of one file of a zoo server."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import httpx

from zoo.choosing.budget import FileFormat
from zoo.client.transport import Exchange, Server
from zoo.errors import RemoteError
from zoo.protocol import Progress
from zoo.store.directory import end_of_link
from zoo.store.partial_file import PartialFile, has_sha256, partial_file

_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_digest(name: str) -> bool:
    return _DIGEST.fullmatch(name) is not None


def sha256_of_onnx(server: Server, path: str) -> Exchange[str]:
    """Of a checkpoint's file as this server writes it: other versions may write the same network as other bytes."""
    headers = {"Accept-Encoding": "identity"}
    response = yield from server.answer(lambda: server.build("HEAD", path, params={"format": "onnx"}, headers=headers))
    etag = response.headers.get("etag", "")
    # Proxies that might change how the file is sent call its tag weak; the bytes are checked when they are here.
    digest = etag.removeprefix("W/").strip('"')
    if not is_digest(digest):
        raise RemoteError(f"{response.url}: the ETag should be the SHA-256 of the file, is {etag!r}")
    return digest


def fetch(
    server: Server, path: str, sha256: str, target: Path, file_format: FileFormat, progress: Progress | None
) -> Exchange[None]:
    """Asks nothing where the target is that file already; one that is a device or pipe is written into.

    Raises RemoteError, or OSError where it cannot be written.
    """
    target = end_of_link(target)
    if has_sha256(target, sha256):
        return
    ask = functools.partial(server.build, "GET", path, params={"format": file_format})
    with partial_file(target, sha256) as there:
        was_there = there.size > 0
        if there.sha256 != sha256:
            yield from go_on(server, ask, sha256, there, progress)
        if was_there and there.sha256 != sha256:
            there.restart()
            yield from go_on(server, ask, sha256, there, progress)
        if there.sha256 != sha256:
            found = there.sha256
            there.restart()
            raise RemoteError(f"{server.url} sent other bytes than those of {sha256}: their SHA-256 is {found}")
        there.move_to(target)


def go_on(
    server: Server,
    ask: Callable[..., httpx.Request],
    sha256: str,
    partial: PartialFile,
    progress: Progress | None,
    end: int | None = None,
) -> Exchange[None]:
    """Appends what is missing, of a beginning up to `end`, however often the connection breaks off while it brings
    something. `ask` builds the request, given `headers`."""

    def request() -> httpx.Request:
        # Bytes on the way are those of the file: no compression, and a part only of this very file.
        headers = {"Accept-Encoding": "identity"}
        if partial.size or end:
            headers |= {"Range": f"bytes={partial.size}-{end - 1 if end else ''}", "If-Range": f'"{sha256}"'}
        return ask(headers=headers)

    def receive(response: httpx.Response) -> Callable[[bytes], None]:
        if response.status_code != HTTPStatus.PARTIAL_CONTENT:
            partial.restart()
        length = response.headers.get("content-length", "")
        total = end or (partial.size + int(length) if length.isdecimal() else None)

        def take(chunk: bytes) -> None:
            partial.append(chunk[: end - partial.size] if end else chunk)
            if progress:
                progress(partial.size, total)

        return take

    if partial.size == end:
        return
    try:
        yield from server.answer(request, receive, reached=lambda: partial.size)
    except RemoteError as error:
        # More is there than the file has: for the caller to find out.
        if error.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
