from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.catalog.index import Catalog
from zoo.catalog.rows import CheckpointRow
from zoo.choosing.budget import Budget, Filters, wilson_interval
from zoo.errors import NotFoundError
from zoo.store.entries import Said


def row(digest: str, **values: Any) -> CheckpointRow:
    usual = {
        "name": "shapes-test-s0-100",
        "dataset": "shapes",
        "family": "secnn",
        "params": 100,
        "macs": 1000,
        "bytes": 2000,
        "onnx_bytes": 2400,
        "ram_bytes": 9000,
        "accuracy": 0.75,
        "accuracy_n": 100,
        "val_accuracy": 0.8,
        "classes": '["a", "b"]',
        "created_at": "2026-11-21T02:00:00+00:00",
    }
    return CheckpointRow(digest=digest, **(usual | values))


# --- what every query should answer, by looking at every row ------------------------------------------------


def default_dataset(rows: list[CheckpointRow]) -> str | None:
    if any(row.dataset == "cifar10" for row in rows):
        return "cifar10"
    by_age = sorted(rows, key=lambda row: row.digest)
    return max(by_age, key=lambda row: row.created_at).dataset if rows else None


def eligible(rows: list[CheckpointRow], budget: Budget) -> list[CheckpointRow]:
    dataset = budget.dataset or default_dataset(rows)
    found = [row for row in rows if dataset in ("*", row.dataset) and meets(row, budget)]
    return sorted(found, key=lambda row: (preferred(row, budget), *size(row)))


def preferred(row: CheckpointRow, budget: Budget) -> float:
    """Low is good; what is unknown comes last."""
    wanted = budget.prefer or ("params" if budget.min_acc is not None else "accuracy")
    if wanted == "accuracy":
        return -accuracy(row)
    value = row.ram_bytes if wanted == "ram" else cost(row, wanted, budget)
    return float("inf") if value is None else value


def cost(row: CheckpointRow, name: str, filters: Filters) -> float | None:
    found: float | None = getattr(row, "onnx_bytes" if (name, filters.format) == ("bytes", "onnx") else name)
    return found


def size(row: CheckpointRow) -> tuple[int, float, str]:
    return row.params, -accuracy(row), row.digest


def accuracy(row: CheckpointRow) -> float:
    return -1 if row.accuracy is None else row.accuracy


def meets(row: CheckpointRow, budget: Filters) -> bool:
    for name in ("params", "macs", "bytes", "latency_ms"):
        bound, value = getattr(budget, f"max_{name}"), cost(row, name, budget)
        if bound is not None and (value is None or value > bound):
            return False
    asks_accuracy = budget.min_acc is not None or budget.confidence is not None
    if asks_accuracy and not certainly_reaches(row, budget.min_acc or 0, budget.confidence):
        return False
    return budget.family in (None, row.family)


def certainly_reaches(row: CheckpointRow, min_acc: float, confidence: float | None) -> bool:
    if row.accuracy is None:
        return False
    if max(row.accuracy, row.accuracy_in_full or 0) < min_acc:
        return False
    return confidence is None or (
        row.accuracy_n is not None and wilson_interval(row.accuracy, row.accuracy_n, confidence)[0] >= min_acc
    )


def is_nearest(row: CheckpointRow | None, rows: list[CheckpointRow], budget: Budget) -> bool:
    """The most accurate within the costs, else the smallest."""
    affordable = eligible(rows, budget.model_copy(update={"min_acc": None, "confidence": None, "prefer": None}))
    if affordable:
        return row in affordable and accuracy(row) == max(map(accuracy, affordable))
    return row == next(iter(eligible(rows, Budget(dataset=budget.dataset, prefer="params"))), None)


def pareto(rows: list[CheckpointRow], budget: Budget, x: str) -> list[CheckpointRow]:
    by_size = eligible(rows, budget.model_copy(update={"prefer": "params"}))
    known = [row for row in by_size if row.accuracy is not None and cost(row, x, budget) is not None]

    def place(row: CheckpointRow) -> tuple[float, float]:
        value = cost(row, x, budget)
        assert value is not None
        return value, -accuracy(row)

    def beaten(row: CheckpointRow, index: int) -> bool:
        return any(
            all(a <= b for a, b in zip(place(other), place(row), strict=True))
            and (place(other) != place(row) or earlier < index)
            for earlier, other in enumerate(known)
            if other is not row
        )

    return sorted((row for index, row in enumerate(known) if not beaten(row, index)), key=place)


# --- rows with many ties and unknowns, and budgets that cut through them -------------------------------------

SMALL = st.integers(0, 4)
FRACTIONS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
DATASETS = ["cifar10", "digits", "shapes"]


@st.composite
def catalogs(draw: st.DrawFn) -> list[CheckpointRow]:
    datasets = draw(st.sampled_from([DATASETS, DATASETS[1:]]))
    values = st.fixed_dictionaries(
        {
            "dataset": st.sampled_from(datasets),
            "family": st.sampled_from(["secnn", "other"]),
            "params": SMALL,
            "macs": SMALL,
            "bytes": SMALL,
            "onnx_bytes": SMALL,
            "ram_bytes": SMALL,
            "latency_ms": st.none() | SMALL.map(float),
            "accuracy": st.none() | FRACTIONS,
            "accuracy_in_full": st.none() | st.sampled_from([0.00004, -0.00004]),
            "accuracy_n": st.none() | st.sampled_from([10, 1000]),
            "created_at": st.sampled_from([f"2026-11-2{day}T02:00:00+00:00" for day in range(3)]),
        }
    )
    digests = draw(st.lists(st.integers(0, 1000), unique=True, max_size=30))
    return [row(f"{digest:064x}", **in_full(draw(values))) for digest in digests]


def in_full(values: dict[str, Any]) -> dict[str, Any]:
    """With the accuracy in full near the one that is shown."""
    shown, off = values["accuracy"], values["accuracy_in_full"]
    return values | {"accuracy_in_full": None if None in (shown, off) else shown + off}


BOUNDS: dict[str, st.SearchStrategy[Any]] = {
    "min_acc": FRACTIONS | st.sampled_from([0.50004, 0.50006]),
    "max_params": SMALL,
    "max_macs": SMALL,
    "max_bytes": SMALL,
    "max_latency_ms": SMALL.map(float),
}
ONE_BOUND = st.one_of(*(st.fixed_dictionaries({name: bound}) for name, bound in BOUNDS.items()))
MANY_BOUNDS = st.fixed_dictionaries({}, optional={**BOUNDS, "family": st.sampled_from(["secnn", "none such"])})
CERTAIN = st.fixed_dictionaries(
    {"confidence": st.sampled_from([0.5, 0.95])}, optional={"min_acc": st.sampled_from([0.3, 0.6])}
)


class Query(Budget):
    """A budget and more, as a route takes it."""

    limit: int = 50


PREFERENCES = st.sampled_from([None, "params", "macs", "bytes", "latency_ms", "ram", "accuracy"])
FORMATS = st.sampled_from(["safetensors", "onnx"])


@st.composite
def budgets(draw: st.DrawFn) -> Budget:
    bounds = draw(ONE_BOUND | MANY_BOUNDS | CERTAIN)
    return draw(st.sampled_from([Budget, Query]))(
        dataset=draw(st.sampled_from([None, "*", *DATASETS, "none such"])),
        prefer=draw(PREFERENCES),
        format=draw(FORMATS),
        **bounds,
    )


@pytest.fixture(scope="module")
def shared() -> Iterator[Catalog]:
    """For Hypothesis: opening one takes longer than an example."""
    catalog = Catalog(None)
    yield catalog
    catalog.close()


@pytest.fixture
def catalog() -> Iterator[Catalog]:
    catalog = Catalog(None)
    yield catalog
    catalog.close()


def dumps(rows: list[CheckpointRow]) -> list[dict[str, Any]]:
    return [row.model_dump() for row in rows]


@settings(max_examples=60)
@given(rows=catalogs(), some_budgets=st.lists(budgets(), min_size=10, max_size=20))
def test_every_selection_equals_brute_force(
    shared: Catalog, rows: list[CheckpointRow], some_budgets: list[Budget]
) -> None:
    shared.replace(dumps(rows))
    for budget in some_budgets:
        wanted = eligible(rows, budget)
        assert shared.choose(budget) == next(iter(wanted), None), budget
        assert shared.count(budget) == len(wanted), budget
        assert shared.page(budget, 100).rows == wanted, budget
        assert is_nearest(shared.best_available(budget), rows, budget), budget
        for row in rows[:2]:
            assert shared.meets(row.digest, budget) == meets(row, budget), (row, budget)
        assert shared.dataset_of(budget) == (budget.dataset or default_dataset(rows))


@settings(max_examples=40)
@given(rows=catalogs(), some_budgets=st.lists(budgets(), min_size=5, max_size=10))
def test_pareto_equals_brute_force(shared: Catalog, rows: list[CheckpointRow], some_budgets: list[Budget]) -> None:
    shared.replace(dumps(rows))
    for budget in some_budgets:
        for x in ("params", "macs", "bytes", "latency_ms"):
            assert shared.pareto(budget, x) == pareto(rows, budget, x), (budget, x)  # type: ignore[arg-type]


