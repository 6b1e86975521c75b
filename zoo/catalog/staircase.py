"""Choosing with one index lookup, whatever the bound is.

"The smallest with accuracy of at least x" has no index that serves every x: with rows in order of size the query reads
past all that are too inaccurate, in order of accuracy it sorts all that are accurate enough. But the answers for all x
together form a staircase: in order of preference, the rows that reach further along what is bounded (the gain) than all
rows before them. `FrontRow` keeps one for each data set, preference and gain, and is kept current; a query is then one
seek in a B-tree. Queries on that path are built once, because SQLAlchemy takes longer to build one than SQLite to
answer it. What asks for more than one bound reads rows in order of preference until one fits.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from math import inf
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, bindparam, func, tuple_
from sqlalchemy.dialects.sqlite import insert
from sqlmodel import Field, SQLModel, and_, delete, select

from zoo.catalog.rows import (
    ACCURACY,
    COSTS,
    NO_ACCURACY,
    OFFERED,
    REACHED,
    ROW,
    ROWS,
    SCHEMA_VERSION,
    SHOWN_STEP,
    CheckpointRow,
    column_of,
    conditions,
    cost_bounds,
    order,
    reached,
)
from zoo.choosing.budget import ALL_DATASETS, Budget

_BOUNDED = ("params", "macs", "bytes", "onnx_bytes", "latency_ms")
# (preference, gain): fewest parameters and highest accuracy for each bound, the lowest of each cost for an accuracy.
STAIRCASES = (
    *(("params", gain) for gain in ("accuracy", *_BOUNDED[1:])),
    *(("accuracy", gain) for gain in _BOUNDED),
    *((cost, "accuracy") for cost in COSTS[1:]),
)
# Of each preference a staircase with a first step for every zoo: what it is bounded by, no row lacks.
_WITHOUT_BOUND = {"params": "macs", "accuracy": "params"}


class FrontRow(SQLModel, table=True):
    """A step of a staircase: the first row, in order of preference, to reach this far along the gain.

    `reach` grows with worth: the accuracy, or the negative of a cost. `size` is what is preferred low: a cost, or the
    negative of the accuracy. A larger reach comes with a larger size.
    """

    __tablename__ = f"front_{SCHEMA_VERSION}"
    __table_args__ = ({"sqlite_with_rowid": False},)

    dataset: str = Field(primary_key=True)
    claimed: bool = Field(primary_key=True)
    preference: str = Field(primary_key=True)
    gain: str = Field(primary_key=True)
    reach: float = Field(primary_key=True)
    size: float
    accuracy: float
    params: int
    digest: str = Field(index=True)


FRONT: Any = FrontRow
FRONTS = FrontRow.__table__  # type: ignore[attr-defined]

_STAIRCASE = and_(
    FRONT.dataset == bindparam("dataset"),
    FRONT.claimed == bindparam("claimed"),
    FRONT.preference == bindparam("preference"),
    FRONT.gain == bindparam("gain"),
)
_PLACE = (FRONT.size, FRONT.params, -FRONT.accuracy, FRONT.digest)
_FIRST_TO_REACH = select(ROWS).where(
    ROW.digest
    == select(FRONT.digest)
    .where(_STAIRCASE, FRONT.reach >= bindparam("reach"))
    .order_by(FRONT.reach)
    .limit(1)
    .scalar_subquery()
)
_STEP_ABOVE = select(*_PLACE).where(_STAIRCASE, FRONT.reach >= bindparam("reach")).order_by(FRONT.reach).limit(1)
_REMOVE_OUTDONE = delete(FrontRow).where(
    _STAIRCASE,
    FRONT.reach <= bindparam("reach"),
    tuple_(*_PLACE) > tuple_(*(bindparam(name) for name in ("size", "params", "minus_accuracy", "digest"))),
)
_ADD_STEP = insert(FRONTS)
_BATCH = 10_000


def choose(connection: Connection, budget: Budget, dataset: str) -> CheckpointRow | None:
    """The first eligible row in the budget's order. Rows whose accuracy is only claimed are used as a fallback."""
    found = (_choose(connection, budget, dataset, claimed) for claimed in (False, True))
    return next((row for row in found if row is not None), None)


def _choose(connection: Connection, budget: Budget, dataset: str, claimed: bool) -> CheckpointRow | None:
    preference = column_of(budget.preference, budget.format)
    # The least value of each gain that meets the budget.
    reaches = {} if budget.min_acc is None else {"accuracy": budget.min_acc}
    reaches |= {cost: -bound for cost, bound in cost_bounds(budget).items()}
    # The first in order of preference decides a bound on this very cost for all.
    own = reaches.pop(preference, None) if preference in COSTS else None
    gain, reach = next(iter(reaches.items()), (_WITHOUT_BOUND.get(preference, ""), -inf))
    if len(reaches) > 1 or budget.bounds() & {"family", "confidence"} or (preference, gain) not in STAIRCASES:
        query = (
            select(ROWS)
            .where(*conditions(budget, dataset), ROW.claimed == claimed)
            .order_by(*order(preference))
            .limit(1)
        )
        if preference == "accuracy" and budget.min_acc is not None:  # follows from the conditions; the index knows it
            query = query.where(budget.min_acc - SHOWN_STEP < ACCURACY)
        return first(connection, query)
    place = {"dataset": dataset, "claimed": claimed, "preference": preference, "gain": gain, "reach": reach}
    row = first(connection, _FIRST_TO_REACH, **place)
    if row is None or own is None:
        return row
    value = getattr(row, preference)
    return row if value is not None and -value >= own else None


