"""A checkpoint's row in the catalog: its columns, which rows meet a budget, and in which order they are preferred."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import inf
from typing import Annotated, Any

import pydantic
from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, false, func, literal_column, text
from sqlmodel import Field, Index, SQLModel, and_, or_

from zoo.catalog.views import ElasticPlace
from zoo.choosing.budget import ALL_DATASETS, Filters, Preference, z_score
from zoo.network.cost import MAX_COUNT

# Changes whenever the catalog's tables do, and is part of their names: two versions of the code that work on one file
# would else throw out each other's rows in turn.
SCHEMA_VERSION = 8
_TABLE = f"checkpoint_{SCHEMA_VERSION}"
# In SQL the same text as in the indexes: SQLite uses an index on an expression for exactly that expression.
_KNOWN_ACCURACY = "coalesce(accuracy, -1.0)"
_BEST_FIRST = f"{_KNOWN_ACCURACY} DESC"
NO_ACCURACY = -1.0
# Of accuracies, as they are shown; the descriptor has them in full.
DIGITS = 4


class CheckpointRow(SQLModel):
    """`accuracy` and `val_accuracy` have four digits, as they are shown: order and ties are about those.

    `min_acc` is met by the accuracy as it is shown, or in full: whichever somebody has read selects its checkpoint.
    """

    digest: str = Field(primary_key=True)
    name: str
    dataset: str
    # Which images those are: a key of the catalog's ImageSet.
    images: str = ""
    family: str
    params: int
    macs: int
    bytes: int  # of the safetensors file
    onnx_bytes: int
    ram_bytes: int  # weights, and the activations that are alive at once, for one image
    latency_ms: float | None = None
    # Of the test split: what the file claims, or what was measured when it was published here, which then decides.
    accuracy: float | None = None
    accuracy_in_full: float | None = None
    accuracy_n: int | None = None
    accuracy_source: str | None = None  # "claimed", "measured"; None where there is no accuracy
    val_accuracy: float
    classes: str  # a JSON list
    # Text like 2026-11-21T02:00:00+00:00, which sorts as time does: SQLite has no type for it.
    created_at: str
    parent: str | None = None
    distilled_from: str | None = None
    # If it is a level of an elastic file: that file's digest, which of its levels, and where that ends.
    elastic_file: str | None = None
    level: int | None = None
    num_levels: int | None = None
    prefix_bytes: int | None = None
    # Found by whatever names it, but chosen by no budget and no computed alias.
    deprecated: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    # Published to be tried first: found by its digest alone, until it is promoted.
    staged: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    # Published, and its accuracy measured by nobody here: chosen where nothing else meets the budget, listed last.
    claimed: bool = Field(default=False, sa_column_kwargs={"server_default": false()})

    @property
    def place(self) -> ElasticPlace | None:
        """Where it lies in an elastic file."""
        found = {field: getattr(self, column) for column, field in PLACE.items()}
        return None if self.elastic_file is None else ElasticPlace(**found)

    @property
    def created(self) -> datetime:
        return datetime.fromisoformat(self.created_at)


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


# The columns of where it lies in an elastic file, by the field of its ElasticPlace.
PLACE = {"elastic_file": "file", "level": "level", "num_levels": "levels", "prefix_bytes": "prefix_bytes"}


def place_columns(place: ElasticPlace | None) -> dict[str, Any]:
    return {column: None if place is None else getattr(place, field) for column, field in PLACE.items()}


class CheckpointTable(CheckpointRow, table=True):
    """The table. Rows are plain CheckpointRow objects: SQLAlchemy takes six times as long to make its own."""

    __tablename__ = _TABLE
    __table_args__ = (
        Index(f"by_size_{SCHEMA_VERSION}", "dataset", "claimed", "params", text(_BEST_FIRST), "digest"),
        Index(f"by_size_everywhere_{SCHEMA_VERSION}", "claimed", "params", text(_BEST_FIRST), "digest"),
        Index(f"by_accuracy_{SCHEMA_VERSION}", "dataset", "claimed", text(_BEST_FIRST), "params", "digest"),
        Index(f"by_accuracy_everywhere_{SCHEMA_VERSION}", "claimed", text(_BEST_FIRST), "params", "digest"),
        Index(f"by_name_{SCHEMA_VERSION}", "name", text("created_at DESC"), "digest"),
        Index(f"by_age_{SCHEMA_VERSION}", "dataset", text("created_at DESC"), "digest"),
        Index(f"by_age_everywhere_{SCHEMA_VERSION}", text("created_at DESC"), "digest"),
        {"sqlite_with_rowid": False},
    )


ROW: Any = CheckpointTable
ROWS = CheckpointTable.__table__  # type: ignore[attr-defined]
ACCURACY: Any = literal_column(f"coalesce({_TABLE}.accuracy, -1.0)")
# The largest min_acc that a row meets.
REACHED: Any = func.max(ROW.accuracy, func.coalesce(ROW.accuracy_in_full, ROW.accuracy))

# What budgets and computed aliases choose from.
OFFERED: Any = and_(~ROW.deprecated, ~ROW.staged)
# Accuracies that are shown as equal differ by less than this.
SHOWN_STEP = 10.0**-DIGITS
# The columns that bounds and preferences are about.
COSTS = ("params", "macs", "bytes", "onnx_bytes", "latency_ms", "ram_bytes")


def column_of(quantity: str, file_format: str) -> str:
    """The column that "bytes" and the other names of a budget stand for, where files have this format."""
    if quantity == "ram":
        return "ram_bytes"
    return "onnx_bytes" if (quantity, file_format) == ("bytes", "onnx") else quantity


def reached(row: CheckpointRow) -> float | None:
    """The largest `min_acc` that the row meets."""
    return None if row.accuracy is None else max(row.accuracy, row.accuracy_in_full or row.accuracy)


def cost_bounds(filters: Filters) -> dict[str, float]:
    """Upper bounds: column -> largest value."""
    bounds = {name: getattr(filters, f"max_{name}") for name in ("params", "macs", "bytes", "latency_ms")}
    return {column_of(name, filters.format): bound for name, bound in bounds.items() if bound is not None}


# --- which rows ------------------------------------------------------------------------------------------


def in_dataset(dataset: str) -> list[ColumnElement[bool]]:
    return [] if dataset == ALL_DATASETS else [ROW.dataset == dataset]


def conditions(filters: Filters, dataset: str) -> list[ColumnElement[bool]]:
    """SQL conditions of a budget. A row whose value is unknown (NULL) meets no bound on it."""
    return [OFFERED, *in_dataset(dataset), *bounds(filters)]


def bounds(filters: Filters) -> list[ColumnElement[bool]]:
    """Those of them that are about the checkpoint itself."""
    found: list[ColumnElement[bool]] = []
    if filters.min_acc is not None:
        found.append(filters.min_acc <= REACHED)
    if filters.confidence is not None:
        # Wilson's interval inverts the score test, so its lower end reaches m where p − m ≥ z √(m(1 − m)/n).
        # Squared, to do without a root in SQL.
        least = filters.min_acc or 0.0
        margin = ROW.accuracy - least
        variance = z_score(filters.confidence) ** 2 * least * (1 - least)
        found.append(margin * margin * ROW.accuracy_n >= variance)
        if least == 1:  # where m is the other root: no finite sample makes sure of perfection
            found.append(false())
    found += [getattr(ROW, column) <= bound for column, bound in cost_bounds(filters).items()]
    if filters.family is not None:
        found.append(ROW.family == filters.family)
    return found


# --- in which order --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Key:
    """One column of an order: its value in a row, never NULL, in SQL and in Python."""

    sql: Any
    name: str
    unknown: float | None = None
    descending: bool = False

    @property
    def ordered(self) -> Any:
        return self.sql.desc() if self.descending else self.sql.asc()

    def value(self, row: CheckpointRow) -> Any:
        found = getattr(row, self.name)
        return self.unknown if found is None else found

    def beyond(self, value: object) -> Any:
        return self.sql < value if self.descending else self.sql > value

    def up_to(self, value: object) -> Any:
        return self.sql <= value if self.descending else self.sql >= value


_PARAMS = _Key(ROW.params, "params")
_ACCURACY = _Key(ACCURACY, "accuracy", NO_ACCURACY, descending=True)
_DIGEST = _Key(ROW.digest, "digest")


def _keys(column: str) -> tuple[_Key, ...]:
    """Sort keys. Ties go to fewer parameters, then higher accuracy, then the lower digest."""
    if column == "params":
        return _PARAMS, _ACCURACY, _DIGEST
    if column == "accuracy":
        return _ACCURACY, _PARAMS, _DIGEST
    # What is unknown comes last.
    unknown: Any = literal_column(f"coalesce({_TABLE}.{column}, 9e999)")
    return _Key(unknown, column, inf), _PARAMS, _ACCURACY, _DIGEST


def order(column: str) -> tuple[Any, ...]:
    """ORDER BY terms: lowest cost first, or highest accuracy first."""
    return tuple(key.ordered for key in _keys(column))


def cursor_at(row: CheckpointRow, preference: Preference, column: str) -> str:
    values = (key.value(row) for key in _keys(column))
    place = [preference, int(row.claimed), *(None if value == inf else value for value in values)]
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def after(cursor: str, preference: Preference, column: str) -> tuple[bool, ColumnElement[bool]]:
    """Whether it is among the claimed ones, and what follows it there.

    Raises ValueError where no page of rows in this order gave the cursor out.
    """
    keys = _keys(column)
    try:
        decoded = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        of, claimed, *place = _CURSOR.validate_json(decoded)
        digest = pydantic.TypeAdapter(_Digest).validate_python(place.pop())
        if (
            of != preference
            or claimed not in (0, 1)
            or len(place) != len(keys) - 1
            or any(isinstance(value, str) for value in place)
        ):
            raise ValueError(f"it is of another list, in the order of {of}")
    except (ValueError, IndexError) as error:
        raise ValueError(f"cursor {cursor!r} is not one that a page of this list gave out") from error
    values = [inf if value is None else value for value in place] + [digest]
    condition: Any = false()
    for key, value in reversed(list(zip(keys, values, strict=True))):
        condition = or_(key.beyond(value), and_(key.sql == value, condition))
    # What follows from that, and what an index can seek.
    return bool(claimed), and_(keys[0].up_to(values[0]), condition)


_Digest = Annotated[str, pydantic.Field(strict=True, max_length=64)]
_Number = (
    Annotated[int, pydantic.Field(strict=True, ge=0, le=MAX_COUNT)]
    | Annotated[float, pydantic.Field(strict=True, allow_inf_nan=False)]
)
_CURSOR: TypeAdapter[list[Any]] = TypeAdapter(
    Annotated[list[_Number | _Digest | None], pydantic.Field(min_length=5, max_length=6)]
)