EVERY_BOUND = [
    Budget(**{name: value}, dataset=dataset, prefer=prefer)
    for name, values in [
        ("min_acc", [0.0, 0.25, 0.5, 0.75, 1.0]),
        *((f"max_{cost}", [0, 1, 2, 3, 4]) for cost in ("params", "macs", "bytes", "latency_ms")),
    ]
    for value in values
    for dataset in ("*", *DATASETS)
    for prefer in ("params", "accuracy")
]


@settings(max_examples=25)
@given(rows=catalogs(), data=st.data())
def test_rows_added_and_removed_one_by_one_give_the_answers_of_a_rebuild(
    shared: Catalog, rows: list[CheckpointRow], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(rows))
    gone = {one.digest for one in order if data.draw(st.booleans())}
    shared.replace([])
    for one in order:
        shared.add([one])
    for budget in EVERY_BOUND:
        assert shared.choose(budget) == next(iter(eligible(rows, budget)), None), budget
    for x in ("params", "macs", "bytes", "latency_ms"):
        assert shared.pareto(Budget(dataset="*"), x) == pareto(rows, Budget(dataset="*"), x)  # type: ignore[arg-type]
    shared.remove(gone)
    left = [one for one in rows if one.digest not in gone]
    for budget in EVERY_BOUND:
        assert shared.choose(budget) == next(iter(eligible(left, budget)), None), budget
    hidden = {one.digest for one in left if data.draw(st.booleans())}
    for deprecated in (hidden, set()):
        shared.annotate(Said(deprecated=frozenset(deprecated)))
        offered = [one for one in left if one.digest not in deprecated]
        for budget in EVERY_BOUND:
            assert shared.choose(budget) == next(iter(eligible(offered, budget)), None), budget


@settings(max_examples=25)
@given(rows=catalogs(), budget=budgets(), limit=st.integers(1, 5))
def test_pages_put_together_are_the_whole_list(
    shared: Catalog, rows: list[CheckpointRow], budget: Budget, limit: int
) -> None:
    shared.replace(dumps(rows))
    found: list[CheckpointRow] = []
    cursor = None
    while True:
        page = shared.page(budget, limit, cursor)
        assert len(page.rows) == limit or page.next_cursor is None
        found += page.rows
        cursor = page.next_cursor
        if cursor is None:
            break
    assert found == eligible(rows, budget)


@pytest.mark.parametrize("cursor", ["", "nonsense", "WzEsMl0", "bnVsbA", "{}", "é"])
def test_a_cursor_from_nowhere_is_refused(catalog: Catalog, cursor: str) -> None:
    with pytest.raises(ValueError, match="is not one that a page of this list gave out"):
        catalog.page(Budget(), 10, cursor)


def test_a_cursor_of_another_order_is_refused(catalog: Catalog) -> None:
    catalog.add([row(f"{index:064x}", params=index) for index in range(3)])
    cursor = catalog.page(Budget(), 1).next_cursor
    with pytest.raises(ValueError, match="is not one that a page of this list gave out"):
        catalog.page(Budget(min_acc=0.5), 1, cursor)


def test_every_page_names_the_chosen_one_and_how_many_there_are(catalog: Catalog) -> None:
    rows = [row(f"{index:064x}", params=index, accuracy=index / 10) for index in range(5)]
    catalog.add(rows)
    first = catalog.listing(Budget(max_params=3), 2)
    second = catalog.listing(Budget(max_params=3), 2, first.page.next_cursor)
    assert (first.page.rows, second.page.rows) == ([rows[3], rows[2]], [rows[1], rows[0]])
    assert first.selected == second.selected == rows[3]
    assert first.count == second.count == 4


# --- references ---------------------------------------------------------------------------------------------


