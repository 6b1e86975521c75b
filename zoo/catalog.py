"""An index over checkpoint files, in SQLite: rows, and the queries that choose by budget.

The files are the truth; this can be thrown away and rebuilt from them at any time.

"The smallest with accuracy of at least x" has no index that serves every x: with rows in order of size the
query reads past all that are too inaccurate, in order of accuracy it sorts all that are accurate enough. But
the answers for all x together form a staircase. `FrontRow` stores it, per data set, cost and gain, and keeps it
current; a query is then one seek in a B-tree, whatever x is. Queries on that path are built once, because
SQLAlchemy takes longer to build one than SQLite to answer it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import islice
from math import inf
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, Connection, bindparam, false, func, literal, text, tuple_, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DatabaseError
from sqlmodel import Field, Index, SQLModel, and_, delete, or_, select
from sqlmodel import desc as descending

from zoo import dataset_labels, pareto
from zoo.budget import ALL_DATASETS, Budget, Complexity, z_score
from zoo.cost import MAX_COUNT
from zoo.database import Database
from zoo.errors import NotFoundError

# Changes whenever the tables do, and is part of their names: two versions of the code that work on one file would
# else throw out each other's rows in turn.
SCHEMA_VERSION = 5
# The least that a digest may be shortened to.
MIN_PREFIX = 8
COMPUTED_ALIASES = ("smallest", "best", "latest")


class CheckpointRow(SQLModel):
    digest: str = Field(primary_key=True)
    name: str
    dataset: str
    # Which images those are: a key of ImageSet.
    images: str = ""
    family: str
    params: int
    macs: int
    bytes: int
    latency_ms: float | None = None
    # Of the test split: what the file claims, or what was measured when it was published here, which then decides.
    accuracy: float | None = None
    accuracy_n: int | None = None
    accuracy_source: str | None = None  # "claimed", "measured"; None where there is no accuracy
    val_accuracy: float
    classes: str  # a JSON list
    # Text like 2026-11-21T02:00:00+00:00, which sorts as time does: SQLite has no type for it.
    created_at: str
    parent: str | None = None
    # Found by whatever names it, but chosen by no budget and no computed alias.
    deprecated: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    # Published to be tried first: found by its digest alone, until it is promoted.
    staged: bool = Field(default=False, sa_column_kwargs={"server_default": false()})

    @property
    def created(self) -> datetime:
        return datetime.fromisoformat(self.created_at)


class CheckpointTable(CheckpointRow, table=True):
    """Apart from its rows: an instance that SQLAlchemy watches takes six times as long to make."""

    __tablename__ = f"checkpoint_{SCHEMA_VERSION}"
    __table_args__ = (
        Index(f"by_size_{SCHEMA_VERSION}", "dataset", "params", text("accuracy DESC"), "digest"),
        Index(f"by_size_everywhere_{SCHEMA_VERSION}", "params", text("accuracy DESC"), "digest"),
        Index(f"by_name_{SCHEMA_VERSION}", "name", text("created_at DESC"), "digest"),
        Index(f"by_age_{SCHEMA_VERSION}", "dataset", text("created_at DESC"), "digest"),
        Index(f"by_age_everywhere_{SCHEMA_VERSION}", text("created_at DESC"), "digest"),
        {"sqlite_with_rowid": False},
    )


class FrontRow(SQLModel, table=True):
    """A step of a staircase: the first row, in order of its cost, to reach this far along the gain.

    `reach` grows with worth: the accuracy, or the negative of a cost. A larger reach comes with a larger `size`,
    the row's value of the cost.
    """

    __tablename__ = f"front_{SCHEMA_VERSION}"
    __table_args__ = (
        Index(f"step_by_size_{SCHEMA_VERSION}", "dataset", "cost", "gain", "size"),
        {"sqlite_with_rowid": False},
    )

    dataset: str = Field(primary_key=True)
    cost: str = Field(primary_key=True)
    gain: str = Field(primary_key=True)
    reach: float = Field(primary_key=True)
    size: float
    accuracy: float
    params: int
    digest: str


class ImageSet(SQLModel, table=True):
    """What is known of some checkpoints' images (zoo.dataset_labels), and what their data set is called here."""

    __tablename__ = f"image_set_{SCHEMA_VERSION}"
    __table_args__ = ({"sqlite_with_rowid": False},)

    images: str = Field(primary_key=True)
    facts: str
    first_seen: str
    label: str


