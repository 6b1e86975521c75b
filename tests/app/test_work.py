"""The bound on memory that decoding and networks share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from app.admission.work import ClosingError, QueueFullError, Work
from app.monitoring.metrics import Metrics


class Load:
    """Work that lasts until it is let go; counts the bytes that are in use."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.order: list[str] = []
        self._lock = threading.Lock()
        self._bytes_in_use = 0
        self.most_bytes = 0

    def run(self, name: str, num_bytes: int) -> str:
        with self._lock:
            self.order.append(name)
            self._bytes_in_use += num_bytes
            self.most_bytes = max(self.most_bytes, self._bytes_in_use)
        assert self.go.wait(10)
        with self._lock:
            self._bytes_in_use -= num_bytes
        return name


def with_work(test: Callable[[Work, Load], Awaitable[None]], max_bytes: int = 100, max_waiting: int = 100) -> None:
    async def run() -> None:
        work, load = Work(max_bytes, max_waiting, Metrics()), Load()
        try:
            await test(work, load)
        finally:
            load.go.set()
            work.close()

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def test_all_together_never_take_more_than_the_bound() -> None:
    async def test(work: Work, load: Load) -> None:
        asked = [asyncio.create_task(work.run_network(40, load.run, str(i), 40)) for i in range(20)]
        await until(lambda: len(load.order) == 2)
        load.go.set()
        assert await asyncio.gather(*asked) == [str(i) for i in range(20)]
        assert load.most_bytes <= 100

    with_work(test)


def test_what_takes_more_than_there_is_runs_alone() -> None:
    async def test(work: Work, load: Load) -> None:
        load.go.set()
        asked = (work.run_network(size, load.run, str(size), size) for size in (30, 500, 30))
        assert await asyncio.gather(*asked) == ["30", "500", "30"]
        assert load.most_bytes == 500

    with_work(test)


def test_networks_go_before_decoding() -> None:
    async def test(work: Work, load: Load) -> None:
        first = asyncio.create_task(work.run_network(100, load.run, "first", 100))
        await until(lambda: load.order == ["first"])
        decoding = asyncio.create_task(work.decode(100, load.run, "decoding", 100))
        await asyncio.sleep(0)
        network = asyncio.create_task(work.run_network(100, load.run, "network", 100))
        await asyncio.sleep(0)
        load.go.set()
        await asyncio.gather(first, decoding, network)
        assert load.order == ["first", "network", "decoding"]

    with_work(test)


def test_cancelled_work_does_not_begin_and_memory_in_use_is_counted_until_its_thread_ends() -> None:
    async def test(work: Work, load: Load) -> None:
        runs = asyncio.create_task(work.decode(100, load.run, "runs", 100))
        await until(lambda: load.order == ["runs"])
        waits = asyncio.create_task(work.decode(100, load.run, "cancelled", 100))
        stays = asyncio.create_task(work.decode(100, load.run, "stays", 100))
        await asyncio.sleep(0)
        runs.cancel()
        waits.cancel()
        await asyncio.sleep(0.02)
        assert load.order == ["runs"], "its thread cannot be stopped, and still has its memory"
        load.go.set()
        await stays
        assert load.order == ["runs", "stays"]
        assert load.most_bytes == 100

    with_work(test)


def test_who_is_cancelled_when_its_turn_comes_gives_the_turn_on() -> None:
    async def test(work: Work, load: Load) -> None:
        load.go.set()
        for _ in range(50):
            asked = [asyncio.create_task(work.decode(100, load.run, "", 100)) for _ in range(3)]
            await asyncio.sleep(0)
            await until(asked[0].done)
            asked[1].cancel()
            async with asyncio.timeout(5):
                await asked[2]

    with_work(test)


def test_only_so_many_wait_to_be_decoded() -> None:
    async def test(work: Work, load: Load) -> None:
        asked = [asyncio.create_task(work.decode(100, load.run, str(i), 100)) for i in range(6)]
        await until(lambda: load.order == ["0"])
        await asyncio.sleep(0.01)
        refused = [task for task in asked if task.done() and isinstance(task.exception(), QueueFullError)]
        assert len(refused) == 2, "one runs, three wait"
        load.go.set()
        await asyncio.gather(*(task for task in asked if task not in refused))

    with_work(test, max_waiting=2)


def test_what_waits_is_given_up_when_the_server_ends() -> None:
    async def test(work: Work, load: Load) -> None:
        runs, waits = (asyncio.create_task(work.decode(100, load.run, str(i), 100)) for i in range(2))
        await until(lambda: load.order == ["0"])
        work.close()
        with pytest.raises(ClosingError):
            await waits
        with pytest.raises(ClosingError):
            await work.run_network(1, load.run, "late", 1)
        load.go.set()
        assert await runs == "0"

    with_work(test)
