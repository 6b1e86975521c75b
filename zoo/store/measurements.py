"""Measurements: latencies by device, and cascades. They depend on where a checkpoint is used: its file has none.

    measurements.jsonl    beside the checkpoints; one JSON object a line, appended and never changed

    {"kind": "latency", "digest": …, "device": …, "median_ms": …, "p95_ms": …, "num_runs": …, "measured_at": …}
    {"kind": "calibration", "measured_at": …, "calibration": {"dataset": …, "num_images": …, "cascades": […]}}
    {"kind": "carried_over", "catalog": "catalog.sqlite"}

Not in the catalog, which is disposable, and another one where the directory is served together with others: what is
measured in a directory counts wherever that is served. Of two measurements of one thing the later counts. Kinds that
this version does not know are left alone.
"""

from __future__ import annotations

import errno
import logging
import operator
import os
import sqlite3
import stat
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from zoo.choosing.cascade import Calibration
from zoo.store.directory import sync_directory
from zoo.store.locks import locked

log = logging.getLogger(__name__)

_NAME = "measurements.jsonl"
# Of versions that kept measurements in the catalog: `catalog.sqlite`, or with a hash of the other directories.
_OLD_CATALOGS = ("catalog.sqlite", f"catalog-{'[0-9a-f]' * 8}.sqlite")
Stamp = tuple[int, int, int] | None


class Latency(BaseModel):
    """Milliseconds for one image, over `num_runs` of the network."""

    model_config = ConfigDict(frozen=True)

    digest: str
    device: str
    median_ms: float
    p95_ms: float
    num_runs: int
    measured_at: str


class _LatencyLine(Latency):
    kind: Literal["latency"] = "latency"


class _CalibrationLine(BaseModel):
    kind: Literal["calibration"] = "calibration"
    measured_at: str
    calibration: Calibration


class _CarriedOverLine(BaseModel):
    kind: Literal["carried_over"] = "carried_over"
    catalog: str


class _OtherLine(BaseModel):
    kind: str


_Known = Annotated[_LatencyLine | _CalibrationLine | _CarriedOverLine, Field(discriminator="kind")]
_Line = _LatencyLine | _CalibrationLine | _CarriedOverLine
_KNOWN: TypeAdapter[_Line] = TypeAdapter(_Known)
_KINDS = ("latency", "calibration", "carried_over")


class MeasurementsFile:
    """Those of one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / _NAME
        self._read_at: Stamp = None
        self._lines: list[_Line] = []
        # Of old catalogs in a directory that cannot be written to.
        self._carried_over: list[_Line] = []
        self._said: str | None = None

    def carry_over(self) -> None:
        """Takes over what catalogs of earlier versions kept, once; from a read-only directory into memory alone."""
        catalogs = sorted({path for name in _OLD_CATALOGS for path in self._root.glob(name)})
        known = {line.catalog for line in self.lines() if isinstance(line, _CarriedOverLine)}
        for catalog in catalogs:
            if catalog.name not in known:
                self._carry_over(catalog)

    def _carry_over(self, catalog: Path) -> None:
        try:
            found = _lines_of_old_catalog(catalog)
        except sqlite3.Error as error:
            log.warning(
                "%s: latencies and cascades that an earlier version kept in it cannot be read (%s)", catalog, error
            )
            return
        if not found:
            return
        log.info("%s: its latencies and cascades, %d in all, are kept in %s now", catalog, len(found), self._path)
        try:
            self._append([*found, _CarriedOverLine(catalog=catalog.name)])
        except OSError:
            self._carried_over += found
            self._lines = [*found, *self._lines]

    def lines(self) -> list[_Line]:
        """In the order of the file; the same list until that changes. As they were where it cannot be read."""
        try:
            stamp = _stamp(self._path)
            if stamp != self._read_at and (stamp or self._root.is_dir()):
                self._lines = [*self._carried_over, *(self._parsed(self._path.read_bytes()) if stamp else ())]
                self._read_at = stamp
        except OSError as error:
            self._say(f"{self._path} cannot be read ({error.strerror}): as it was when it could")
        return self._lines

    def _parsed(self, data: bytes) -> list[_Line]:
        """Without a last line that is still being written, or whose writer was killed."""
        lines: list[_Line] = []
        for number, text in enumerate(data.split(b"\n"), 1):
            try:
                if not text or _OtherLine.model_validate_json(text).kind not in _KINDS:
                    continue
                lines.append(_KNOWN.validate_json(text))
            except ValidationError:
                if number <= data.count(b"\n"):
                    self._say(f"{self._path}: line {number} is no measurement, and left out")
        return lines

    def _say(self, what: str) -> None:
        if what != self._said:
            self._said = what
            log.warning("%s", what)

    def record_latencies(self, latencies: Iterable[Latency]) -> None:
        """Raises OSError where the directory cannot be written to."""
        self._append([_LatencyLine(**latency.model_dump()) for latency in latencies])

    def record_calibration(self, calibration: Calibration) -> None:
        """As `record_latencies`."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._append([_CalibrationLine(measured_at=now, calibration=calibration)])

    def _append(self, lines: Sequence[_Line]) -> None:
        """All of them, or after a crash the first ones; a last line that was torn stays apart from them."""
        data = b"".join(line.model_dump_json().encode() + b"\n" for line in lines)
        with locked(self._root), self._path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                data = data if file.read(1) == b"\n" else b"\n" + data
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        sync_directory(self._root)


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "no ordinary file", str(path))
    return status.st_mtime_ns, status.st_ino, status.st_size