def test_find_by_digest_prefix_name_and_alias(catalog: Catalog) -> None:
    small = row("aaaaaaaa" + "0" * 56, params=10, accuracy=0.6, name="small", created_at="2026-11-20T02:00:00+00:00")
    twin = row("aaaaaaaa" + "1" * 56, params=20, accuracy=0.9, name="large", created_at="2026-11-19T02:00:00+00:00")
    large = row("bbbbbbbb" + "0" * 56, params=30, accuracy=0.8, name="large", created_at="2026-11-21T02:00:00+00:00")
    elsewhere = row("c" * 64, params=1, accuracy=1.0, dataset="digits", created_at="2026-11-18T02:00:00+00:00")
    catalog.add([small, twin, large, elsewhere])
    assert catalog.find(small.digest) == small
    assert catalog.find("bbbbbbbb") == large
    with pytest.raises(NotFoundError, match="2 checkpoints are named large: give a digest: aaaaaaaa1111, bbbbbbbb0000"):
        catalog.find("large")
    catalog.annotate(Said(deprecated=frozenset({twin.digest})))
    assert catalog.find("large") == large, "the other is deprecated"
    catalog.annotate(Said())
    catalog.add([row("d" * 64, name="small", dataset="digits", created_at=elsewhere.created_at)])
    assert catalog.find("small", "shapes") == small
    assert catalog.find("smallest") == small
    assert catalog.find("best") == twin
    assert catalog.find("latest") == large
    assert catalog.aliases() == {"smallest": small.digest, "best": twin.digest, "latest": large.digest}
    with pytest.raises(NotFoundError, match="several checkpoints begin with aaaaaaaa: give more"):
        catalog.find("aaaaaaaa")
    with pytest.raises(NotFoundError, match="no checkpoint 'bbbbbbb': expected a digest, 8 or more"):
        catalog.find("bbbbbbb")


def test_a_name_may_look_like_a_digest(catalog: Catalog) -> None:
    odd = row("a" * 64, name="deadbeef")
    catalog.add([odd])
    assert catalog.find("deadbeef") == odd


def test_an_empty_catalog_selects_nothing(catalog: Catalog) -> None:
    assert catalog.dataset_of(Budget()) is None
    assert catalog.choose(Budget()) is None
    assert catalog.best_available(Budget()) is None
    assert catalog.page(Budget(), 10).rows == []
    assert catalog.count(Budget()) == 0
    assert catalog.pareto(Budget(), "params") == []
    assert catalog.aliases() == {}
    with pytest.raises(NotFoundError, match="no checkpoint 'smallest'"):
        catalog.find("smallest")


def test_a_default_data_set_can_be_set() -> None:
    catalog = Catalog(None, default_dataset="digits")
    catalog.add([row("a" * 64, dataset="cifar10"), row("b" * 64, dataset="digits")])
    assert catalog.choose(Budget()) == row("b" * 64, dataset="digits")
    catalog.close()


def test_the_default_data_set_is_one_that_can_be_chosen_from(catalog: Catalog) -> None:
    names = {"a": "cifar10", "b": "digits", "c": "shapes"}
    catalog.add([row(digest * 64, dataset=name) for digest, name in names.items()])
    for deprecated, default in (("", "cifar10"), ("a", "digits"), ("ab", "shapes"), ("abc", None)):
        catalog.annotate(Said(deprecated=frozenset(digest * 64 for digest in deprecated)))
        assert catalog.dataset_of(Budget()) == default


def test_bounds_as_large_as_sqlite_can_hold_are_answered(catalog: Catalog) -> None:
    catalog.add([row("a" * 64)])
    most = 2**63 - 1
    assert catalog.choose(Budget(max_params=most, max_macs=most, max_bytes=most)) == row("a" * 64)
    assert catalog.choose(Budget(max_macs=most)) == row("a" * 64)


def test_a_known_digest_is_left_as_it_is(catalog: Catalog) -> None:
    catalog.add([row("a" * 64, params=5)])
    catalog.add([row("a" * 64, params=1), row("b" * 64, params=7)])
    assert catalog.find("a" * 64).params == 5
    assert catalog.choose(Budget(prefer="params")) == row("a" * 64, params=5)


# --- files, processes, threads ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["catalog.sqlite", "with space", "what?mode=ro", "50%41 off#1", "naïve"])
def test_what_was_written_is_there_after_reopening(tmp_path: Path, name: str) -> None:
    rows = [row("a" * 64, params=1), row("b" * 64, params=2, accuracy=0.9)]
    first = Catalog(tmp_path / name)
    first.add(rows)
    first.close()
    again = Catalog(tmp_path / name)
    assert again.page(Budget(prefer="params"), 10).rows == rows
    assert again.choose(Budget(min_acc=0.8)) == rows[1]
    again.close()
    assert (tmp_path / name).exists()


