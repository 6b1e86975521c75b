"""Lists and choices come from memory for a moment, and follow the catalog within a second."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.exceptions import RequestValidationError
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from app.http.response_cache import ResponseCache
from app.predict.model_choice import ModelChoices
from zoo.library.local import LocalZoo
from zoo.library.upkeep.device import device_name
from zoo.network.families.secnn import SecnnArchitecture
from zoo.store.entries import Latency

PATHS = ("/models", "/models?min_acc=0.5", "/models/pareto", "/models/smallest", "/models?min_acc=0.5&limit=1")


@pytest.fixture
def zoo(tmp_path: Path, put: Callable[..., str], tiny: SecnnArchitecture) -> Iterator[LocalZoo]:
    """Another process, as it were, with the catalog that is served."""
    put(tmp_path, accuracy=0.6)
    put(tmp_path, tiny.widened(0, 1), accuracy=0.7)
    zoo = LocalZoo([tmp_path])
    zoo.sync()
    yield zoo
    zoo.close()


@pytest.mark.parametrize("change", ["deprecated", "deleted", "measured"])
def test_every_list_follows_the_catalog_within_a_second(
    zoo: LocalZoo, tmp_path: Path, client_of: Callable[..., httpx.Client], change: str
) -> None:
    client = client_of(tmp_path, rescan_seconds=0)
    smallest = zoo.smallest().id
    paths = (*PATHS, "/models?max_latency_ms=1")
    before = {path: client.get(path).text for path in paths}
    if change == "measured":
        now = {"num_runs": 1, "measured_at": "2026-11-21T02:00:00+00:00", "device": device_name()}
        zoo.annotations.record_latencies([Latency(digest=smallest, median_ms=0.5, p95_ms=0.6, **now)])
        zoo.sync()
    elif change == "deprecated":
        zoo.annotator.mark(smallest, deprecated=True)
    else:
        zoo.delete(smallest)
    changed_at = time.monotonic()
    waiting = set(PATHS) if change != "measured" else {"/models", "/models?max_latency_ms=1"}
    while waiting:
        asked_at = time.monotonic()
        waiting = {path for path in waiting if client.get(path).text == before[path]}
        assert not waiting or asked_at < changed_at + 1, waiting


def test_lists_do_not_wait_for_the_catalog(
    zoo: LocalZoo, tmp_path: Path, client_of: Callable[..., httpx.Client]
) -> None:
    client = client_of(tmp_path)
    refused = "/models?min_acc=0.99"

    def fastest(path: str) -> float:
        times = []
        for _ in range(30):
            started = time.perf_counter()
            client.get(path)
            times.append(time.perf_counter() - started)
        return min(times)

    alone = fastest("/livez")
    for path in (*PATHS, refused):
        assert fastest(path) < 2 * alone, path


def test_an_answer_from_memory_is_the_answer(
    zoo: LocalZoo, tmp_path: Path, client_of: Callable[..., httpx.Client]
) -> None:
    client = client_of(tmp_path)
    for path in (*PATHS, "/models?min_acc=0.99"):
        first, second = (client.get(path, headers={"X-Request-Id": name}) for name in ("one", "two"))
        assert second.headers["x-request-id"] == "two"
        assert (first.status_code, first.content) == (second.status_code, second.content)
        ignored = ("date", "x-request-id")
        different = {name for name, _ in first.headers.items() ^ second.headers.items()}
        assert different <= set(ignored)
        assert (client.head(path).status_code, client.head(path).content) == (first.status_code, b"")
    metrics = client.get("/metrics").text
    assert 'zoo_requests_total{method="GET",route="/models/{reference}",status="200"} 2.0' in metrics


def test_what_was_found_before_a_change_is_not_remembered_after_it() -> None:
    cache, slow = ResponseCache(), scope("/models")
    assert cache.answer(slow) is None
    cache.forget()
    cache.remember(slow, lambda _: Response())
    assert cache.answer(scope("/models")) is None


def test_what_is_remembered_is_bounded() -> None:
    """However many URLs clients make up, and however long they and their answers are."""
    cache = ResponseCache()
    tracemalloc.start()
    try:
        for index in range(10_000):
            asked = scope("/models", f"dataset={index:04}{'x' * (index % 3) * 10_000}".encode())
            assert cache.answer(asked) is None
            answer = Response(bytes(index % 7 * 20_000))
            cache.remember(asked, lambda _, answer=answer: answer, len(answer.body))
        assert cache.answer(asked) is answer
        assert tracemalloc.get_traced_memory()[1] < 16_000_000
    finally:
        tracemalloc.stop()


def test_choices_of_long_queries_are_not_remembered(zoo: LocalZoo) -> None:
    async def choose_often(choices: ModelChoices) -> None:
        for index in range(200):
            with pytest.raises(RequestValidationError):
                await choices.choose(f"top_k={index:04}{'x' * 50_000}".encode())

    choices = ModelChoices(zoo)
    tracemalloc.start()
    try:
        asyncio.run(choose_often(choices))
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 2_000_000
    finally:
        tracemalloc.stop()


def scope(path: str, query: bytes = b"") -> Scope:
    route = Route(path, endpoint=lambda: None)
    return {"type": "http", "method": "GET", "path": path, "query_string": query, "route": route}