class FolderRow(SQLModel, table=True):
    """A directory in which checkpoint files were found, as `zoo.files` tells them."""

    __tablename__ = f"folder_{SCHEMA_VERSION}"
    __table_args__ = ({"sqlite_with_rowid": False},)

    path: str = Field(primary_key=True)


_ROW: Any = CheckpointTable
_FRONT: Any = FrontRow
_ROWS = CheckpointTable.__table__  # type: ignore[attr-defined]
_FRONTS = FrontRow.__table__  # type: ignore[attr-defined]
_IMAGE_SETS = ImageSet.__table__  # type: ignore[attr-defined]
_FOLDERS = FolderRow.__table__  # type: ignore[attr-defined]

# What budgets and computed aliases choose from.
_OFFERED = and_(~_ROW.deprecated, ~_ROW.staged)
_COSTS: tuple[Complexity, ...] = ("params", "macs", "bytes", "latency_ms")
# By gain, the sign with which a row's value counts.
_SIGNS = {"accuracy": 1, "macs": -1, "bytes": -1, "latency_ms": -1}
# (cost, gain): the fewest parameters for each bound, and the best accuracy for each cost.
_STAIRCASES = (*(("params", gain) for gain in _SIGNS), *((cost, "accuracy") for cost in _COSTS if cost != "params"))
_BY_SIZE = (_ROW.params, descending(_ROW.accuracy), _ROW.digest)
_NEWEST_FIRST = (descending(_ROW.created_at), _ROW.digest)
_NO_ACCURACY = -1.0


def images_key(facts: str) -> str:
    """Short: each row has one."""
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Page:
    rows: Sequence[CheckpointRow]
    next_cursor: str | None


