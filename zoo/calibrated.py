"""Tables of the catalog for what was measured, which no file says: a reindex leaves them alone.

Latencies are of a digest on a device. A catalog belongs to one machine at a time (SQLite's WAL needs one), whose
latencies `checkpoint.latency_ms` repeats, so that rows, staircases and fronts know them like any other cost; a zoo
that was copied to another machine brings the figures of the old one along, and shows those of the new.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.dialects.sqlite import insert
from sqlmodel import Field, SQLModel, select

from zoo.cascade import Calibration


class Latency(SQLModel):
    """Milliseconds for one image, over `num_runs` of the network."""

    digest: str = Field(primary_key=True)
    device: str = Field(primary_key=True)
    median_ms: float
    p95_ms: float
    num_runs: int
    measured_at: str


class LatencyTable(Latency, table=True):
    __tablename__ = "latency"
    __table_args__ = ({"sqlite_with_rowid": False},)


class CalibrationTable(SQLModel, table=True):
    """A data set's cascades as one JSON text: they are found together, and read together."""

    __tablename__ = "calibration"

    dataset: str = Field(primary_key=True)
    calibration: str


_LATENCIES = LatencyTable.__table__  # type: ignore[attr-defined]
_CALIBRATIONS = CalibrationTable.__table__  # type: ignore[attr-defined]
TABLES = [_LATENCIES, _CALIBRATIONS]

_HERE = "SELECT median_ms FROM latency WHERE latency.digest = checkpoint.digest AND device = :device"
_IS_OUTDATED = text(f"SELECT EXISTS (SELECT 1 FROM checkpoint WHERE latency_ms IS NOT ({_HERE}))")  # noqa: S608
_UPDATE = text(f"UPDATE checkpoint SET latency_ms = ({_HERE}) WHERE latency_ms IS NOT ({_HERE})")  # noqa: S608


def record_latencies(connection: Connection, latencies: Iterable[Latency]) -> None:
    _upsert(connection, _LATENCIES, [latency.model_dump() for latency in latencies])


def are_latencies_outdated(connection: Connection, device: str) -> bool:
    return bool(connection.execute(_IS_OUTDATED, {"device": device}).scalar_one())


def update_latencies(connection: Connection, device: str) -> None:
    """The rows of `checkpoint` then have this device's medians, and no other's."""
    connection.execute(_UPDATE, {"device": device})


def record_calibration(connection: Connection, calibration: Calibration) -> None:
    row = {"dataset": calibration.dataset, "calibration": calibration.model_dump_json()}
    _upsert(connection, _CALIBRATIONS, [row])


def calibrations(connection: Connection) -> list[Calibration]:
    texts = connection.scalars(select(_CALIBRATIONS.c.calibration).order_by(_CALIBRATIONS.c.dataset))
    return [_parsed(found) for found in texts]


@lru_cache(maxsize=16)
def _parsed(calibration: str) -> Calibration:
    """A server reads them each second, and they are the same for days."""
    return Calibration.model_validate_json(calibration)


def _upsert(connection: Connection, table: Any, rows: list[dict[str, Any]]) -> None:
    statement = insert(table)
    replaced = {column.name: statement.excluded[column.name] for column in table.columns if not column.primary_key}
    connection.execute(statement.on_conflict_do_update(index_elements=table.primary_key, set_=replaced), rows)
