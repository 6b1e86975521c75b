"""An index over checkpoint files, in SQLite: rows, and the queries that choose by budget.

The files are the truth; this can be thrown away and rebuilt from them.

"The smallest with accuracy of at least x" has no index that serves every x: with rows in order of size the
query reads past all that are too inaccurate, in order of accuracy it sorts all that are accurate enough. But
the answers for all x together form a staircase. `FrontRow` stores it, per data set and bound, and keeps it
current; a query is then one seek in a B-tree, whatever x is.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, event, func, insert, text
from sqlalchemy.pool import QueuePool
from sqlmodel import Field, Index, SQLModel, and_, create_engine, delete, or_, select
from sqlmodel import desc as descending

from zoo import pareto
from zoo.budget import ALL_DATASETS, Budget, Complexity, z_score
from zoo.errors import NotFoundError

# Changes whenever the tables do; a catalog of another version is rebuilt from the files.
SCHEMA_VERSION = 1
# The least that a digest may be shortened to.
MIN_PREFIX = 8
COMPUTED_ALIASES = ("smallest", "best", "latest")


class CheckpointRow(SQLModel, table=True):
    __tablename__ = "checkpoint"
    __table_args__ = (
        Index("by_size", "dataset", "params", text("accuracy DESC"), "digest"),
        Index("by_size_everywhere", "params", text("accuracy DESC"), "digest"),
        Index("by_name", "name", "created_at"),
        Index("by_age", "dataset", "created_at"),
        Index("by_age_everywhere", "created_at"),
        {"sqlite_with_rowid": False},
    )

    digest: str = Field(primary_key=True)
    name: str
    dataset: str
    family: str
    params: int
    macs: int
    bytes: int
    latency_ms: float | None = None
    accuracy: float | None = None
    accuracy_n: int | None = None
    val_accuracy: float
    classes: str  # a JSON list
    # Text like 2026-11-21T02:00:00+00:00, which sorts as time does: SQLite has no type for it.
    created_at: str
    parent: str | None = None

    @property
    def created(self) -> datetime:
        return datetime.fromisoformat(self.created_at)


class FrontRow(SQLModel, table=True):
    """A step of a staircase: the first row, in order of size, to reach this far on one axis.

    `reach` grows with worth: the accuracy, or the negative of a cost. Larger reach comes with larger size.
    """

    __tablename__ = "front"
    __table_args__ = ({"sqlite_with_rowid": False},)

    dataset: str = Field(primary_key=True)
    axis: str = Field(primary_key=True)
    reach: float = Field(primary_key=True)
    params: int
    accuracy: float
    digest: str


_ROW: Any = CheckpointRow
_FRONT: Any = FrontRow
_ROWS = CheckpointRow.__table__  # type: ignore[attr-defined]
_FRONTS = FrontRow.__table__  # type: ignore[attr-defined]

# Column and sign by which a row reaches along each axis.
_AXES = {"accuracy": 1, "macs": -1, "bytes": -1, "latency_ms": -1}
_BY_SIZE = (_ROW.params, descending(_ROW.accuracy), _ROW.digest)
_NO_ACCURACY = -1.0


@dataclass(frozen=True, slots=True)
class Page:
    rows: Sequence[CheckpointRow]
    next_cursor: str | None


class Catalog:
    """All methods may be called from any thread."""

    def __init__(self, path: Path | None, default_dataset: str | None = None) -> None:
        """`path` None keeps the catalog in memory."""
        self._engine = _engine(path)
        self._default_dataset = default_dataset
        with self._writing() as connection:
            found = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if found != SCHEMA_VERSION:
                SQLModel.metadata.drop_all(connection, tables=[_ROWS, _FRONTS])
                connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")
            SQLModel.metadata.create_all(connection, tables=[_ROWS, _FRONTS])

    def close(self) -> None:
        self._engine.dispose()

    # --- writing ---------------------------------------------------------------------------------------

    def add(self, rows: Iterable[CheckpointRow]) -> None:
        """Rows whose digest is known already are left as they are."""
        with self._writing() as connection:
            for row in rows:
                values = row.model_dump()
                result = connection.execute(insert(_ROWS).prefix_with("OR IGNORE"), values)
                if result.rowcount:
                    for dataset in (row.dataset, ALL_DATASETS):
                        for axis in _AXES:
                            _extend_front(connection, dataset, axis, row)

    def remove(self, digests: Iterable[str]) -> None:
        with self._writing() as connection:
            connection.execute(delete(CheckpointRow).where(_ROW.digest.in_(list(digests))))
            _rebuild_fronts(connection)

    def replace(self, rows: Iterable[dict[str, Any]]) -> None:
        """Throws all rows away and takes these, in one transaction."""
        with self._writing() as connection:
            connection.execute(delete(CheckpointRow))
            batch: list[dict[str, Any]] = []
            for row in rows:
                batch.append(row)
                if len(batch) == 10_000:
                    connection.execute(insert(_ROWS), batch)
                    batch.clear()
            if batch:
                connection.execute(insert(_ROWS), batch)
            _rebuild_fronts(connection)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._engine.connect().execution_options(immediate=True) as connection, connection.begin():
            yield connection

    # --- reading ---------------------------------------------------------------------------------------

    def digests(self) -> set[str]:
        with self._engine.connect() as connection:
            return set(connection.scalars(select(_ROW.digest)))

    def dataset_of(self, budget: Budget) -> str | None:
        """The data set that the budget is about: its own, else the default. None in an empty catalog."""
        if budget.dataset is not None:
            return budget.dataset
        if self._default_dataset is not None:
            return self._default_dataset
        with self._engine.connect() as connection:
            usual = select(_ROW.dataset).where(_ROW.dataset == "cifar10").limit(1)
            newest = select(_ROW.dataset).order_by(descending(_ROW.created_at), _ROW.digest).limit(1)
            return connection.scalar(usual) or connection.scalar(newest)

    def smallest(self, budget: Budget) -> CheckpointRow | None:
        """The eligible row with the fewest parameters; of those the most accurate; of those the first digest."""
        dataset = self.dataset_of(budget)
        if dataset is None:
            return None
        query = _from_front(budget, dataset)
        if query is None:
            query = select(_ROWS).where(*_filters(budget, dataset)).order_by(*_BY_SIZE).limit(1)
        with self._engine.connect() as connection:
            row = _first(connection, query)
        # What meets the other bounds with the fewest parameters decides this one for all that meet them.
        if row is not None and budget.max_params is not None and row.params > budget.max_params:
            return None
        return row

    def best_available(self, budget: Budget) -> CheckpointRow | None:
        """The nearest to a budget that nothing meets: the most accurate within the costs, else the smallest."""
        dataset = self.dataset_of(budget)
        if dataset is None:
            return None
        affordable = budget.model_copy(update={"min_acc": None, "confidence": None})
        order = (descending(_ROW.accuracy), _ROW.params, _ROW.digest)
        with self._engine.connect() as connection:
            query = select(_ROWS).where(*_filters(affordable, dataset)).order_by(*order).limit(1)
            return _first(connection, query) or _first(
                connection, select(_ROWS).where(*_in(dataset)).order_by(*_BY_SIZE).limit(1)
            )

    def page(self, budget: Budget, limit: int, cursor: str | None = None) -> Page:
        """Eligible rows in order of size. Raises ValueError for a cursor that no page gave out."""
        dataset = self.dataset_of(budget)
        if dataset is None:
            return Page([], None)
        query = select(_ROWS).where(*_filters(budget, dataset)).order_by(*_BY_SIZE).limit(limit + 1)
        if cursor is not None:
            query = query.where(_after(cursor))
        with self._engine.connect() as connection:
            rows = _rows(connection, query)
        more = len(rows) > limit
        return Page(rows[:limit], _cursor(rows[limit - 1]) if more else None)

    def count(self, budget: Budget) -> int:
        dataset = self.dataset_of(budget)
        if dataset is None:
            return 0
        with self._engine.connect() as connection:
            query = select(func.count()).select_from(_ROWS).where(*_filters(budget, dataset))
            return connection.execute(query).scalar_one()

    def pareto(self, budget: Budget, x: Complexity) -> list[CheckpointRow]:
        """The eligible rows that none beats in both `x` and accuracy, ascending in both."""
        dataset = self.dataset_of(budget)
        if dataset is None:
            return []
        cost = getattr(_ROW, x)
        known = (_ROW.accuracy.is_not(None), cost.is_not(None))
        query = select(_ROWS).where(*_filters(budget, dataset), *known).order_by(*_BY_SIZE)
        with self._engine.connect() as connection:
            rows = _rows(connection, query)
        return pareto.front(rows, cost=lambda row: getattr(row, x), value=lambda row: row.accuracy or 0.0)

    def find(self, reference: str) -> CheckpointRow:
        """By digest, digest prefix, name (the newest of that name) or computed alias. Raises NotFoundError."""
        with self._engine.connect() as connection:
            if reference in COMPUTED_ALIASES:
                row = self._alias(connection, reference)
            elif set(reference) <= set("0123456789abcdef") and MIN_PREFIX <= len(reference) <= 64:
                row = _by_prefix(connection, reference)
            else:
                row = None
            if row is None:
                newest = (descending(_ROW.created_at), _ROW.digest)
                row = _first(connection, select(_ROWS).where(_ROW.name == reference).order_by(*newest).limit(1))
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

    def _alias(self, connection: Connection, alias: str) -> CheckpointRow | None:
        dataset = self.dataset_of(Budget())
        if dataset is None:
            return None
        query = select(_ROWS).where(*_in(dataset)).limit(1)
        if alias == "best":
            reached = select(_FRONT.digest).where(_FRONT.dataset == dataset, _FRONT.axis == "accuracy")
            best = reached.order_by(descending(_FRONT.reach)).limit(1).scalar_subquery()
            return _first(connection, query.where(_ROW.digest == best))
        if alias == "latest":
            return _first(connection, query.order_by(descending(_ROW.created_at), _ROW.digest))
        return _first(connection, query.order_by(*_BY_SIZE))


# --- the staircase ---------------------------------------------------------------------------------------


def _from_front(budget: Budget, dataset: str) -> Any | None:
    """A query that one seek answers, or None where the budget bounds more than one axis."""
    bounds = {
        axis: bound
        for axis, bound in (
            ("accuracy", budget.min_acc),
            ("macs", budget.max_macs),
            ("bytes", budget.max_bytes),
            ("latency_ms", budget.max_latency_ms),
        )
        if bound is not None
    }
    if len(bounds) != 1 or budget.family is not None or budget.confidence is not None:
        return None
    [(axis, bound)] = bounds.items()
    step = (
        select(_FRONT.digest)
        .where(_FRONT.dataset == dataset, _FRONT.axis == axis, _FRONT.reach >= _AXES[axis] * bound)
        .order_by(_FRONT.reach)
        .limit(1)
        .scalar_subquery()
    )
    return select(_ROWS).where(_ROW.digest == step)


def _extend_front(connection: Connection, dataset: str, axis: str, row: CheckpointRow) -> None:
    """Adds a step for a new row, if no smaller row reaches as far, and takes out the steps it outdoes."""
    value = getattr(row, axis)
    if value is None:
        return
    reach = float(_AXES[axis] * value)
    accuracy = _NO_ACCURACY if row.accuracy is None else row.accuracy
    staircase = (_FRONT.dataset == dataset, _FRONT.axis == axis)
    above = select(_FRONTS).where(*staircase, _FRONT.reach >= reach).order_by(_FRONT.reach).limit(1)
    step = connection.execute(above).first()
    if step is not None and (step.params, -step.accuracy, step.digest) < (row.params, -accuracy, row.digest):
        return
    larger = or_(
        _FRONT.params > row.params,
        and_(
            _FRONT.params == row.params,
            or_(
                _FRONT.accuracy < accuracy,
                and_(_FRONT.accuracy == accuracy, _FRONT.digest > row.digest),
            ),
        ),
    )
    connection.execute(delete(FrontRow).where(*staircase, _FRONT.reach <= reach, larger))
    connection.execute(
        insert(_FRONTS),
        {
            "dataset": dataset,
            "axis": axis,
            "reach": reach,
            "params": row.params,
            "accuracy": accuracy,
            "digest": row.digest,
        },
    )


def _rebuild_fronts(connection: Connection) -> None:
    """In order of size, a row is a step where it reaches further than all before it."""
    connection.execute(delete(FrontRow))
    for axis, sign in _AXES.items():
        for dataset, partition in (("dataset", "PARTITION BY dataset"), (f"'{ALL_DATASETS}'", "")):
            connection.exec_driver_sql(
                f"""
                INSERT INTO front (dataset, axis, reach, params, accuracy, digest)
                SELECT name, '{axis}', reach, params, accuracy, digest FROM (
                    SELECT {dataset} AS name, {sign} * {axis} AS reach, params, digest,
                        coalesce(accuracy, {_NO_ACCURACY}) AS accuracy,
                        max({sign} * {axis}) OVER (
                            {partition} ORDER BY params, accuracy DESC, digest
                            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                        ) AS before
                    FROM checkpoint
                )
                WHERE reach IS NOT NULL AND (before IS NULL OR reach > before)
                """  # noqa: S608 - constants of this module
            )


# --- conditions and rows ---------------------------------------------------------------------------------


def _in(dataset: str) -> list[ColumnElement[bool]]:
    return [] if dataset == ALL_DATASETS else [_ROW.dataset == dataset]


def _filters(budget: Budget, dataset: str) -> list[ColumnElement[bool]]:
    """NULL compares as unknown, which is not true: an unknown value meets no bound."""
    conditions = _in(dataset)
    if budget.min_acc is not None:
        conditions.append(_ROW.accuracy >= budget.min_acc)
    if budget.confidence is not None and budget.min_acc is not None:
        # Wilson's interval inverts the score test, so its lower end reaches m where p − m ≥ z √(m(1 − m)/n).
        # Squared, to do without a root in SQL.
        margin = _ROW.accuracy - budget.min_acc
        variance = z_score(budget.confidence) ** 2 * budget.min_acc * (1 - budget.min_acc)
        conditions.append(margin * margin * _ROW.accuracy_n >= variance)
    for name in ("params", "macs", "bytes", "latency_ms"):
        bound = getattr(budget, f"max_{name}")
        if bound is not None:
            conditions.append(getattr(_ROW, name) <= bound)
    if budget.family is not None:
        conditions.append(_ROW.family == budget.family)
    return conditions


def _first(connection: Connection, query: Any) -> CheckpointRow | None:
    return next(iter(_rows(connection, query)), None)


def _rows(connection: Connection, query: Any) -> list[CheckpointRow]:
    return [CheckpointRow(**row) for row in connection.execute(query).mappings()]


def _by_prefix(connection: Connection, prefix: str) -> CheckpointRow | None:
    query = select(_ROWS).where(_ROW.digest >= prefix, _ROW.digest <= prefix + "g").limit(2)
    rows = _rows(connection, query)
    if len(rows) > 1:
        raise NotFoundError(f"several checkpoints begin with {prefix}: give more of the digest's digits")
    return rows[0] if rows else None


def _cursor(row: CheckpointRow) -> str:
    place = json.dumps([row.params, row.accuracy, row.digest])
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def _after(cursor: str) -> ColumnElement[bool]:
    try:
        params, accuracy, digest = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        place = (int(params), _NO_ACCURACY if accuracy is None else float(accuracy), str(digest))
    except (ValueError, TypeError) as error:
        raise ValueError(f"cursor {cursor!r} is not one that a page of this list gave out") from error
    known = func.coalesce(_ROW.accuracy, _NO_ACCURACY)
    return and_(
        _ROW.params >= place[0],
        or_(
            _ROW.params > place[0],
            known < place[1],
            and_(known == place[1], _ROW.digest > place[2]),
        ),
    )


def _engine(path: Path | None) -> Engine:
    # SQLite's memdb VFS shares one database in memory between connections, with the locks of a file.
    name = f"file:{path.resolve()}?mode=rwc" if path else f"file:/catalog-{id(object()):x}?vfs=memdb"
    engine = create_engine(f"sqlite:///{name}&uri=true", poolclass=QueuePool, connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        # sqlite3 would begin deferred transactions by itself; ours begin below.
        connection.isolation_level = None
        for pragma in ("busy_timeout = 10000", "journal_mode = WAL", "synchronous = NORMAL"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A deferred transaction that reads and then writes fails, without waiting, if another wrote in between.
        immediate = connection.get_execution_options().get("immediate")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine
