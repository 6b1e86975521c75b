"""uvicorn's HTTP protocol, with a small answer's head and body sent in one system call instead of two."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Above, copying the body to put the head before it costs more than the call.
_MAX_JOINED = 16_384


class OneWriteProtocol(HttpToolsProtocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.answers = _HeadWithBody(transport)
        super().connection_made(self.answers)  # type: ignore[arg-type]


class _HeadWithBody:
    """Keeps what is written first of an answer until the next write, or until the turn of the loop ends."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._head: bytes | None = None
        self.written_bytes = 0
        self.last_status = b""

    def write(self, data: bytes) -> None:
        self.written_bytes += len(data)
        if self._head is None and data.startswith(b"HTTP/1.1 "):
            self._head = data
            self.last_status = data[9:12]
            self._loop.call_soon(self._flush)
            return
        if self._head is not None and len(data) <= _MAX_JOINED:
            data, self._head = self._head + data, None
        self._flush()
        self._transport.write(data)

    def _flush(self) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.write(head)

    def write_eof(self) -> None:
        self._flush()
        self._transport.write_eof()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
