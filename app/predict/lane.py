"""Who goes next, of those who may be answered by any of several checkpoints: the earliest deadline first.

A checkpoint is chosen when the turn comes, not when the request does: by then its wait is known, and only the forward
pass is left to be estimated. One group runs at a time, so that no level's batches slow down another's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

from app.predict.estimates import MAX_BATCH_IMAGES

Choice = TypeVar("Choice")


@dataclass(order=True, slots=True)
class Waiting:
    """`due_at`, `complete_at`: by time.perf_counter, when the answer should be ready and when the request was there."""

    due_at: float
    number: int
    complete_at: float = field(compare=False)
    deadline_ms: float = field(compare=False)
    num_images: int = field(compare=False)


class Lane(Generic[Choice]):
    """Belongs to one event loop. `choose` is given who goes next, and the images that are due soon after."""

    def __init__(self, choose: Callable[[Waiting, int], Choice]) -> None:
        self._choose = choose
        self._numbers = count()
        self._waiting: list[tuple[Waiting, asyncio.Future[Choice]]] = []
        self._num_running = 0

    def __len__(self) -> int:
        """Those that wait for their turn."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self._num_running

    async def turn(self, complete_at: float, deadline_ms: float, num_images: int) -> Choice:
        """Waits for the turn, which lasts until `done` is called."""
        due_at = complete_at + deadline_ms / 1000
        who = Waiting(due_at, next(self._numbers), complete_at, deadline_ms, num_images)
        begins: asyncio.Future[Choice] = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (who, begins))
        self._next()
        try:
            return await begins
        except asyncio.CancelledError:
            if not begins.cancelled():  # its turn came in the moment in which it was given up
                self.done()
            raise

    def done(self) -> None:
        self._num_running -= 1
        self._next()

    def _next(self) -> None:
        while self._waiting and not self._num_running:
            first, begins = heappop(self._waiting)
            if begins.done():  # given up
                continue
            until = first.due_at + first.deadline_ms / 1000
            soon = sum(who.num_images for who, _ in self._waiting if who.due_at <= until)
            try:
                choice = self._choose(first, soon)
            except Exception as error:
                begins.set_exception(error)
                continue
            group, num_images = [begins], first.num_images
            while self._waiting and self._waiting[0][0].deadline_ms == first.deadline_ms:
                num_images += self._waiting[0][0].num_images
                if num_images > MAX_BATCH_IMAGES:
                    break
                group.append(heappop(self._waiting)[1])
            for each in group:
                if not each.done():
                    self._num_running += 1
                    each.set_result(choice)
