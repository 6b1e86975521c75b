"""An index over checkpoint files, in SQLite: rows, and the queries that choose by budget.

The files are the truth; this can be thrown away and rebuilt from them at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, bindparam, func, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DatabaseError
from sqlmodel import Field, SQLModel, delete, or_, select
from sqlmodel import desc as descending

from zoo.catalog import dataset_labels, rows, staircase
from zoo.catalog.database import Database
from zoo.catalog.rows import OFFERED as _OFFERED
from zoo.catalog.rows import ROW as _ROW
from zoo.catalog.rows import ROWS as _ROWS
from zoo.catalog.rows import SCHEMA_VERSION, CheckpointRow, CheckpointTable
from zoo.catalog.staircase import FRONT as _FRONT
from zoo.catalog.staircase import FRONTS as _FRONTS
from zoo.catalog.staircase import first as _first
from zoo.catalog.views import DatasetView
from zoo.choosing import pareto
from zoo.choosing.budget import ALL_DATASETS, Budget, Complexity, Filters
from zoo.errors import NotFoundError

# The least that a digest may be shortened to.
MIN_PREFIX = 8
COMPUTED_ALIASES = ("smallest", "best", "latest")


class ImageSet(SQLModel, table=True):
    """What is known of some checkpoints' images, and what their data set is called here."""

    __tablename__ = f"image_set_{SCHEMA_VERSION}"
    __table_args__ = ({"sqlite_with_rowid": False},)

    images: str = Field(primary_key=True)
    facts: str
    first_seen: str
    label: str


class FolderRow(SQLModel, table=True):
    """A directory in which checkpoint files were found, as `zoo.store.files` tells them."""

    __tablename__ = f"folder_{SCHEMA_VERSION}"
    __table_args__ = ({"sqlite_with_rowid": False},)

    path: str = Field(primary_key=True)


_IMAGE_SETS = ImageSet.__table__  # type: ignore[attr-defined]
_FOLDERS = FolderRow.__table__  # type: ignore[attr-defined]
_NEWEST_FIRST = (descending(_ROW.created_at), _ROW.digest)
_ADD_ROW = insert(_ROWS).on_conflict_do_nothing(index_elements=["digest"])
_SET_LATENCY = update(_ROWS).where(_ROW.digest == bindparam("changed")).values(latency_ms=bindparam("to"))