def test_two_versions_of_the_code_leave_each_others_rows_alone(tmp_path: Path) -> None:
    """Version 0.1.0 drops its own tables where `user_version` is not 3, and makes indexes of these names."""
    path = tmp_path / "catalog.sqlite"
    ours = Catalog(path)
    ours.add([row("a" * 64)])
    with closing(sqlite3.connect(path)) as theirs, theirs:
        assert theirs.execute("PRAGMA user_version").fetchone() == (0,)
        for statement in (
            "DROP TABLE IF EXISTS checkpoint",
            "DROP TABLE IF EXISTS front",
            "PRAGMA user_version = 3",
            "CREATE TABLE checkpoint (digest VARCHAR PRIMARY KEY, name VARCHAR) WITHOUT ROWID",
            "CREATE INDEX by_name ON checkpoint (name)",
            "INSERT INTO checkpoint VALUES ('theirs', 'row')",
        ):
            theirs.execute(statement)
    assert ours.digests() == {"a" * 64}
    ours.close()
    again = Catalog(path)
    assert again.digests() == {"a" * 64}
    again.close()
    with closing(sqlite3.connect(path)) as theirs:
        assert theirs.execute("SELECT * FROM checkpoint").fetchall() == [("theirs", "row")]


def test_a_replacement_that_fails_halfway_changes_nothing(catalog: Catalog) -> None:
    catalog.add([row("a" * 64)])

    def failing() -> Iterator[dict[str, Any]]:
        yield row("b" * 64).model_dump()
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        catalog.replace(failing())
    assert catalog.digests() == {"a" * 64}
    assert catalog.choose(Budget(min_acc=0.5)) == row("a" * 64)


def test_catalogs_in_memory_are_separate() -> None:
    catalogs = [Catalog(None) for _ in range(3)]
    catalogs[0].add([row("a" * 64)])
    assert [catalog.digests() for catalog in catalogs] == [{"a" * 64}, set(), set()]
    for catalog in catalogs:
        catalog.close()


WRITER = """
import sys
from pathlib import Path
from zoo.choosing.budget import Budget
from zoo.catalog.index import Catalog
from zoo.catalog.rows import CheckpointRow

path, writer, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
catalog = Catalog(path)
for i in range(count):
    seen = catalog.count(Budget(dataset="*"))
    catalog.add([CheckpointRow(
        digest=f"{writer:032x}{i:032x}", name="n", dataset="shapes", family="secnn", params=1000 - i, macs=i, bytes=i,
        onnx_bytes=i, ram_bytes=i, accuracy=i / count, accuracy_n=10, val_accuracy=0.5, classes="[]",
        created_at="2026-11-21T02:00:00+00:00",
    )])
    assert catalog.count(Budget(dataset="*")) > seen
catalog.close()
"""


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    num_writers, count = 4, 25
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, str(writer), str(count)], stderr=subprocess.PIPE)
        for writer in range(num_writers)
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert writer.returncode == 0, errors.decode()
    catalog = Catalog(path)
    assert catalog.digests() == {f"{w:032x}{i:032x}" for w in range(num_writers) for i in range(count)}
    rows = list(catalog.page(Budget(), 200).rows)
    for min_acc in (0.0, 0.3, 0.9, 0.96, 1.0):
        budget = Budget(min_acc=min_acc)
        assert catalog.choose(budget) == next(iter(eligible(rows, budget)), None)
    catalog.close()


def test_threads_read_an_in_memory_catalog_while_others_write_it(catalog: Catalog) -> None:
    rows = [row(f"{i:064x}", params=1000 - i, accuracy=i / 200) for i in range(120)]
    random.Random(0).shuffle(rows)

    def write(part: list[CheckpointRow]) -> None:
        for one in part:
            catalog.add([one])

    def read(min_acc: float) -> None:
        for _ in range(100):
            found = catalog.choose(Budget(min_acc=min_acc))
            assert found is None or found.accuracy is None or found.accuracy >= min_acc
            assert catalog.count(Budget()) <= len(rows)

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(write, rows[start::3]) for start in range(3)]
        jobs += [pool.submit(read, min_acc) for min_acc in (0.0, 0.2, 0.4, 0.5, 0.9)]
        for job in jobs:
            job.result(timeout=60)
    assert catalog.digests() == {row.digest for row in rows}
    for min_acc in (0.0, 0.2, 0.4, 0.5, 0.9):
        budget = Budget(min_acc=min_acc)
        assert catalog.choose(budget) == next(iter(eligible(rows, budget)), None)


def test_no_finite_sample_makes_sure_of_perfection(catalog: Catalog) -> None:
    catalog.add([row("a" * 64, accuracy=1.0, accuracy_n=359)])
    assert catalog.choose(Budget(min_acc=1.0)) is not None
    assert catalog.choose(Budget(min_acc=1.0, confidence=0.95)) is None


def test_a_damaged_catalog_starts_afresh(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    path.write_bytes(b"no database at all" * 1000)
    catalog = Catalog(path)
    catalog.add([row("a" * 64)])
    assert catalog.count(Budget()) == 1
    catalog.close()
