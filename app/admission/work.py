"""What takes long or much memory (decoding, parsing, networks on many images) on threads, within one bound.

A weighted semaphore in bytes: whoever needs more than is left waits, first come, first served. Networks go before what
is only beginning, since they end a request and free what it holds.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from app.monitoring.metrics import Metrics

Result = TypeVar("Result")

# More than there are cores: the system divides the cores among checkpoints, so that none waits for another's queue.
_NUM_THREADS = 32
# A decoder uses all of a core.
_MAX_DECODING = max(2, os.cpu_count() or 1)
# Of the ten seconds that a shutdown may take.
_DRAIN_SECONDS = 6.0


class QueueFullError(Exception):
    """Nothing was begun; the message says how much waits already, `is_full` whether it still does."""

    def __init__(self, message: str, is_full: Callable[[], bool], queue: str = "checkpoint") -> None:
        super().__init__(message)
        self.is_full = is_full
        self.queue = queue


class ClosingError(Exception):
    """The server ends, before this could begin or be finished."""


@dataclass(frozen=True, slots=True)
class _Job:
    num_bytes: int
    is_decoding: bool
    may_begin: asyncio.Future[None]


class Work:
    """Belongs to one event loop.

    Cancelling a call takes it out of the queue. What runs already cannot be stopped: it keeps its share of the memory
    until its thread is done.
    """

    def __init__(self, max_bytes: int, max_waiting: int, metrics: Metrics) -> None:
        self.is_closing = False
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="work")
        self.max_bytes = max_bytes
        self._max_waiting = max_waiting
        self._metrics = metrics
        self._bytes_in_use = 0
        self._num_decoding = 0
        self._networks: deque[_Job] = deque()
        self._decoders: deque[_Job] = deque()

    def check_room(self) -> None:
        """Raises QueueFullError where what is to be decoded would be refused now."""
        if self._is_full():
            message = f"{self._max_waiting} requests wait to be decoded already"
            raise QueueFullError(message, self._is_full, "decoders")

    def _is_full(self) -> bool:
        return len(self._decoders) > self._max_waiting

    async def decode(self, num_bytes: int, function: Callable[..., Result], *arguments: object) -> Result:
        """Runs it on a thread, beside few others. `num_bytes` is what it takes. Raises QueueFullError, ClosingError."""
        self.check_room()
        return await self._run(self._decoders, num_bytes, function, *arguments)

    async def run_network(self, num_bytes: int, function: Callable[..., Result], *arguments: object) -> Result:
        """Raises ClosingError."""
        return await self._run(self._networks, num_bytes, function, *arguments)

    def close_soon(self) -> None:
        """The server has begun to shut down: what is not done when the time for that is nearly over is given up."""
        asyncio.get_running_loop().call_later(_DRAIN_SECONDS, self._give_up)

    def _give_up(self) -> None:
        """What waits raises ClosingError, and so does what comes; what runs and can be stopped looks at is_closing."""
        self.is_closing = True
        for job in (*self._networks, *self._decoders):
            if not job.may_begin.done():
                job.may_begin.set_exception(ClosingError())
        self._networks.clear()
        self._decoders.clear()

    def close(self) -> None:
        """Without waiting for threads."""
        self._give_up()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(
        self, queue: deque[_Job], num_bytes: int, function: Callable[..., Result], *arguments: object
    ) -> Result:
        if self.is_closing:
            raise ClosingError
        loop = asyncio.get_running_loop()
        job = _Job(num_bytes, queue is self._decoders, loop.create_future())
        queue.append(job)
        self._begin_what_fits()
        if not job.may_begin.done():
            with self._metrics.waiting.track_inprogress():
                await self._turn(job)
        try:
            running = self._threads.submit(function, *arguments)
        except RuntimeError as error:  # shut down
            self._end(job)
            raise ClosingError from error

        def ended(_: object) -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(self._end, job)

        running.add_done_callback(ended)
        return await asyncio.wrap_future(running)

    async def _turn(self, job: _Job) -> None:
        try:
            await job.may_begin
        except asyncio.CancelledError:
            if not job.may_begin.cancelled():  # its turn came in the moment in which it was given up
                self._end(job)
            raise

    def _begin_what_fits(self) -> None:
        self._begin_from(self._networks)
        if not self._networks:
            self._begin_from(self._decoders)

    def _begin_from(self, queue: deque[_Job]) -> None:
        while queue:
            job = queue[0]
            if not job.may_begin.done():  # else it was given up
                if job.is_decoding and self._num_decoding >= _MAX_DECODING:
                    return
                # What takes more than there is at all runs alone.
                if self._bytes_in_use and self._bytes_in_use + job.num_bytes > self.max_bytes:
                    return
                self._bytes_in_use += job.num_bytes
                self._num_decoding += job.is_decoding
                job.may_begin.set_result(None)
            queue.popleft()

    def _end(self, job: _Job) -> None:
        self._bytes_in_use -= job.num_bytes
        self._num_decoding -= job.is_decoding
        self._begin_what_fits()
