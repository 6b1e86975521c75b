"""How long does "the smallest within one bound" take over a million rows, in the worst catalogs we can think of?

    python benchmarks/catalog_select.py [NUM_ROWS] > benchmarks/results/catalog_select-$(date +%F).txt

Each shape below is bad for some way of answering. `smallest` is `zoo.catalog.index.Catalog.choose` as the service calls
it, the default data set looked up each time; `plain` is what it would be without the staircase: the same rows and
indexes, `WHERE … ORDER BY params … LIMIT 1` through bare sqlite3.
"""

from __future__ import annotations

import hashlib
import platform
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from machine import processor

from zoo.catalog.index import Catalog
from zoo.catalog.rows import SCHEMA_VERSION
from zoo.choosing.budget import Budget

SEED = 0
NUM_LIMITS = 400
NUM_PLAIN_LIMITS = 7
REPEATS = 5
BY_SIZE = "ORDER BY params, accuracy DESC, digest"
BOUNDS = {
    "min_acc": "accuracy >= ?",
    "max_params": "params <= ?",
    "max_macs": "macs <= ?",
    "max_bytes": "bytes <= ?",
    "max_latency_ms": "latency_ms <= ?",
}

Shape = Callable[[int, int, random.Random], tuple[float, int, int]]
"""(i, n, random) -> accuracy from 0 to 1, parameters, and the other three costs, for row i of n."""

SHAPES: dict[str, Shape] = {
    "every row a step: larger is more accurate, and cheaper otherwise": lambda i, n, _: (i / n, i + 1, n - i),
    "anti-correlated: larger is less accurate, and dearer": lambda i, n, _: (1 - i / n, i + 1, i + 1),
    "one size: same parameters, all else at random": lambda _i, n, rng: (rng.random(), 10_000, rng.randrange(n)),
    "all alike but for the digest": lambda _i, n, _: (0.8, 10_000, n // 2),
    "only the largest is any good": lambda i, n, _: (0.99 if i == n - 1 else 0.1, i + 1, 1 if i == n - 1 else n),
    "at random": lambda _i, n, rng: (rng.random(), rng.randrange(n), rng.randrange(n)),
}


def rows(shape: Shape, n: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(SEED)
    for i in range(n):
        accuracy, params, cost = shape(i, n, rng)
        yield {
            "digest": hashlib.sha256(i.to_bytes(8, "little")).hexdigest(),
            "name": f"bench-{params}",
            "dataset": "bench",
            "family": "secnn",
            "params": params,
            "macs": cost,
            "bytes": cost,
            "onnx_bytes": cost,
            "ram_bytes": cost,
            "latency_ms": float(cost),
            "accuracy": accuracy,
            "accuracy_n": 10_000,
            "val_accuracy": accuracy,
            "classes": '["a", "b"]',
            "created_at": "2026-11-21T02:00:00+00:00",
            "parent": None,
        }


def limits(bound: str, n: int, count: int) -> list[float]:
    """From what nothing meets to what everything meets, both included."""
    if bound == "min_acc":
        return [i / (count - 1) for i in range(count)]
    whole = [round(n * i / (count - 2)) for i in range(count - 1)] + [2 * n]
    return [float(limit) for limit in whole] if bound == "max_latency_ms" else whole


def microseconds(call: Callable[..., object], argument: object) -> float:
    started = time.perf_counter_ns()
    call(argument)
    return (time.perf_counter_ns() - started) / 1000


def measure(catalog: Catalog, plain: sqlite3.Connection, n: int) -> None:
    print(
        f"{'bound':<16}{'median':>8}{'p99.9':>8}{'worst':>8}{'plain median':>16}{'ratio':>11}{'worst':>12}{'ratio':>11}"
    )
    for bound, condition in BOUNDS.items():
        query = f"SELECT * FROM checkpoint_{SCHEMA_VERSION} WHERE dataset = 'bench' AND {condition} {BY_SIZE} LIMIT 1"
        ours = [
            [microseconds(catalog.choose, Budget(prefer="params", **{bound: limit})) for _ in range(REPEATS)]
            for limit in limits(bound, n, NUM_LIMITS)
        ]
        theirs = []
        for limit in limits(bound, n, NUM_PLAIN_LIMITS):
            found, chosen = (
                plain.execute(query, (limit,)).fetchone(),
                catalog.choose(Budget(prefer="params", **{bound: limit})),
            )
            assert (found and found[0]) == (chosen and chosen.digest), (bound, limit)
            theirs.append(microseconds(partial(first, plain, query), limit))
        every = sorted(time for times in ours for time in times)
        median, worst = statistics.median(every), max(statistics.median(times) for times in ours)
        plain_median, plain_worst = statistics.median(theirs), max(theirs)
        print(
            f"{bound:<16}{median:>8.0f}{every[int(len(every) * 0.999)]:>8.0f}{worst:>8.0f}"
            f"{plain_median:>16.0f}{plain_median / median:>11.2f}{plain_worst:>12.0f}{plain_worst / worst:>11.2f}"
        )


def first(connection: sqlite3.Connection, query: str, limit: float) -> object:
    return connection.execute(query, (limit,)).fetchone()


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    print(f"{datetime.now(UTC):%Y-%m-%d}, {n:,} rows, seed {SEED}")
    print(
        f"{processor()}, {platform.system()} {platform.release()}, catalog on disk, Python {platform.python_version()}"
    )
    print(f"SQLite {sqlite3.sqlite_version}, SQLAlchemy {version('sqlalchemy')}, sqlmodel {version('sqlmodel')}")
    print(f"microseconds; {NUM_LIMITS} limits a bound, from none meet to all meet, {REPEATS} calls each")
    print("median and p99.9: of all calls; worst: the slowest limit, by the median of its calls")
    print(f"plain: {NUM_PLAIN_LIMITS} limits, one call each after one to warm up; ratio: plain / smallest")
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "catalog.sqlite"
            catalog = Catalog(file)
            started = time.perf_counter()
            catalog.replace(rows(shape, n))
            print(f"\n{name}  (built in {time.perf_counter() - started:.0f} s, {file.stat().st_size / 1e6:.0f} MB)")
            plain = sqlite3.connect(file)
            measure(catalog, plain, n)
            plain.close()
            catalog.close()


if __name__ == "__main__":
    main()
