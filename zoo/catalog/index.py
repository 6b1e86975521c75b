"""The catalog: an index over checkpoint files in SQLite, with the queries that choose by budget.

The files are the truth; this can be thrown away and rebuilt from them at any time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func
from sqlmodel import SQLModel, or_, select

from zoo.catalog import changes, names, rows, staircase
from zoo.catalog.database import Database
from zoo.catalog.protocol import Index
from zoo.catalog.rows import OFFERED as _OFFERED
from zoo.catalog.rows import ROW as _ROW
from zoo.catalog.rows import ROWS as _ROWS
from zoo.catalog.rows import CheckpointRow, Listing, Page
from zoo.catalog.staircase import FRONT as _FRONT
from zoo.catalog.staircase import FRONTS as _FRONTS
from zoo.catalog.staircase import all_of
from zoo.catalog.views import DatasetView, ElasticPlace
from zoo.choosing import pareto
from zoo.choosing.budget import ALL_DATASETS, Budget, Complexity, Filters
from zoo.errors import CatalogError
from zoo.store.entries import Said

# After the rows are there again: longer than a query that began before takes.
_QUERY_SECONDS = 1.0


class Catalog(Index):
    """An Index in one SQLite file, or in memory.

    catalog = Catalog(Path("my-zoo/catalog.sqlite"))
    catalog.choose(Budget(min_acc=0.8, max_params=20_000))
    """

    def __init__(self, path: Path | None, default_dataset: str | None = None) -> None:
        """`path` None keeps the catalog in memory."""
        self._engine = Database(path, SQLModel.metadata, [_ROWS, _FRONTS, changes.IMAGE_SETS, changes.FOLDERS])
        self._default_dataset = default_dataset
        self._complete_from = 0.0

    def close(self) -> None:
        self._engine.close()

    @property
    def is_incomplete(self) -> bool:
        """Also for a moment afterwards: a query that found nothing may have begun before."""
        return self._engine.is_anew or time.monotonic() < self._complete_from

    @is_incomplete.setter
    def is_incomplete(self, value: bool) -> None:
        if self._engine.is_anew and not value:
            self._complete_from = time.monotonic() + _QUERY_SECONDS
        self._engine.is_anew = value

    def follow_file(self) -> bool:
        return self._engine.follow_file()

    def leave_file(self, error: CatalogError) -> bool:
        return self._engine.leave_file(error)

    # --- writing ---------------------------------------------------------------------------------------

    def add(self, rows: Iterable[CheckpointRow]) -> None:
        with self._engine.writing() as connection:
            changes.add(connection, rows)

    def replace(self, rows: Iterable[dict[str, Any]]) -> None:
        with self._engine.writing() as connection:
            changes.replace(connection, rows)

    def remove(self, digests: Iterable[str]) -> None:
        if gone := list(digests):
            with self._engine.writing() as connection:
                changes.remove(connection, gone)

    def annotate(self, said: Said) -> bool:
        """A measurement, once known, stays: files do not change."""
        with self._engine.connect() as connection:
            missing = changes.missing_annotations(connection, said)
        return self._changed(changes.annotate, missing)

    def follow_latencies(self, medians: Mapping[str, float]) -> bool:
        with self._engine.connect() as connection:
            missing = changes.missing_latencies(connection, medians)
        return self._changed(changes.set_latencies, missing)

    def follow_places(self, places: Mapping[str, ElasticPlace], *, is_complete: bool) -> bool:
        with self._engine.connect() as connection:
            missing = changes.missing_places(connection, places)
        if not is_complete:
            missing = {digest: wanted for digest, wanted in missing.items() if digest in places}
        return self._changed(changes.set_places, missing)

    def _changed(self, change: Callable[[Connection, dict[str, Any]], None], missing: dict[str, Any]) -> bool:
        """Makes the change where anything is missing; whether it is."""
        if missing:
            with self._engine.writing() as connection:
                change(connection, missing)
        return bool(missing)

    def follow_folders(self, folders: set[str]) -> None:
        if folders != self.folders():
            with self._engine.writing() as connection:
                changes.set_folders(connection, folders)

    def label_images(self, first_seen: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
        """Those of all known image sets, and of these.

        Image sets are as `dataset_labels.image_set` gives them. A label that has been given once, here or as `given`
        says, stays; of new image sets the one first seen is the first to be given one.
        """
        with self._engine.connect() as connection:
            known = changes.labels(connection)
        if first_seen.keys() <= known.keys() and given.items() <= known.items():
            return known
        with self._engine.writing() as connection:
            return changes.label(connection, first_seen, given)

    # --- reading ---------------------------------------------------------------------------------------

    def digests(self) -> set[str]:
        with self._engine.connect() as connection:
            return set(connection.scalars(select(_ROW.digest)))

    def folders(self) -> set[str]:
        with self._engine.connect() as connection:
            return set(connection.scalars(select(changes.FOLDERS.c.path)))

    def rows(self, digests: Iterable[str]) -> dict[str, CheckpointRow]:
        with self._engine.connect() as connection:
            found = {digest: changes.row_of(connection, digest) for digest in digests}
        return {digest: row for digest, row in found.items() if row is not None}

    def dataset_of(self, filters: Filters) -> str | None:
        with self._engine.connect() as connection:
            return self._dataset_of(connection, filters)

    def _dataset_of(self, connection: Connection, filters: Filters) -> str | None:
        return filters.dataset or self._default_dataset or connection.scalar(names.DEFAULT_DATASET)

    def choose(self, budget: Budget) -> CheckpointRow | None:
        with self._engine.connect() as connection:
            dataset = self._dataset_of(connection, budget)
            return None if dataset is None else staircase.choose(connection, budget, dataset)

    def meets(self, digest: str, filters: Filters) -> bool:
        query = select(_ROW.digest).where(_ROW.digest == digest, *rows.bounds(filters))
        with self._engine.connect() as connection:
            return connection.execute(query).first() is not None

    def best_available(self, filters: Filters) -> CheckpointRow | None:
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
        return self.listing(budget, limit, cursor).page

    def listing(self, budget: Budget, limit: int, cursor: str | None = None) -> Listing:
        preference = rows.column_of(budget.preference, budget.format)
        first, after = (False, None) if cursor is None else rows.after(cursor, budget.preference, preference)
        with self._engine.connect() as connection:
            dataset = self._dataset_of(connection, budget)
            if dataset is None:
                return Listing(None, Page([], None), None, 0, {})
            wanted = rows.conditions(budget, dataset)
            found: list[CheckpointRow] = []
            for claimed in (True,) if first else (False, True):
                place = [after] if after is not None and claimed == first else []
                query = select(_ROWS).where(*wanted, _ROW.claimed == claimed, *place).order_by(*rows.order(preference))
                found += all_of(connection, query.limit(limit + 1 - len(found)))
            after_last = rows.cursor_at(found[limit - 1], budget.preference, preference) if len(found) > limit else None
            return Listing(
                dataset,
                Page(found[:limit], after_last),
                next(iter(found), None) if after is None else staircase.choose(connection, budget, dataset),
                _count(connection, wanted),
                names.aliases(connection, self._dataset_of(connection, Filters())),
            )

    def count(self, filters: Filters) -> int:
        with self._engine.connect() as connection:
            dataset = self._dataset_of(connection, filters)
            return 0 if dataset is None else _count(connection, rows.conditions(filters, dataset))

    def datasets(self) -> list[str]:
        query = select(_FRONT.dataset).where(_FRONT.dataset != ALL_DATASETS).distinct().order_by(_FRONT.dataset)
        with self._engine.connect() as connection:
            return list(connection.scalars(query))

    def dataset_views(self) -> list[DatasetView]:
        counts = select(_ROW.dataset, func.count()).where(_OFFERED).group_by(_ROW.dataset)
        with self._engine.connect() as connection:
            default = self._dataset_of(connection, Filters())
            found = []
            for name, count in connection.execute(counts.order_by(_ROW.dataset)).all():
                best = staircase.choose(connection, Budget(prefer="accuracy"), name)
                assert best is not None
                known = {"classes": len(json.loads(best.classes)), "best_accuracy": best.accuracy}
                found.append(DatasetView(name=name, checkpoints=count, default=name == default, **known))
            return found

    def families(self, filters: Filters) -> list[str]:
        with self._engine.connect() as connection:
            conditions = rows.conditions(Filters(), self._dataset_of(connection, filters) or "")
            query = select(_ROW.family).where(*conditions).distinct().order_by(_ROW.family)
            return list(connection.scalars(query))

    def is_measured(self, filters: Filters) -> bool:
        with self._engine.connect() as connection:
            dataset = self._dataset_of(connection, filters) or ""
            steps = [staircase.front_of("latency_ms", dataset, claimed=claimed) for claimed in (False, True)]
            return connection.execute(select(_FRONT.digest).where(or_(*steps)).limit(1)).first() is not None

    def pareto(self, filters: Filters, x: Complexity) -> list[CheckpointRow]:
        """Of those that only claim their accuracy, if no other is eligible."""
        cost = rows.column_of(x, filters.format)
        with self._engine.connect() as connection:
            dataset = self._dataset_of(connection, filters)
            if dataset is None:
                return []
            known = (_ROW.accuracy.is_not(None), getattr(_ROW, cost).is_not(None))
            wanted = select(_ROWS).where(*rows.conditions(filters, dataset), *known).order_by(*rows.order("params"))
            for claimed in (False, True):
                query = wanted.where(_ROW.claimed == claimed)
                if not filters.bounds() - {"min_acc", f"max_{x}"}:
                    # Bounds on the two axes themselves cut the ends off the front and change nothing in between.
                    steps = staircase.front_of(cost, dataset, claimed=claimed)
                    query = query.join(_FRONTS, _ROW.digest == _FRONT.digest).where(steps)
                if found := all_of(connection, query):
                    break
        return pareto.front(found, cost=lambda row: getattr(row, cost), value=lambda row: row.accuracy or 0.0)

    def find(self, reference: str, dataset: str | None = None) -> CheckpointRow:
        with self._engine.connect() as connection:
            is_alias = reference in names.COMPUTED_ALIASES
            of_alias = self._dataset_of(connection, Filters(dataset=dataset)) if is_alias else None
            return names.find(connection, reference, dataset, of_alias)

    def named(self, name: str) -> list[CheckpointRow]:
        with self._engine.connect() as connection:
            return names.named(connection, name)

    def aliases(self) -> dict[str, str]:
        with self._engine.connect() as connection:
            return names.aliases(connection, self._dataset_of(connection, Filters()))


def _count(connection: Connection, conditions: Sequence[Any]) -> int:
    return connection.execute(select(func.count()).select_from(_ROWS).where(*conditions)).scalar_one()