def front_of(cost: str, dataset: str, *, claimed: bool) -> Any:
    """A condition for rows that include the Pareto front of this cost against accuracy."""
    return and_(FRONT.dataset == dataset, FRONT.claimed == claimed, FRONT.preference == "accuracy", FRONT.gain == cost)


def extend(connection: Connection, row: CheckpointRow) -> None:
    """Updates all staircases for a new row."""
    if row.deprecated or row.staged:
        return
    for dataset in (row.dataset, ALL_DATASETS):
        for preference, gain in STAIRCASES:
            _extend(connection, dataset, preference, gain, row)


def _extend(connection: Connection, dataset: str, preference: str, gain: str, row: CheckpointRow) -> None:
    """Adds a step for the row, if no row before it reaches as far, and takes out the steps it outdoes."""
    value = reached(row) if gain == "accuracy" else getattr(row, gain)
    accuracy = NO_ACCURACY if row.accuracy is None else row.accuracy
    if value is None:
        return
    size = -accuracy if preference == "accuracy" else getattr(row, preference)
    size = inf if size is None else size
    reach = value if gain == "accuracy" else -value
    staircase = {"dataset": dataset, "claimed": row.claimed, "preference": preference, "gain": gain, "reach": reach}
    above = connection.execute(_STEP_ABOVE, staircase).first()
    if above is not None and tuple(above) <= (size, row.params, -accuracy, row.digest):
        return
    place = {"size": size, "params": row.params, "digest": row.digest}
    connection.execute(_REMOVE_OUTDONE, {**staircase, **place, "minus_accuracy": -accuracy})
    connection.execute(_ADD_STEP, {**staircase, **place, "accuracy": accuracy})


def with_steps_of(connection: Connection, digests: list[str]) -> set[tuple[str, str]]:
    """(preference, gain) of each staircase that has one of these rows as a step."""
    query = select(FRONT.preference, FRONT.gain).where(FRONT.digest == bindparam("gone")).distinct()
    return {(row[0], row[1]) for digest in digests for row in connection.execute(query, {"gone": digest})}


def rebuild(connection: Connection, staircases: Iterable[tuple[str, str]] | None = None) -> None:
    """All of them, or these: in order of preference, a row is a step where it reaches further than all before it.

    One pass for each preference, whatever the gains and data sets: sorting is what takes the time.
    """
    for preference, pairs in groupby(sorted(STAIRCASES if staircases is None else staircases), itemgetter(0)):
        gains = [gain for _, gain in pairs]
        connection.execute(delete(FrontRow).where(FRONT.preference == preference, FRONT.gain.in_(gains)))
        size = -ACCURACY if preference == "accuracy" else func.coalesce(getattr(ROW, preference), inf)
        reaches = [REACHED if gain == "accuracy" else -getattr(ROW, gain) for gain in gains]
        columns = (ROW.dataset, ROW.claimed, size, ACCURACY, ROW.params, ROW.digest, *reaches)
        query: Any = select(*(column.label(f"c{n}") for n, column in enumerate(columns)))
        furthest: dict[tuple[str, bool, str], float] = {}
        steps: list[dict[str, Any]] = []
        for dataset, claimed, *place in connection.execute(query.where(OFFERED).order_by(*order(preference))):
            step = dict(zip(("size", "accuracy", "params", "digest"), place, strict=False)) | {"claimed": claimed}
            for gain, reach in zip(gains, place[4:], strict=True):
                for where in (dataset, ALL_DATASETS):
                    if reach is not None and reach > furthest.get((where, claimed, gain), -inf):
                        furthest[where, claimed, gain] = reach
                        steps.append(step | {"dataset": where, "preference": preference, "gain": gain, "reach": reach})
            if len(steps) >= _BATCH:
                connection.execute(_ADD_STEP, steps)
                steps.clear()
        if steps:
            connection.execute(_ADD_STEP, steps)


def first(connection: Connection, query: Any, **values: object) -> CheckpointRow | None:
    row = connection.execute(query, values).mappings().first()
    return None if row is None else CheckpointRow(**row)


def all_of(connection: Connection, query: Any, **values: object) -> list[CheckpointRow]:
    return [CheckpointRow(**row) for row in connection.execute(query, values).mappings()]