class Catalog:
    """All methods may be called from any thread."""

    def __init__(self, path: Path | None, default_dataset: str | None = None) -> None:
        """`path` None keeps the catalog in memory."""
        self._engine = Database(path, SQLModel.metadata, [_ROWS, _FRONTS, _IMAGE_SETS, _FOLDERS])
        self._default_dataset = default_dataset

    def close(self) -> None:
        self._engine.close()

    def follow_file(self) -> bool:
        """Reopens a catalog that another process has removed or set aside; its rows are then to be found anew."""
        return self._engine.follow_file()

    def leave_file(self, error: DatabaseError) -> bool:
        """Goes on in memory after an error of the file. False where it is in memory already."""
        return self._engine.leave_file(error)

    # --- writing ---------------------------------------------------------------------------------------

    def add(self, rows: Iterable[CheckpointRow]) -> None:
        """Rows whose digest is known already are left as they are."""
        with self._writing() as connection:
            for row in rows:
                if connection.execute(_ADD_ROW, row.model_dump()).rowcount:
                    for dataset in (row.dataset, ALL_DATASETS):
                        for cost, gain in _STAIRCASES:
                            _extend_front(connection, dataset, cost, gain, row)

    def label_images(self, first_seen: Mapping[str, str]) -> dict[str, str]:
        """What the data sets of these image sets (as `dataset_labels.image_set` gives them) are called here.

        Rows of which the data set is called otherwise from now on say so.
        """
        with self._engine.connect() as connection:
            known = {row.facts: row for row in connection.execute(select(_IMAGE_SETS))}
        if all(facts in known and known[facts].first_seen <= seen for facts, seen in first_seen.items()):
            return {facts: known[facts].label for facts in first_seen}
        with self._writing() as connection:
            known = {row.facts: row for row in connection.execute(select(_IMAGE_SETS))}
            seen = {facts: row.first_seen for facts, row in known.items()}
            seen |= {facts: min(when, seen.get(facts, when)) for facts, when in first_seen.items()}
            labels = dataset_labels.labels(seen)
            is_relabelled = False
            for facts, label in labels.items():
                row = ImageSet(images=images_key(facts), facts=facts, first_seen=seen[facts], label=label)
                change = {"first_seen": row.first_seen, "label": label}
                statement = insert(_IMAGE_SETS).values(row.model_dump())
                connection.execute(statement.on_conflict_do_update(index_elements=["images"], set_=change))
                if facts in known and known[facts].label != label:
                    connection.execute(update(_ROWS).where(_ROW.images == row.images).values(dataset=label))
                    is_relabelled = True
            if is_relabelled:
                _rebuild_fronts(connection)
        return {facts: labels[facts] for facts in first_seen}

    def remove(self, digests: Iterable[str]) -> None:
        gone = [{"gone": digest} for digest in digests]
        if not gone:
            return
        with self._writing() as connection:
            connection.execute(delete(CheckpointTable).where(_ROW.digest == bindparam("gone")), gone)
            _rebuild_fronts(connection)

    def annotate(
        self, deprecated: Collection[str], staged: Collection[str], measured: Mapping[str, tuple[float, int]]
    ) -> bool:
        """Makes the rows say what the annotations say, as far as they are there; True if that changed any.

        `measured`: test accuracy and number of images by digest. A measurement, once known, stays: files do not change.
        """
        with self._engine.connect() as connection:
            known = set(connection.scalars(select(_ROW.digest).where(or_(_ROW.deprecated, _ROW.staged))))
            named = {*known, *deprecated, *staged, *measured}
            rows = [row for digest in named if (row := _first(connection, _OF_DIGEST, digest=digest)) is not None]
        changes = []
        for row in rows:
            wanted: dict[str, Any] = {"deprecated": row.digest in deprecated, "staged": row.digest in staged}
            if row.digest in measured:
                accuracy, count = measured[row.digest]
                wanted |= {"accuracy": accuracy, "accuracy_n": count, "accuracy_source": "measured"}
            if any(getattr(row, name) != value for name, value in wanted.items()):
                changes.append((row.digest, wanted))
        if not changes:
            return False
        with self._writing() as connection:
            for digest, wanted in changes:
                connection.execute(update(_ROWS).where(_ROW.digest == digest).values(**wanted))
            _rebuild_fronts(connection)
        return True

    def replace(self, rows: Iterable[dict[str, Any]]) -> None:
        """Throws all rows away and takes these, in one transaction."""
        with self._writing() as connection:
            connection.execute(delete(CheckpointTable))
            batch: list[dict[str, Any]] = []
            for row in rows:
                batch.append(row)
                if len(batch) == 10_000:
                    connection.execute(insert(_ROWS), batch)
                    batch.clear()
            if batch:
                connection.execute(insert(_ROWS), batch)
            _rebuild_fronts(connection)

    def follow_latencies(self, medians: Mapping[str, float]) -> bool:
        """Makes each row's latency the one given, in milliseconds, or NULL; True if that changed anything."""
        with self._engine.connect() as connection:
            query = select(_ROW.digest, _ROW.latency_ms).where(_ROW.latency_ms.is_not(None))
            before = {row.digest: row.latency_ms for row in connection.execute(query)}
            wanted = {digest: medians[digest] for digest in _known(connection, medians)}
        changed = [
            {"changed": digest, "to": wanted.get(digest)}
            for digest in before.keys() | wanted.keys()
            if before.get(digest) != wanted.get(digest)
        ]
        if not changed:
            return False
        with self._writing() as connection:
            connection.execute(_SET_LATENCY, changed)
            _rebuild_fronts(connection)
        return True

    def follow_folders(self, folders: set[str]) -> None:
        """Makes these the directories in which the checkpoints' files are."""
        if folders == self.folders():
            return
        with self._writing() as connection:
            connection.execute(delete(FolderRow))
            if folders:
                connection.execute(insert(_FOLDERS), [{"path": folder} for folder in folders])

    def _writing(self) -> AbstractContextManager[Connection]:
        return self._engine.writing()

    # --- reading ---------------------------------------------------------------------------------------

    def digests(self) -> set[str]:
        with self._engine.connect() as connection:
            return set(connection.scalars(select(_ROW.digest)))

    def folders(self) -> set[str]:
        """Those of the last `follow_folders`."""
        with self._engine.connect() as connection:
            return set(connection.scalars(select(_FOLDERS.c.path)))

    def rows(self, digests: Iterable[str]) -> dict[str, CheckpointRow]:
        """Those of them that are known, by digest."""
        with self._engine.connect() as connection:
            found = {digest: _first(connection, _OF_DIGEST, digest=digest) for digest in digests}
        return {digest: row for digest, row in found.items() if row is not None}

    def dataset_of(self, budget: Budget) -> str | None:
        """The data set that the budget is about: its own, else the default. None in an empty catalog."""
        with self._engine.connect() as connection:
            return self._dataset_of(connection, budget)

    def _dataset_of(self, connection: Connection, budget: Budget) -> str | None:
        return budget.dataset or self._default_dataset or connection.scalar(_DEFAULT_DATASET)

    def smallest(self, budget: Budget) -> CheckpointRow | None:
        """The eligible row with the fewest parameters; of those the most accurate; of those the first digest."""
        with self._engine.connect() as connection:
            dataset = self._dataset_of(connection, budget)
            return None if dataset is None else _smallest(connection, budget, dataset)

    def best_available(self, budget: Budget) -> CheckpointRow | None:
        """The nearest to a budget that nothing meets: the most accurate within the costs, else the smallest."""
        with self._engine.connect() as connection:
            dataset = self._dataset_of(connection, budget)
            if dataset is None:
                return None
            affordable = budget.model_copy(update={"min_acc": None, "confidence": None})
            return (
                _most_accurate(connection, affordable, dataset)
                or _smallest(connection, affordable, dataset)
                or _smallest(connection, Budget(), dataset)
            )

    def page(self, budget: Budget, limit: int, cursor: str | None = None) -> Page:
        """Eligible rows in order of size. Raises ValueError for a cursor that no page gave out."""
        after = [] if cursor is None else [_after(cursor)]
        with self._engine.connect() as connection:
            dataset = self._dataset_of(connection, budget)
            if dataset is None:
                return Page([], None)
            query = select(_ROWS).where(*_filters(budget, dataset), *after).order_by(*_BY_SIZE).limit(limit + 1)
            rows = _rows(connection, query)
        more = len(rows) > limit
        return Page(rows[:limit], _cursor(rows[limit - 1]) if more else None)

    def count(self, budget: Budget) -> int:
        with self._engine.connect() as connection:
            dataset = self._dataset_of(connection, budget)
            if dataset is None:
                return 0
            query = select(func.count()).select_from(_ROWS).where(*_filters(budget, dataset))
            return connection.execute(query).scalar_one()

    def datasets(self) -> list[str]:
        """Those of which there is something to choose."""
        query = select(_FRONT.dataset).where(_FRONT.dataset != ALL_DATASETS).distinct().order_by(_FRONT.dataset)
        with self._engine.connect() as connection:
            return list(connection.scalars(query))

    def families(self, budget: Budget) -> list[str]:
        """Those of the budget's data set."""
        with self._engine.connect() as connection:
            conditions = _filters(Budget(), self._dataset_of(connection, budget) or "")
            query = select(_ROW.family).where(*conditions).distinct().order_by(_ROW.family)
            return list(connection.scalars(query))

    def is_measured(self, budget: Budget) -> bool:
        """Whether any latency is known in the budget's data set."""
        with self._engine.connect() as connection:
            values = {"dataset": self._dataset_of(connection, budget), "cost": "params", "gain": "latency_ms"}
            return connection.execute(select(_FRONT.digest).where(_STAIRCASE).limit(1), values).first() is not None

    def pareto(self, budget: Budget, x: Complexity) -> list[CheckpointRow]:
        """The eligible rows that none beats in both `x` and accuracy, ascending in both."""
        with self._engine.connect() as connection:
            dataset = self._dataset_of(connection, budget)
            if dataset is None:
                return []
            if not budget.bounds() - {"min_acc", f"max_{x}"}:
                # Bounds on the two axes themselves cut the ends off the front and change nothing in between.
                steps = and_(_FRONT.dataset == dataset, _FRONT.cost == x, _FRONT.gain == "accuracy")
                query = select(_ROWS).join(_FRONTS, _ROW.digest == _FRONT.digest).where(steps)
                return _rows(connection, query.where(*_filters(budget, dataset)).order_by(_FRONT.reach))
            cost = getattr(_ROW, x)
            known = (_ROW.accuracy.is_not(None), cost.is_not(None))
            rows = _rows(connection, select(_ROWS).where(*_filters(budget, dataset), *known).order_by(*_BY_SIZE))
        return pareto.front(rows, cost=lambda row: getattr(row, x), value=lambda row: row.accuracy or 0.0)

    def find(self, reference: str, dataset: str | None = None) -> CheckpointRow:
        """By digest, digest prefix, name (the newest of that name) or computed alias. Raises NotFoundError.

        `dataset` is what computed aliases are about, the default one if None.
        """
        with self._engine.connect() as connection:
            if reference in COMPUTED_ALIASES:
                row = self._alias(connection, reference, dataset)
            elif set(reference) <= set("0123456789abcdef") and MIN_PREFIX <= len(reference) <= 64:
                row = _by_prefix(connection, reference)
            else:
                row = None
            if row is None:
                row = _first(connection, _NEWEST_OF_NAME, name=reference)
        if row is None:
            raise NotFoundError(
                f"no checkpoint {reference!r}: expected a digest, {MIN_PREFIX} or more of its first digits, a name, "
                f"or one of {', '.join(COMPUTED_ALIASES)}"
            )
        return row

    def aliases(self) -> dict[str, str]:
        """What the computed aliases stand for at present, by alias: digests in the default data set."""
        with self._engine.connect() as connection:
            rows = {alias: self._alias(connection, alias) for alias in COMPUTED_ALIASES}
        return {alias: row.digest for alias, row in rows.items() if row is not None}

    def _alias(self, connection: Connection, alias: str, dataset: str | None = None) -> CheckpointRow | None:
        dataset = self._dataset_of(connection, Budget(dataset=dataset))
        if dataset is None:
            return None
        if alias == "best":
            return _most_accurate(connection, Budget(), dataset)
        if alias == "latest":
            return _first(connection, _newest(everywhere=dataset == ALL_DATASETS), dataset=dataset)
        return _smallest(connection, Budget(), dataset)


