"""Who waits, and who is refused, where a queue is full."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from app.admission.overflow import Overflow


class Queue:
    """Takes so many at a time."""

    def __init__(self, num_places: int) -> None:
        self.num_places = num_places

    def is_full(self, _: Mapping[str, Any]) -> bool:
        return self.num_places <= 0


def scope(path: str = "/predict") -> Mapping[str, Any]:
    return {"path": path, "query_string": b""}


def run(test: Callable[[Overflow], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test(Overflow())

    asyncio.run(bounded())


async def ask(overflow: Overflow, queue: Queue, path: str = "/predict") -> bool:
    is_admitted = await overflow.admitted(scope(path), has_body_to_come=False)
    queue.num_places -= is_admitted
    return is_admitted


def test_what_nobody_found_full_does_not_wait() -> None:
    async def test(overflow: Overflow) -> None:
        assert not overflow.may_have_to_wait(scope())
        assert await ask(overflow, Queue(0))

    run(test)


def test_few_are_refused_at_once_and_many_in_turns() -> None:
    async def test(overflow: Overflow) -> None:
        queue = Queue(0)
        overflow.found_full(scope(), "checkpoint", queue.is_full)
        assert overflow.may_have_to_wait(scope())
        started = time.perf_counter()
        assert not await ask(overflow, queue)
        assert time.perf_counter() - started < 0.5
        asked = [asyncio.create_task(ask(overflow, queue)) for _ in range(200)]
        await asyncio.sleep(0.05)
        num_refused = sum(task.done() for task in asked)
        assert 50 < num_refused < 200
        assert not any(await asyncio.gather(*asked))
        assert time.perf_counter() - started > 0.8, "some 100 a second"

    run(test)


def test_who_waits_longest_takes_the_place_that_becomes_free() -> None:
    async def test(overflow: Overflow) -> None:
        queue = Queue(0)
        overflow.found_full(scope(), "checkpoint", queue.is_full)
        asked = [asyncio.create_task(ask(overflow, queue)) for _ in range(200)]
        await asyncio.sleep(0.001)
        queue.num_places = 3
        answers = await asyncio.gather(*asked)
        admitted = [index for index, is_admitted in enumerate(answers) if is_admitted]
        assert admitted == list(range(admitted[0], admitted[0] + 3)), "in order, as many as there were places"
        assert admitted[0] < 190

    run(test)


def test_who_leaves_gives_the_turn_on_and_other_urls_do_not_wait() -> None:
    async def test(overflow: Overflow) -> None:
        queue = Queue(0)
        overflow.found_full(scope(), "checkpoint", queue.is_full)
        asked = [asyncio.create_task(ask(overflow, queue)) for _ in range(120)]
        await asyncio.sleep(0.001)
        waiting = [task for task in asked if not task.done()]
        overflow.found_full(scope("/other"), "bodies", Queue(1).is_full)
        assert await ask(overflow, Queue(1), "/other")
        for task in waiting[:-1]:
            task.cancel()
        queue.num_places = 1
        assert await waiting[-1]

    run(test)


def test_at_the_end_nobody_waits() -> None:
    async def test(overflow: Overflow) -> None:
        queue = Queue(0)
        overflow.found_full(scope(), "checkpoint", queue.is_full)
        started = time.perf_counter()
        asked = [asyncio.create_task(ask(overflow, queue)) for _ in range(1500)]
        await asyncio.sleep(0.001)
        overflow.close()
        assert not any(await asyncio.gather(*asked))
        assert time.perf_counter() - started < 2

    run(test)
