"""Requests beyond what a queue takes. Before their bodies are read they wait for a place, or for their 503.

A refusal costs about as much as a small prediction, and many clients ask again at once. So only so many are refused in
a second, and the others wait, as heads: whoever has waited longest takes the next place that becomes free.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

_REFUSED_PER_SECOND = 100
# Where more wait than are refused in this time, more are refused.
_MAX_WAIT_SECONDS = 4.0
_TICK_SECONDS = 0.01
_MAX_URLS = 256

IsFull = Callable[[Mapping[str, Any]], bool]
_Url = tuple[str, bytes]


class _Waiting(NamedTuple):
    scope: Mapping[str, Any]
    # Then it counts where it waits only when its body has come.
    has_body_to_come: bool
    is_admitted: asyncio.Future[bool]


class Overflow:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        # What was found full for a URL, by the reason.
        self._found_full: dict[_Url, dict[str, IsFull]] = {}
        self._queues: dict[_Url, deque[_Waiting]] = {}
        self._num_waiting = 0
        # A bucket of tokens, each of them a refusal.
        self._tokens = float(_REFUSED_PER_SECOND)
        self._filled_at = 0.0
        self._is_ticking = self._is_closing = False

    def found_full(self, scope: Mapping[str, Any], reason: str, is_full: IsFull) -> None:
        """This request was refused. Others of its URL for which `is_full` says so wait, without the app."""
        if len(self._found_full) >= _MAX_URLS:
            self._found_full.clear()
        self._found_full.setdefault(_url(scope), {})[reason] = is_full

    def may_have_to_wait(self, scope: Mapping[str, Any]) -> bool:
        return bool(self._found_full) and _url(scope) in self._found_full

    async def admitted(self, scope: Mapping[str, Any], *, has_body_to_come: bool) -> bool:
        """Whether it may begin now, or else is to be refused. Cancelling this gives up its place in the queue."""
        queue = self._queues.get(_url(scope))
        if queue is None:
            if not self._is_full(scope):
                return True
            if self._may_refuse():
                return False
            queue = self._queues[_url(scope)] = deque()
        waiting = _Waiting(scope, has_body_to_come, asyncio.get_running_loop().create_future())
        queue.append(waiting)
        self._num_waiting += 1
        if not self._is_ticking:
            self._is_ticking = True
            asyncio.get_running_loop().call_later(_TICK_SECONDS, self._tick)
        try:
            return await waiting.is_admitted
        finally:
            self._num_waiting -= 1

    def close(self) -> None:
        """From now on nobody waits."""
        self._is_closing = True

    def _is_full(self, scope: Mapping[str, Any]) -> bool:
        return any(is_full(scope) for is_full in self._found_full.get(_url(scope), {}).values())

    def _may_refuse(self) -> bool:
        now = asyncio.get_running_loop().time()
        rate = max(_REFUSED_PER_SECOND, self._num_waiting / _MAX_WAIT_SECONDS)
        self._tokens = min(_REFUSED_PER_SECOND, self._tokens + rate * (now - self._filled_at))
        self._filled_at = now
        if self._tokens < 1 and not self._is_closing:
            return False
        self._tokens -= 1
        return True

    def _tick(self) -> None:
        for url in list(self._queues):
            queue = self._queues.pop(url)
            self._serve(queue)
            if queue:
                self._queues[url] = queue  # behind the others, for the next refusals
        self._is_ticking = bool(self._queues)
        if self._is_ticking:
            asyncio.get_running_loop().call_later(_TICK_SECONDS, self._tick)

    def _serve(self, queue: deque[_Waiting]) -> None:
        while queue:
            first = queue[0]
            if not first.is_admitted.done():  # else it was cancelled
                is_full = self._is_full(first.scope)
                if is_full and not self._may_refuse():
                    return
                first.is_admitted.set_result(not is_full)
                if not is_full:
                    queue.popleft()
                    if not first.has_body_to_come:
                        # When that one has begun, and counts.
                        asyncio.get_running_loop().call_soon(self._serve, queue)
                    return
            queue.popleft()


def _url(scope: Mapping[str, Any]) -> _Url:
    return scope["path"], scope["query_string"]