# --- the staircase ---------------------------------------------------------------------------------------


_STAIRCASE = and_(
    _FRONT.dataset == bindparam("dataset"), _FRONT.cost == bindparam("cost"), _FRONT.gain == bindparam("gain")
)
_PLACE = (_FRONT.size, -_FRONT.accuracy, _FRONT.params, _FRONT.digest)


def _row_of(steps: Any) -> Any:
    return select(_ROWS).where(_ROW.digest == steps.limit(1).scalar_subquery())


_FIRST_TO_REACH = _row_of(
    select(_FRONT.digest).where(_STAIRCASE, _FRONT.reach >= bindparam("reach")).order_by(_FRONT.reach)
)
_FARTHEST_WITHIN = _row_of(
    select(_FRONT.digest).where(_STAIRCASE, _FRONT.size <= bindparam("size")).order_by(descending(_FRONT.size))
)
_STEP_ABOVE = select(*_PLACE).where(_STAIRCASE, _FRONT.reach >= bindparam("reach")).order_by(_FRONT.reach).limit(1)
_REMOVE_OUTDONE = delete(FrontRow).where(
    _STAIRCASE,
    _FRONT.reach <= bindparam("reach"),
    tuple_(*_PLACE) > tuple_(*(bindparam(name) for name in ("size", "minus_accuracy", "params", "digest"))),
)
_SET_LATENCY = update(_ROWS).where(_ROW.digest == bindparam("changed")).values(latency_ms=bindparam("to"))
_ADD_STEP = insert(_FRONTS)
_ADD_ROW = insert(_ROWS).on_conflict_do_nothing(index_elements=["digest"])


