"""uvicorn, as this service runs it: its settings, how it accepts connections, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.admission.protocol import GatedProtocol
from app.process.listen import BACKLOG, Listener

log = logging.getLogger(__name__)

# All of it takes at most this long, whatever runs; README promises it.
STOP_SECONDS = 10.0
# What is under way is then cancelled, which leaves time to close what is open.
_DRAIN_SECONDS = 8
# How long a client that keeps its connection may take to send the next request, so that it is answered, with
# `Connection: close`, and not reset.
_IDLE_SECONDS = 0.5
_OUT_OF_FILES_SECONDS = 1
_ACCEPTED_PER_TURN = 16
_SECONDS_PER_ACCEPTED = 0.0005
_BEAT_SECONDS = 0.9


def config(app: FastAPI) -> uvicorn.Config:
    """The one place where uvicorn is configured."""
    return uvicorn.Config(
        app,
        backlog=BACKLOG,
        http=GatedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        # A twentieth of a prediction's time, for the client's address and scheme, which no answer depends on.
        proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,
        timeout_keep_alive=app.state.gate.connections.settings.keep_alive_seconds,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )


class Server(uvicorn.Server):
    """Accepts from sockets that several processes may share, and answers what waits in them before it ends.

    `beat` is called once a second for as long as the event loop turns, `stopping` when it begins to end.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        listener: Listener,
        *,
        is_worker: bool = False,
        beat: Callable[[], None] = lambda: None,
        stopping: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._listener = listener
        self._is_worker = is_worker
        self._beat = beat
        self._last_beat = 0.0
        self._stopping = stopping
        self._accepted_per_turn = 1 if is_worker else _ACCEPTED_PER_TURN
        self._connecting: set[asyncio.Task[object]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        await super().startup(sockets=[])
        for one in self._listener.sockets:
            one.setblocking(False)
            asyncio.get_running_loop().add_reader(one, self._accept_some, one)
        if not self._is_worker:
            log.info("serving on %s (Ctrl-C ends it)", ", ".join(self._listener.addresses()))

    def _accept_some(self, listening: socket.socket) -> None:
        """Of several workers each accepts one connection in a short turn of the loop, and more the longer turns are.

        uvloop's own servers take all that wait: the first worker to wake has them all, seen as 16 against 0. One in
        every turn, where turns are long, would let a probe wait behind a thousand new connections for as many turns.
        """
        for _ in range(self._accepted_per_turn):
            if not self._accept(listening):
                break
        if self._is_worker:
            asyncio.get_running_loop().call_soon(self._turned, time.perf_counter())

    def _turned(self, began: float) -> None:
        num_accepted = 1 + int((time.perf_counter() - began) / _SECONDS_PER_ACCEPTED)
        self._accepted_per_turn = min(num_accepted, _ACCEPTED_PER_TURN)

    def _accept(self, listening: socket.socket) -> bool:
        """False where none waits."""
        loop = asyncio.get_running_loop()
        try:
            connection, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:  # out of files or memory: what waits goes on waiting
            log.error("connections wait: %s", error)
            loop.remove_reader(listening)
            loop.call_later(_OUT_OF_FILES_SECONDS, self._accept_again, listening)
            return False
        connection.setblocking(False)
        task = loop.create_task(loop.connect_accepted_socket(self._protocol, connection))
        self._connecting.add(task)
        task.add_done_callback(self._connected)
        return True

    def _accept_again(self, listening: socket.socket) -> None:
        if not self.should_exit:
            asyncio.get_running_loop().add_reader(listening, self._accept_some, listening)

    def _connected(self, task: asyncio.Task[object]) -> None:
        self._connecting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("a client left before it was connected: %s", error)

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(
            config=self.config,  # type: ignore[call-arg]
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second, on a starved machine far less often: a loop that turns slowly does not hang."""
        if (now := time.monotonic()) - self._last_beat > _BEAT_SECONDS:
            self._last_beat = now
            self._beat()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ctrl-C reaches workers beside the process that watches over them, which tells them to stop."""
        if not (self._is_worker and sig == signal.SIGINT):
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        self._stopping()
        await self._accept_rest()
        # From now on each answer ends its connection.
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        for connection in self._connections(idle=False):
            connection.shutdown()
        for _ in range(int(_IDLE_SECONDS / 0.02)):
            if not self._connections(idle=True):
                break
            await asyncio.sleep(0.02)
        await super().shutdown()

    async def _accept_rest(self) -> None:
        """What waits in a socket of ours would be reset when it is closed."""
        if self._listener.is_ours and not self._is_worker:
            self._listener.refuse_new()
        for one in self._listener.sockets:
            asyncio.get_running_loop().remove_reader(one)
            for _ in range(BACKLOG if self._listener.is_ours else 0):
                if not self._accept(one):
                    break
        self._listener.close()
        if self._connecting:
            await asyncio.wait(self._connecting)

    def _connections(self, *, idle: bool) -> list[HttpToolsProtocol]:
        ours = (one for one in self.server_state.connections if isinstance(one, HttpToolsProtocol))
        return [one for one in ours if (one.cycle is None or one.cycle.response_complete) == idle]
