"""uvicorn's HTTP protocol with the connection's part of the gate: sizes and times of heads and bodies.

uvicorn itself keeps a head of any size, waits for ever for what does not come, and starts every request at once.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.admission import refusals
from app.admission.connections import Connections
from app.admission.overflow import Overflow
from app.admission.pace import BodyPace, ReaderPace
from app.admission.refusals import QUEUE_FULL
from app.http.middleware import COMPLETE_AT, PROBES

# Longer than any URL that this service makes, and what nginx and Apache allow.
MAX_URL_BYTES = 8192
_REFUSAL = "admission.refusal"
# Requests that a client may send before it has read the first answer; after the last of them it is closed.
_MAX_PIPELINED = 16
# Framing of chunks beyond the size of a head: a body in chunks of one byte has five for each.
_MAX_FRAMING = 8
# Of a body that nobody wants any more, so many times the largest that is taken are read and thrown away: many clients
# look for an answer only when all is sent, and closing a connection on which bytes still come takes it from them.
_MAX_DRAINED_BODIES = 4
_MIN_DRAINED_BYTES = 1024 * 1024
_MAX_IGNORED_BYTES = 4 * 1024 * 1024
_LINGER_SECONDS = 1.0


class GatedProtocol(HttpToolsProtocol):
    """The app in its configuration has the gate as `app.state.gate`."""

    def __init__(self, config: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(config, *arguments, **options)
        self._connections: Connections = config.app.state.gate.connections
        self._overflow: Overflow = config.app.state.gate.overflow
        settings = self._connections.settings
        self._max_header_bytes = settings.max_header_bytes
        self._max_drained_bytes = max(_MIN_DRAINED_BYTES, _MAX_DRAINED_BODIES * settings.max_body_bytes)
        self.since = 0.0  # when it became idle, or began its head
        self.has_answered = False
        self._is_in_message = False
        self._has_head = False
        self._is_uploading = False
        self._is_ignoring = False
        self._is_waiting = False  # to be admitted
        self._num_ignored = 0
        # Of several requests in a row the one that is being answered; `self.cycle` is the last that came.
        self._answering: tuple[RequestResponseCycle, asyncio.Task[Any]] | None = None
        # Bytes of the message that are not its body: its head, and the framing of chunks.
        self._num_framing = 0
        self._num_body = 0
        self.body_pace = BodyPace(settings.min_body_rate, settings.body_grace_seconds)
        self._reader_pace = ReaderPace()

    # --- what is asked of it by Connections ---

    @property
    def has_begun_head(self) -> bool:
        return self._is_in_message or self._num_framing > 0

    def check_upload(self, seconds: float) -> None:
        if not self.flow.read_paused and (reason := self.body_pace.check(seconds)):
            self.time_out(reason)

    def check_reader(self, seconds: float, max_seconds: float) -> None:
        if self._reader_pace.still_seconds(self.transport.get_write_buffer_size(), seconds) > max_seconds:
            self._connections.refused("unread")
            self.transport.abort()

    def evict(self) -> None:
        self._connections.refused("idle")
        self.transport.abort()

    def time_out(self, why: str) -> None:
        """408, where no answer has begun; whoever waits for the rest of the body is told that it will not come."""
        if self.transport.is_closing():
            return
        self._connections.refused("slow")
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            is_answered = self._is_in_message and self._has_head  # the body of what was refused
        else:
            is_answered = cycle.response_started
            cycle.disconnected = True
            cycle.message_event.set()
        if not is_answered and not self.pipeline:
            detail = f"the request was not read to its end: {why}"
            self.transport.write(refusals.raw(408, "request-timeout", detail))
        self.transport.close()

    # --- what uvicorn and the parser call ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self._connections.opened(self):
            self.transport.write(refusals.raw(503, "too-many-connections", "all connections are in use"))
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Whatever is done for the client ends here: what waits is taken out of its queue."""
        self._connections.closed(self)
        super().connection_lost(exc)
        if self._answering is not None:
            cycle, task = self._answering
            cycle.disconnected = True
            if not cycle.response_complete:
                task.cancel()

    def shutdown(self) -> None:
        self._connections.closing()
        super().shutdown()

    def data_received(self, data: bytes) -> None:
        if self._is_ignoring:
            self._num_ignored += len(data)
            if self._num_ignored > _MAX_IGNORED_BYTES:
                self.transport.abort()
            return
        if not self.has_begun_head and (self.cycle is None or self.cycle.response_complete):
            self._connections.idle(self)  # anew: its head begins
        self._num_framing += len(data)
        super().data_received(data)
        if self._num_framing > self._max_header_bytes:
            self._refuse_framing()
        if self._is_in_message and self._has_head and not self._is_uploading:
            self._is_uploading = True
            self.body_pace.begin()
            self._connections.uploading(self)
        if self._is_waiting and self._is_in_message:
            self.flow.pause_reading()
        elif self._is_draining():  # libuv would read on, up to 8 MiB of each of all who were refused in this turn
            self.flow.pause_reading()
            self._connections.begin(self._drain)

    def _is_draining(self) -> bool:
        """Whether what comes is the body of what has been answered, and nobody wants it any more."""
        return self._is_in_message and self._has_head and self.cycle is not None and self.cycle.response_complete

    def _drain(self) -> None:
        if self._is_draining() and not self.transport.is_closing():
            self.flow.resume_reading()

    def _refuse_framing(self) -> None:
        if self._has_head and self._num_framing <= self._max_header_bytes + _MAX_FRAMING * self._num_body:
            return
        self._connections.refused("header-bytes")
        self._is_ignoring = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()
            return
        # Closing at once, while the rest still comes, would take the answer away from the client.
        self.transport.write(refusals.raw(431, *self._too_long()))
        self.transport.write_eof()
        self.loop.call_later(_LINGER_SECONDS, self.transport.abort)

    def _too_long(self) -> tuple[str, str]:
        return "header-too-large", f"the head of a request may have at most {self._max_header_bytes} bytes"

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP. Behind requests that are being answered it ends the connection alone."""
        if self.cycle is None or self.cycle.response_complete:
            detail = f"{msg} Its first line, a header or the length of its body is not as HTTP/1.1 has it."
            self.transport.write(refusals.raw(400, "bad-request", detail))
        self.transport.close()

    def on_message_begin(self) -> None:
        self._is_in_message, self._has_head = True, False
        self._num_body = 0
        if not self._is_ignoring:
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._is_ignoring:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_ignoring and not self._has_head:  # trailers, which nobody reads
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._has_head = True
        if len(self.pipeline) >= _MAX_PIPELINED and not self._is_ignoring:
            self._is_ignoring = True
            self.pipeline[0][0].keep_alive = False  # the last that came
        if self._is_ignoring:
            return
        self._connections.busy(self)
        if len(self.url) > MAX_URL_BYTES:
            detail = f"a URL may have at most {MAX_URL_BYTES} bytes, this one has {len(self.url)}"
            self.scope[_REFUSAL] = refusals.app(414, "url-too-long", detail)  # type: ignore[literal-required]
            self.url = b"/"
        elif self._num_framing > self._max_header_bytes:  # or part of a body that came with it
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self._max_header_bytes:
                self._connections.refused("header-bytes")
                self.scope[_REFUSAL] = refusals.app(431, *self._too_long())  # type: ignore[literal-required]
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        scope: dict[str, Any] = cycle.scope  # type: ignore[assignment]
        if _REFUSAL in scope:
            app = scope.pop(_REFUSAL)
        if cycle.scope["path"] in PROBES:
            super()._start_asgi_task(cycle, app)
        else:
            self._connections.begin(partial(self._start, cycle, app))

    def _start(self, cycle: RequestResponseCycle, app: Any) -> None:
        if not cycle.disconnected:
            super()._start_asgi_task(cycle, partial(self._answer, cycle, app))

    async def _answer(self, cycle: RequestResponseCycle, app: Any, *arguments: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._answering = cycle, task
        try:
            if not self._overflow.may_have_to_wait(cycle.scope) or await self._is_admitted(cycle):
                await app(*arguments)
            else:
                self._turn_away(cycle)
        except asyncio.CancelledError:
            if not cycle.disconnected:
                _cut_short(cycle, self.transport)
        finally:
            self._answering = None

    async def _is_admitted(self, cycle: RequestResponseCycle) -> bool:
        self._is_waiting = True
        try:
            return await self._overflow.admitted(cycle.scope, has_body_to_come=cycle.more_body)
        finally:
            self._is_waiting = False

    def _turn_away(self, cycle: RequestResponseCycle) -> None:
        """As the app would, without it."""
        self._connections.refused("queue")
        cycle.response_started = cycle.response_complete = True
        answer = refusals.raw(503, "queue-full", QUEUE_FULL, path=cycle.scope["path"], close=not cycle.keep_alive)
        self.transport.write(answer)
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()

    def on_body(self, body: bytes) -> None:
        self._num_framing -= len(body)
        self._num_body += len(body)
        self.body_pace.came(len(body))
        if self._is_ignoring:
            return
        super().on_body(body)
        if self.cycle.response_complete and self._num_body > self._max_drained_bytes:
            self.transport.abort()

    def on_message_complete(self) -> None:
        self._is_in_message = False
        self._num_framing = 0
        if self._is_uploading:
            self._is_uploading = False
            self._connections.uploaded(self)
        if not self._is_ignoring:
            self.cycle.scope[COMPLETE_AT] = time.perf_counter()  # type: ignore[literal-required]
            super().on_message_complete()
            if not self.pipeline:
                self.flow.resume_reading()  # or it would not be seen that the client leaves
            if self.cycle.response_complete:  # without having read the body
                self._connections.idle(self)

    def on_response_complete(self) -> None:
        self.has_answered = True
        super().on_response_complete()
        if self.transport.is_closing() or self.pipeline:
            return
        if self._is_in_message and self._has_head:
            if self.expect_100_continue:
                self.transport.close()  # the body may never come, and what comes may be the next request
            return
        self._connections.idle(self)


def _cut_short(cycle: RequestResponseCycle, transport: asyncio.Transport) -> None:
    """The server ends, and has waited for this request for as long as it could."""
    cycle.disconnected = True
    if cycle.response_started:
        transport.abort()
    else:
        transport.write(refusals.raw(503, "shutting-down", "the server is shutting down: ask again"))
        transport.close()