def images_key(facts: str) -> str:
    """Short: each row has one."""
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Page:
    rows: Sequence[CheckpointRow]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """A page and what goes with it, as of one moment. `selected` is the first of all pages' rows."""

    dataset: str | None
    page: Page
    selected: CheckpointRow | None
    count: int
    aliases: dict[str, str]


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
                    staircase.extend(connection, row)

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
                staircase.rebuild(connection)
        return {facts: labels[facts] for facts in first_seen}

    def relabelled_by(self, facts: str, first_seen: str) -> str | None:
        """A data set that would be called otherwise if an image set had been first seen then; None where none would."""
        with self._engine.connect() as connection:
            known = {row.facts: row for row in connection.execute(select(_IMAGE_SETS))}
        seen = {known_facts: row.first_seen for known_facts, row in known.items()}
        labels = dataset_labels.labels({**seen, facts: min(first_seen, seen.get(facts, first_seen))})
        return next((row.label for row in known.values() if labels[row.facts] != row.label), None)

    def remove(self, digests: Iterable[str]) -> None:
        gone = [{"gone": digest} for digest in digests]
        if not gone:
            return
        with self._writing() as connection:
            # A row that is no step has one before it that reaches as far: without it nothing changes.
            outdated = staircase.with_steps_of(connection, [row["gone"] for row in gone])
            connection.execute(delete(CheckpointTable).where(_ROW.digest == bindparam("gone")), gone)
            staircase.rebuild(connection, outdated)

    def annotate(
        self, deprecated: Collection[str], staged: Collection[str], measured: Mapping[str, tuple[float, int]]
    ) -> bool:
        """Makes the rows say what the annotations say, as far as they are there; True if that changed any.

        `measured`: test accuracy and number of images by digest. A measurement, once known, stays: files do not change.
        """
        with self._engine.connect() as connection:
            known = set(connection.scalars(select(_ROW.digest).where(or_(_ROW.deprecated, _ROW.staged))))
            named = {*known, *deprecated, *staged, *measured}
            found = [row for digest in named if (row := _first(connection, _OF_DIGEST, digest=digest)) is not None]
        changes = []
        for row in found:
            wanted: dict[str, Any] = {"deprecated": row.digest in deprecated, "staged": row.digest in staged}
            if row.digest in measured:
                accuracy, count = measured[row.digest]
                shown = {"accuracy": round(accuracy, rows.DIGITS), "accuracy_in_full": accuracy}
                wanted |= {**shown, "accuracy_n": count, "accuracy_source": "measured"}
            if any(getattr(row, name) != value for name, value in wanted.items()):
                changes.append((row.digest, wanted))
        if not changes:
            return False
        with self._writing() as connection:
            outdated = staircase.with_steps_of(connection, [digest for digest, _ in changes])
            for digest, wanted in changes:
                connection.execute(update(_ROWS).where(_ROW.digest == digest).values(**wanted))
            staircase.rebuild(connection, outdated)
            for digest, _ in changes:
                row = _first(connection, _OF_DIGEST, digest=digest)
                assert row is not None
                staircase.extend(connection, row)
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
            staircase.rebuild(connection)

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
            staircase.rebuild(connection, {pair for pair in staircase.STAIRCASES if "latency_ms" in pair})
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

    def dataset_of(self, filters: Filters) -> str | None:
        """The data set that they are about: their own, else the default. None in an empty catalog."""
        with self._engine.connect() as connection:
            return self._dataset_of(connection, filters)

    def _dataset_of(self, connection: Connection, filters: Filters) -> str | None:
        return filters.dataset or self._default_dataset or connection.scalar(_DEFAULT_DATASET)

    def choose(self, budget: Budget) -> CheckpointRow | None:
        """Of the eligible rows the one that the budget prefers; of equals the first in order of size."""
        with self._engine.connect() as connection:
            dataset = self._dataset_of(connection, budget)
            return None if dataset is None else staircase.choose(connection, budget, dataset)

    def best_available(self, filters: Filters) -> CheckpointRow | None:
        """The nearest to bounds that nothing meets: the most accurate within the costs, else the smallest."""
        with self._engine.connect() as connection:
            dataset = self._dataset_of(connection, filters)
            if dataset is None:
                return None
            costs = filters.given()
            costs.pop("min_acc", None)
            costs.pop("confidence", None)
            affordable = Budget(**costs).model_copy(update={"prefer": "accuracy"})
            smallest = Budget(prefer="params")
            return staircase.choose(connection, affordable, dataset) or staircase.choose(connection, smallest, dataset)

    def page(self, budget: Budget, limit: int, cursor: str | None = None) -> Page:
        """Eligible rows in the budget's order. Raises ValueError for a cursor that no page of them gave out."""
        return self.listing(budget, limit, cursor).page

    def listing(self, budget: Budget, limit: int, cursor: str | None = None) -> Listing:
        """As `page`, and in the same transaction what was chosen, out of how many."""
        preference = rows.column_of(budget.preference, budget.format)
        after = [] if cursor is None else [rows.after(cursor, budget.preference, preference)]
        with self._engine.connect() as connection:
            dataset = self._dataset_of(connection, budget)
            if dataset is None:
                return Listing(None, Page([], None), None, 0, {})
            wanted = rows.conditions(budget, dataset)
            query = select(_ROWS).where(*wanted, *after).order_by(*rows.order(preference)).limit(limit + 1)
            found = _rows(connection, query)
            return Listing(
                dataset,
                Page(
                    found[:limit],
                    rows.cursor_at(found[limit - 1], budget.preference, preference) if len(found) > limit else None,
                ),
                staircase.choose(connection, budget, dataset) if after else next(iter(found), None),
                connection.execute(select(func.count()).select_from(_ROWS).where(*wanted)).scalar_one(),
                self._aliases(connection),
            )

    def count(self, filters: Filters) -> int:
        with self._engine.connect() as connection:
            dataset = self._dataset_of(connection, filters)
            if dataset is None:
                return 0
            query = select(func.count()).select_from(_ROWS).where(*rows.conditions(filters, dataset))
            return connection.execute(query).scalar_one()

    def datasets(self) -> list[str]:
        """Those of which there is something to choose."""
        query = select(_FRONT.dataset).where(_FRONT.dataset != ALL_DATASETS).distinct().order_by(_FRONT.dataset)
        with self._engine.connect() as connection:
            return list(connection.scalars(query))

    def dataset_views(self) -> list[DatasetView]:
        """Of those of which there is something to choose, by name."""
        counts = select(_ROW.dataset, func.count()).where(_OFFERED).group_by(_ROW.dataset)
        with self._engine.connect() as connection:
            default = self._dataset_of(connection, Filters())
            found = []
            for name, count in connection.execute(counts.order_by(_ROW.dataset)).all():
                best = staircase.choose(connection, Budget(prefer="accuracy"), name)
                assert best is not None
                view = DatasetView(
                    name=name,
                    checkpoints=count,
                    classes=len(json.loads(best.classes)),
                    best_accuracy=best.accuracy,
                    default=name == default,
                )
                found.append(view)
            return found

    def families(self, filters: Filters) -> list[str]:
        """Those of the data set."""
        with self._engine.connect() as connection:
            conditions = rows.conditions(Filters(), self._dataset_of(connection, filters) or "")
            query = select(_ROW.family).where(*conditions).distinct().order_by(_ROW.family)
            return list(connection.scalars(query))

    def is_measured(self, filters: Filters) -> bool:
        """Whether any latency is known in the data set."""
        with self._engine.connect() as connection:
            steps = staircase.front_of("latency_ms", self._dataset_of(connection, filters) or "")
            return connection.execute(select(_FRONT.digest).where(steps).limit(1)).first() is not None

    def pareto(self, filters: Filters, x: Complexity) -> list[CheckpointRow]:
        """The eligible rows that none beats in both `x` and accuracy, ascending in both."""
        cost = rows.column_of(x, filters.format)
        with self._engine.connect() as connection:
            dataset = self._dataset_of(connection, filters)
            if dataset is None:
                return []
            known = (_ROW.accuracy.is_not(None), getattr(_ROW, cost).is_not(None))
            query = select(_ROWS).where(*rows.conditions(filters, dataset), *known).order_by(*rows.order("params"))
            if not filters.bounds() - {"min_acc", f"max_{x}"}:
                # Bounds on the two axes themselves cut the ends off the front and change nothing in between.
                query = query.join(_FRONTS, _ROW.digest == _FRONT.digest).where(staircase.front_of(cost, dataset))
            found = _rows(connection, query)
        return pareto.front(found, cost=lambda row: getattr(row, cost), value=lambda row: row.accuracy or 0.0)

    def find(self, reference: str, dataset: str | None = None) -> CheckpointRow:
        """By digest, digest prefix, name or computed alias. Raises NotFoundError, also where several have that name.

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
                row = _by_name(connection, reference, dataset)
        if row is None:
            raise NotFoundError(
                f"no checkpoint {reference!r}: expected a digest, {MIN_PREFIX} or more of its first digits, a name, "
                f"or one of {', '.join(COMPUTED_ALIASES)}"
            )
        return row

    def named(self, name: str) -> list[CheckpointRow]:
        """Those of exactly that name, by digest; of very many the first hundred."""
        with self._engine.connect() as connection:
            return _named(connection, name)

    def aliases(self) -> dict[str, str]:
        """What the computed aliases stand for at present, by alias: digests in the default data set."""
        with self._engine.connect() as connection:
            return self._aliases(connection)

    def _aliases(self, connection: Connection) -> dict[str, str]:
        found = {alias: self._alias(connection, alias) for alias in COMPUTED_ALIASES}
        return {alias: row.digest for alias, row in found.items() if row is not None}

    def _alias(self, connection: Connection, alias: str, dataset: str | None = None) -> CheckpointRow | None:
        dataset = self._dataset_of(connection, Filters(dataset=dataset))
        if dataset is None:
            return None
        if alias == "latest":
            return _first(connection, _newest(everywhere=dataset == ALL_DATASETS), dataset=dataset)
        return staircase.choose(connection, Budget(prefer="accuracy" if alias == "best" else "params"), dataset)


_CIFAR10 = select(_ROW.dataset).where(_OFFERED, _ROW.dataset == "cifar10").limit(1).scalar_subquery()
_NEWEST_DATASET = select(_ROW.dataset).where(_OFFERED).order_by(*_NEWEST_FIRST).limit(1).scalar_subquery()
_DEFAULT_DATASET = select(func.coalesce(_CIFAR10, _NEWEST_DATASET))
_OF_DIGEST = select(_ROWS).where(_ROW.digest == bindparam("digest"))
_OF_NAME = select(_ROWS).where(_ROW.name == bindparam("name"), ~_ROW.staged).order_by(_ROW.digest).limit(100)


@cache
def _newest(*, everywhere: bool) -> Any:
    conditions = [] if everywhere else [_ROW.dataset == bindparam("dataset")]
    return select(_ROWS).where(_OFFERED, *conditions).order_by(*_NEWEST_FIRST).limit(1)


def _rows(connection: Connection, query: Any) -> list[CheckpointRow]:
    return [CheckpointRow(**row) for row in connection.execute(query).mappings()]


def _by_prefix(connection: Connection, prefix: str) -> CheckpointRow | None:
    query = select(_ROWS).where(_ROW.digest >= prefix, _ROW.digest <= prefix + "g").limit(2)
    rows = _rows(connection, query)
    if len(rows) > 1:
        raise NotFoundError(f"several checkpoints begin with {prefix}: give more of the digest's digits")
    return rows[0] if rows else None


def _named(connection: Connection, name: str) -> list[CheckpointRow]:
    return [CheckpointRow(**row) for row in connection.execute(_OF_NAME, {"name": name}).mappings()]


def _by_name(connection: Connection, name: str, dataset: str | None) -> CheckpointRow | None:
    """Of several the one that is not deprecated, if there is no other."""
    found = _named(connection, name)
    in_dataset = [row for row in found if dataset in (None, ALL_DATASETS, row.dataset)] or found[:1]
    candidates = [row for row in in_dataset if not row.deprecated] or in_dataset
    if len(candidates) > 1:
        digests = ", ".join(row.digest[:12] for row in candidates[:10])
        raise NotFoundError(f"{len(candidates)} checkpoints are named {name}: give a digest: {digests}")
    return candidates[0] if candidates else None


def _known(connection: Connection, digests: Iterable[str]) -> set[str]:
    """Those of them that are in the catalog; asked for in parts, as a statement takes 32,766 values at most."""
    found: set[str] = set()
    waiting = iter(digests)
    while part := list(islice(waiting, 10_000)):
        found.update(connection.scalars(select(_ROW.digest).where(_ROW.digest.in_(part))))
    return found