def _smallest(connection: Connection, budget: Budget, dataset: str) -> CheckpointRow | None:
    bounds = _reaches(budget)
    if len(bounds) > 1 or budget.bounds() & {"family", "confidence"}:
        return _first(connection, select(_ROWS).where(*_filters(budget, dataset)).order_by(*_BY_SIZE).limit(1))
    # Without a bound, the first step of a staircase that every row is eligible for.
    gain, reach = next(iter(bounds.items()), ("macs", -inf))
    row = _first(connection, _FIRST_TO_REACH, dataset=dataset, cost="params", gain=gain, reach=reach)
    # What meets the bound with the fewest parameters decides max_params for all that meet it.
    if row is not None and budget.max_params is not None and row.params > budget.max_params:
        return None
    return row


def _reaches(budget: Budget) -> dict[str, float]:
    """How far along each gain the budget wants a row to reach."""
    bounds = {"accuracy": budget.min_acc} | {cost: getattr(budget, f"max_{cost}") for cost in _COSTS[1:]}
    return {gain: _SIGNS[gain] * bound for gain, bound in bounds.items() if bound is not None}


def _most_accurate(connection: Connection, budget: Budget, dataset: str) -> CheckpointRow | None:
    """Among rows of known accuracy; of equals the cheapest. `budget` bounds costs only."""
    bounds = {cost: bound for cost in _COSTS if (bound := getattr(budget, f"max_{cost}")) is not None}
    if len(bounds) > 1 or budget.family is not None:
        order = (descending(_ROW.accuracy), *_BY_SIZE)
        query = select(_ROWS).where(*_filters(budget, dataset), _ROW.accuracy.is_not(None))
        return _first(connection, query.order_by(*order).limit(1))
    cost, bound = next(iter(bounds.items()), ("params", inf))
    return _first(connection, _FARTHEST_WITHIN, dataset=dataset, cost=cost, gain="accuracy", size=bound)


def _extend_front(connection: Connection, dataset: str, cost: str, gain: str, row: CheckpointRow) -> None:
    """Adds a step for a new row, if no row before it reaches as far, and takes out the steps it outdoes."""
    size, value = getattr(row, cost), getattr(row, gain)
    if size is None or value is None or row.deprecated or row.staged:
        return
    accuracy = _NO_ACCURACY if row.accuracy is None else row.accuracy
    staircase = {"dataset": dataset, "cost": cost, "gain": gain, "reach": _SIGNS[gain] * value}
    above = connection.execute(_STEP_ABOVE, staircase).first()
    if above is not None and tuple(above) < (size, -accuracy, row.params, row.digest):
        return
    place = {"size": size, "params": row.params, "digest": row.digest}
    connection.execute(_REMOVE_OUTDONE, {**staircase, **place, "minus_accuracy": -accuracy})
    connection.execute(_ADD_STEP, {**staircase, **place, "accuracy": accuracy})


def _rebuild_fronts(connection: Connection) -> None:
    """In order of cost, a row is a step where it reaches further than all before it."""
    connection.execute(delete(FrontRow))
    names = ["dataset", "cost", "gain", "reach", "size", "accuracy", "params", "digest"]
    accuracy = func.coalesce(_ROW.accuracy, _NO_ACCURACY)
    for cost, gain in _STAIRCASES:
        size, reach = getattr(_ROW, cost), _SIGNS[gain] * getattr(_ROW, gain)
        # Written as the index by_size has it, which saves SQLite the sorting.
        order = _BY_SIZE if cost == "params" else (size, descending(_ROW.accuracy), _ROW.params, _ROW.digest)
        for dataset, partition in ((_ROW.dataset, _ROW.dataset), (literal(ALL_DATASETS), None)):
            values = (dataset, literal(cost), literal(gain), reach, size, accuracy, _ROW.params, _ROW.digest)
            columns = [value.label(name) for name, value in zip(names, values, strict=True)]
            before = func.max(reach).over(partition_by=partition, order_by=order, rows=(None, -1))
            columns.append(before.label("before"))
            known = select(*columns).where(_OFFERED, size.is_not(None), reach.is_not(None)).subquery()
            steps = select(*(known.c[name] for name in names))
            steps = steps.where(or_(known.c.before.is_(None), known.c.reach > known.c.before))
            connection.execute(insert(_FRONTS).from_select(names, steps))


# --- conditions and rows ---------------------------------------------------------------------------------


def _in(dataset: str) -> list[ColumnElement[bool]]:
    return [] if dataset == ALL_DATASETS else [_ROW.dataset == dataset]