def _lines_of_old_catalog(path: Path) -> list[_Line]:
    """Raises sqlite3.Error where it is damaged, or held. The file is empty where SQLite could never lock it."""
    if not path.is_file() or not path.stat().st_size:
        return []
    is_writable = os.access(path.parent, os.W_OK)
    # Immutable: in a read-only directory SQLite could not make the files that it reads with.
    uri = f"{path.resolve().as_uri()}?{'mode=rw' if is_writable else 'immutable=1'}"
    measured_at = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    lines: list[_Line] = []
    with closing(sqlite3.connect(uri, uri=True, timeout=1)) as connection:
        connection.row_factory = sqlite3.Row
        tables = {row["name"] for row in connection.execute("SELECT name FROM sqlite_master")}
        if "latency" in tables:
            lines += (_LatencyLine(**row) for row in _rows(connection, "SELECT * FROM latency"))
        if "calibration" in tables:
            for row in _rows(connection, "SELECT calibration FROM calibration"):
                calibration = Calibration.model_validate_json(row["calibration"])
                lines.append(_CalibrationLine(measured_at=measured_at, calibration=calibration))
    return lines


def _rows(connection: sqlite3.Connection, query: str) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(query)]


class Measurements:
    """Those of several directories together, the first of which takes new ones."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._files = [MeasurementsFile(root) for root in roots]
        self._read: list[list[_Line]] = []
        self._latencies: dict[tuple[str, str], float] = {}
        self._calibrations: dict[str, Calibration] = {}

    def carry_over(self) -> None:
        """Takes over what catalogs of earlier versions kept."""
        for file in self._files:
            file.carry_over()

    def latencies(self, device: str) -> dict[str, float]:
        """Median milliseconds by digest."""
        self._follow()
        return {digest: ms for (digest, where), ms in self._latencies.items() if where == device}

    def calibrations(self) -> list[Calibration]:
        """The latest of each data set."""
        self._follow()
        return list(self._calibrations.values())

    def _follow(self) -> None:
        # The first directory last: it counts where two were measured at one time.
        found = [file.lines() for file in reversed(self._files)]
        if len(found) == len(self._read) and all(map(operator.is_, found, self._read)):
            return
        self._read = found
        lines = [line for lines in found for line in lines if not isinstance(line, _CarriedOverLine)]
        lines.sort(key=lambda line: line.measured_at)
        self._latencies = {
            (line.digest, line.device): line.median_ms for line in lines if isinstance(line, _LatencyLine)
        }
        self._calibrations = {
            line.calibration.dataset: line.calibration for line in lines if isinstance(line, _CalibrationLine)
        }

    def record_latencies(self, latencies: Iterable[Latency]) -> None:
        """Raises OSError where the first directory cannot be written to."""
        self._files[0].record_latencies(latencies)

    def record_calibration(self, calibration: Calibration) -> None:
        """In place of the data set's cascades so far. As `record_latencies`."""
        self._files[0].record_calibration(calibration)
