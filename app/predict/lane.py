"""A queue of adaptive predictions, in the order of their deadlines (earliest deadline first, EDF).

A checkpoint is chosen when the turn comes, not when the request does: by then its wait is known, and only the forward
pass is left to be estimated. One group runs at a time, so that no level's batches slow down another's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeAlias, TypeVar

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


_Place: TypeAlias = tuple[Waiting, asyncio.Future[Choice]]


class Lane(Generic[Choice]):
    """Belongs to one event loop.

    `choose` is given who goes next, and how many images are due soon after. What it answers `is_late` for cannot be
    in time any more: that goes behind all that still can, where earliest deadline first would let one late answer
    make the next one late, for as long as the load lasts.
    """

    def __init__(self, choose: Callable[[Waiting, int], Choice], is_late: Callable[[Choice], bool]) -> None:
        self._choose = choose
        self._is_late = is_late
        self._numbers = count()
        self._waiting: list[_Place[Choice]] = []
        self._late: deque[_Place[Choice]] = deque()
        self._num_running = 0

    def __len__(self) -> int:
        """Those that wait for their turn."""
        return len(self._waiting) + len(self._late)

    @property
    def is_idle(self) -> bool:
        return not len(self) and not self._num_running

    @property
    def has_late(self) -> bool:
        return bool(self._late)

    def refuse_late(self, error: Exception) -> None:
        """Load shedding: refuses the request that has been late for longest, to make room."""
        _, begins = self._late.popleft()
        if not begins.done():
            begins.set_exception(error)

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
            if begins.cancelled():
                self._leave(begins)
            elif begins.exception() is None:  # its turn came as it was given up
                self.done()
            raise

    def _leave(self, begins: asyncio.Future[Choice]) -> None:
        """Removes a cancelled request, so that it takes no room and no other is hurried for its sake."""
        self._waiting = [place for place in self._waiting if place[1] is not begins]
        heapify(self._waiting)
        self._late = deque(place for place in self._late if place[1] is not begins)

    def done(self) -> None:
        self._num_running -= 1
        self._next()

    def _next(self) -> None:
        while self._waiting and not self._num_running:
            first, begins = place = heappop(self._waiting)
            choice = self._chosen(place)
            if choice is not None and self._is_late(choice):
                self._late.append(place)
            elif choice is not None:
                self._begin([begins, *self._joining(first)], choice)
        while self._late and not self._num_running:
            place = self._late.popleft()
            if (choice := self._chosen(place)) is not None:
                self._begin([place[1]], choice)

    def _chosen(self, place: _Place[Choice]) -> Choice | None:
        """The choice for a request whose turn it is; None for a cancelled or failed one."""
        who, begins = place
        if begins.done():
            return None
        until = who.due_at + who.deadline_ms / 1000
        try:
            return self._choose(who, sum(other.num_images for other, _ in self._waiting if other.due_at <= until))
        except Exception as error:
            begins.set_exception(error)
            return None

    def _joining(self, first: Waiting) -> Iterator[asyncio.Future[Choice]]:
        """The next requests with the same deadline, as many as fit into one batch."""
        num_images = first.num_images
        while self._waiting and self._waiting[0][0].deadline_ms == first.deadline_ms:
            num_images += self._waiting[0][0].num_images
            if num_images > MAX_BATCH_IMAGES:
                break
            yield heappop(self._waiting)[1]

    def _begin(self, group: Sequence[asyncio.Future[Choice]], choice: Choice) -> None:
        for begins in group:
            if not begins.done():
                self._num_running += 1
                begins.set_result(choice)
