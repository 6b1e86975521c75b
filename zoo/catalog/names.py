"""A checkpoint by what names it: a digest, the first digits of one, a name, or an alias that the catalog computes."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import Connection, bindparam, func
from sqlmodel import desc, select

from zoo.catalog import staircase
from zoo.catalog.rows import OFFERED, ROW, ROWS, CheckpointRow
from zoo.choosing.budget import ALL_DATASETS, Budget
from zoo.errors import NotFoundError

# The least that a digest may be shortened to.
MIN_PREFIX = 8
COMPUTED_ALIASES = ("smallest", "best", "latest")

_NEWEST_FIRST = (desc(ROW.created_at), ROW.digest)
_CIFAR10 = select(ROW.dataset).where(OFFERED, ROW.dataset == "cifar10").limit(1).scalar_subquery()
_NEWEST_DATASET = select(ROW.dataset).where(OFFERED).order_by(*_NEWEST_FIRST).limit(1).scalar_subquery()
# The data set of who names none.
DEFAULT_DATASET = select(func.coalesce(_CIFAR10, _NEWEST_DATASET))
_OF_NAME = select(ROWS).where(ROW.name == bindparam("name"), ~ROW.staged).order_by(ROW.digest).limit(100)


def find(connection: Connection, reference: str, dataset: str | None, of_alias: str | None) -> CheckpointRow:
    """As `Catalog.find`; `of_alias` is the data set of computed aliases, None where there is none."""
    row = None
    if reference in COMPUTED_ALIASES:
        row = _alias(connection, reference, of_alias)
    elif set(reference) <= set("0123456789abcdef") and MIN_PREFIX <= len(reference) <= 64:
        row = _by_prefix(connection, reference)
    row = row or _by_name(connection, reference, dataset)
    if row is None:
        raise NotFoundError(
            f"no checkpoint {reference!r}: expected a digest, {MIN_PREFIX} or more of its first digits, a name, "
            f"or one of {', '.join(COMPUTED_ALIASES)}"
        )
    return row


def aliases(connection: Connection, dataset: str | None) -> dict[str, str]:
    """Computed alias -> digest, in this data set."""
    found = {alias: _alias(connection, alias, dataset) for alias in COMPUTED_ALIASES}
    return {alias: row.digest for alias, row in found.items() if row is not None}


def named(connection: Connection, name: str) -> list[CheckpointRow]:
    """As `Catalog.named`."""
    return staircase.all_of(connection, _OF_NAME, name=name)


def _alias(connection: Connection, alias: str, dataset: str | None) -> CheckpointRow | None:
    if dataset is None:
        return None
    if alias == "latest":
        return staircase.first(connection, _newest(everywhere=dataset == ALL_DATASETS), dataset=dataset)
    return staircase.choose(connection, Budget(prefer="accuracy" if alias == "best" else "params"), dataset)


@cache
def _newest(*, everywhere: bool) -> Any:
    conditions = [] if everywhere else [ROW.dataset == bindparam("dataset")]
    return select(ROWS).where(OFFERED, *conditions).order_by(*_NEWEST_FIRST).limit(1)


def _by_prefix(connection: Connection, prefix: str) -> CheckpointRow | None:
    query = select(ROWS).where(ROW.digest >= prefix, ROW.digest <= prefix + "g").limit(2)
    rows = staircase.all_of(connection, query)
    if len(rows) > 1:
        raise NotFoundError(f"several checkpoints begin with {prefix}: give more of the digest's digits")
    return rows[0] if rows else None


def _by_name(connection: Connection, name: str, dataset: str | None) -> CheckpointRow | None:
    """Among several, the only one that is not deprecated. Raises NotFoundError where the name is ambiguous."""
    found = named(connection, name)
    in_dataset = [row for row in found if dataset in (None, ALL_DATASETS, row.dataset)] or found[:1]
    candidates = [row for row in in_dataset if not row.deprecated] or in_dataset
    if len(candidates) > 1:
        digests = ", ".join(row.digest[:12] for row in candidates[:10])
        raise NotFoundError(f"{len(candidates)} checkpoints are named {name}: give a digest: {digests}")
    return candidates[0] if candidates else None