def _filters(budget: Budget, dataset: str) -> list[ColumnElement[bool]]:
    """NULL compares as unknown, which is not true: an unknown value meets no bound."""
    conditions = [_OFFERED, *_in(dataset)]
    if budget.min_acc is not None:
        conditions.append(_ROW.accuracy >= budget.min_acc)
    if budget.confidence is not None and budget.min_acc is not None:
        # Wilson's interval inverts the score test, so its lower end reaches m where p − m ≥ z √(m(1 − m)/n).
        # Squared, to do without a root in SQL.
        margin = _ROW.accuracy - budget.min_acc
        variance = z_score(budget.confidence) ** 2 * budget.min_acc * (1 - budget.min_acc)
        conditions.append(margin * margin * _ROW.accuracy_n >= variance)
        if budget.min_acc == 1:  # where m is the other root: no finite sample makes sure of perfection
            conditions.append(false())
    for cost in _COSTS:
        bound = getattr(budget, f"max_{cost}")
        if bound is not None:
            conditions.append(getattr(_ROW, cost) <= bound)
    if budget.family is not None:
        conditions.append(_ROW.family == budget.family)
    return conditions


_CIFAR10 = select(_ROW.dataset).where(_OFFERED, _ROW.dataset == "cifar10").limit(1).scalar_subquery()
_NEWEST_DATASET = select(_ROW.dataset).where(_OFFERED).order_by(*_NEWEST_FIRST).limit(1).scalar_subquery()
_DEFAULT_DATASET = select(func.coalesce(_CIFAR10, _NEWEST_DATASET))
_OF_DIGEST = select(_ROWS).where(_ROW.digest == bindparam("digest"))
_NEWEST_OF_NAME = select(_ROWS).where(_ROW.name == bindparam("name"), ~_ROW.staged).order_by(*_NEWEST_FIRST).limit(1)


@cache
def _newest(*, everywhere: bool) -> Any:
    conditions = [] if everywhere else [_ROW.dataset == bindparam("dataset")]
    return select(_ROWS).where(_OFFERED, *conditions).order_by(*_NEWEST_FIRST).limit(1)


def _first(connection: Connection, query: Any, **values: object) -> CheckpointRow | None:
    row = connection.execute(query, values).mappings().first()
    return None if row is None else CheckpointRow(**row)


def _rows(connection: Connection, query: Any) -> list[CheckpointRow]:
    return [CheckpointRow(**row) for row in connection.execute(query).mappings()]


def _by_prefix(connection: Connection, prefix: str) -> CheckpointRow | None:
    query = select(_ROWS).where(_ROW.digest >= prefix, _ROW.digest <= prefix + "g").limit(2)
    rows = _rows(connection, query)
    if len(rows) > 1:
        raise NotFoundError(f"several checkpoints begin with {prefix}: give more of the digest's digits")
    return rows[0] if rows else None


def _known(connection: Connection, digests: Iterable[str]) -> set[str]:
    """Those of them that are in the catalog; asked for in parts, as a statement takes 32,766 values at most."""
    found: set[str] = set()
    waiting = iter(digests)
    while part := list(islice(waiting, 10_000)):
        found.update(connection.scalars(select(_ROW.digest).where(_ROW.digest.in_(part))))
    return found


def _cursor(row: CheckpointRow) -> str:
    place = json.dumps([row.params, row.accuracy, row.digest])
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def _after(cursor: str) -> ColumnElement[bool]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        params, accuracy, digest = _CURSOR.validate_json(text)
    except ValueError as error:
        raise ValueError(f"cursor {cursor!r} is not one that a page of this list gave out") from error
    place = (params, _NO_ACCURACY if accuracy is None else accuracy, digest)
    known = func.coalesce(_ROW.accuracy, _NO_ACCURACY)
    return and_(
        _ROW.params >= place[0],
        or_(
            _ROW.params > place[0],
            known < place[1],
            and_(known == place[1], _ROW.digest > place[2]),
        ),
    )


_CURSOR: TypeAdapter[tuple[int, float | None, str]] = TypeAdapter(
    tuple[
        Annotated[int, pydantic.Field(strict=True, ge=0, le=MAX_COUNT)],
        Annotated[float, pydantic.Field(allow_inf_nan=False)] | None,
        Annotated[str, pydantic.Field(max_length=64)],
    ]
)
