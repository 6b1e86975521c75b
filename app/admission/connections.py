"""All connections of the process: how many there may be, who is too slow, and who goes first."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from app.admission.file_limit import connections_allowed
from app.monitoring.metrics import Metrics
from app.settings import Settings

if TYPE_CHECKING:  # which imports this module
    from app.admission.protocol import GatedProtocol

# So many requests begin in one turn of the event loop, and others in the next turns, in order, that a turn takes about
# this long however many clients there are: a probe, which waits for nobody, takes two or three.
_TURN_SECONDS = 0.01
_MIN_BEGUN, _MAX_BEGUN = 4, 64
_CHECK_SECONDS = 1.0
# Who has answered nothing for so long has stopped reading.
_MAX_UNREAD_SECONDS = 10.0


class Connections:
    """Belongs to one event loop. Times are of time.monotonic."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.max_connections = connections_allowed(settings.max_connections)
        self.refused = metrics.refused
        self._all: set[GatedProtocol] = set()
        # Between requests, or within the head of one; the oldest first.
        self._idle: OrderedDict[GatedProtocol, None] = OrderedDict()
        # Within a body; the oldest first.
        self._uploading: OrderedDict[GatedProtocol, None] = OrderedDict()
        self._to_begin: deque[Callable[[], None]] = deque()
        self._num_begun = 0
        self._max_begun = _MAX_BEGUN // 2
        self._turn_began = 0.0
        # Looked for once after each check, which is what finds them.
        self._may_be_slow = True
        self._check_timer: asyncio.TimerHandle | None = None
        self._closing_callbacks: list[Callable[[], None]] = []
        self.is_closing = False

    # --- one connection's life, as its protocol tells it ---

    def opened(self, connection: GatedProtocol) -> bool:
        """False where there is no room, not even after evicting one that is idle or slow."""
        if len(self._all) >= self.max_connections and not self._evict_one():
            self.refused("connections")
            return False
        self._all.add(connection)
        self.idle(connection)
        if self._check_timer is None:
            self._check_timer = asyncio.get_running_loop().call_later(_CHECK_SECONDS, self._check)
        return True

    def idle(self, connection: GatedProtocol) -> None:
        connection.since = time.monotonic()
        self._idle[connection] = None
        self._idle.move_to_end(connection)

    def busy(self, connection: GatedProtocol) -> None:
        self._idle.pop(connection, None)

    def uploading(self, connection: GatedProtocol) -> None:
        self._uploading[connection] = None

    def uploaded(self, connection: GatedProtocol) -> None:
        self._uploading.pop(connection, None)

    def closed(self, connection: GatedProtocol) -> None:
        self._all.discard(connection)
        self.busy(connection)
        self.uploaded(connection)

    # --- who is too slow ---

    def _evict_one(self) -> bool:
        """The one that has been idle, or within its head, for longest; else the slow upload that began first."""
        if self._idle:
            connection = self._idle.popitem(last=False)[0]
            self._all.discard(connection)
            connection.evict()
            return True
        return self.evict_slow_body()

    def evict_slow_body(self) -> bool:
        for connection in self._uploading if self._may_be_slow else ():
            if connection.body_pace.is_slow():
                self._all.discard(connection)
                self.uploaded(connection)
                connection.time_out("its body came too slowly while others waited")
                return True
        self._may_be_slow = False
        return False

    def _check(self) -> None:
        """Once a second, while there are connections."""
        now = time.monotonic()
        settings = self.settings
        for connection in list(self._idle):
            if connection.has_begun_head and now - connection.since > settings.header_seconds:
                connection.time_out(f"its head took longer than {settings.header_seconds:g} s")
            elif not connection.has_answered and now - connection.since > settings.header_seconds:
                connection.evict()
        for connection in list(self._uploading):
            connection.check_upload(_CHECK_SECONDS)
        self._may_be_slow = True
        for connection in list(self._all):
            connection.check_reader(_CHECK_SECONDS, _MAX_UNREAD_SECONDS)
        self._check_timer = asyncio.get_running_loop().call_later(_CHECK_SECONDS, self._check) if self._all else None

    # --- who goes first ---

    def begin(self, start: Callable[[], None]) -> None:
        """Starts a request: in this turn of the event loop, or in a later one if many begin."""
        if self._to_begin or self._num_begun >= self._max_begun:
            self._to_begin.append(start)
            return
        if not self._num_begun:
            self._turn_began = time.monotonic()
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._num_begun += 1
        start()

    def _next_turn(self) -> None:
        now = time.monotonic()
        if self._num_begun >= self._max_begun:
            if now - self._turn_began > _TURN_SECONDS:
                self._max_begun = max(_MIN_BEGUN, self._max_begun * 3 // 4)
            else:
                self._max_begun = min(_MAX_BEGUN, self._max_begun + 1)
        self._num_begun, self._turn_began = 0, now
        while self._to_begin and self._num_begun < self._max_begun:
            self._num_begun += 1
            self._to_begin.popleft()()
        if self._num_begun:
            asyncio.get_running_loop().call_soon(self._next_turn)

    # --- the end ---

    def on_closing(self, callback: Callable[[], None]) -> None:
        """Called once, when the server begins to shut down."""
        self._closing_callbacks.append(callback)

    def closing(self) -> None:
        if not self.is_closing:
            self.is_closing = True
            for callback in self._closing_callbacks:
                callback()

    def close(self) -> None:
        if self._check_timer is not None:
            self._check_timer.cancel()
