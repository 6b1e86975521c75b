"""What earlier versions wrote beside the checkpoints, and may still write while this one is at work.

    marks.json            aliases, deprecation, staging, deletion, accuracies; replaced as a whole
    measurements.jsonl    latencies and cascades; appended to as annotations.jsonl is
    catalog*.sqlite       of version 0.1, latencies and cascades too

They are read and never written, so that two versions at work on one directory destroy nothing of each other's.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from zoo.choosing.cascade import Calibration
from zoo.errors import AnnotationsError
from zoo.store.entries import CalibrationEntry, CarriedOverEntry, Entry, LatencyEntry, Marks, MarksEntry
from zoo.store.journal import Stamp, stamp_of

log = logging.getLogger(__name__)

# `catalog.sqlite`, or with a hash of the other directories.
_OLD_CATALOGS = ("catalog.sqlite", f"catalog-{'[0-9a-f]' * 8}.sqlite")
_OF_TABLE = {"latency": "SELECT * FROM latency", "calibration": "SELECT calibration FROM calibration"}


class MarksFile:
    """The current marks.json; where it cannot be read, its last readable content."""

    def __init__(self, root: Path) -> None:
        self._path = root / "marks.json"
        self._read_at: Stamp = None
        self._last: MarksEntry | None = None
        self._damage = ""

    def entry(self, *, strict: bool = False) -> MarksEntry | None:
        """None where there is none. The same until it changes. Raises AnnotationsError, if `strict`."""
        try:
            stamp = stamp_of(self._path)
            if stamp is not None and stamp != self._read_at:
                time = datetime.fromtimestamp(stamp[0] / 1e9, UTC).isoformat(timespec="microseconds")
                self._last = MarksEntry(time=time, marks=Marks.model_validate_json(self._path.read_bytes()))
                self._read_at = stamp
        except (OSError, ValidationError) as error:
            self._tell(error, strict=strict)
        return self._last

    def _tell(self, error: OSError | ValidationError, *, strict: bool) -> None:
        if isinstance(error, OSError):
            damage = f"{self._path} cannot be read: {error.strerror}"
        else:
            first = error.errors(include_url=False)[0]
            damage = f"{self._path}: {'.'.join(map(str, first['loc'])) or 'all of it'}: {first['msg']}"
        if strict:
            raise AnnotationsError(damage) from error
        if damage != self._damage:
            self._damage = damage
            log.error("%s; it counts as it was before, and nothing is changed until it can be read", damage)


def expanded(entries: Iterable[Entry]) -> Iterator[Entry]:
    """With what was changed in marks.json, each time that it was read, in place of what it then said."""
    before = Marks()
    for entry in entries:
        if isinstance(entry, MarksEntry):
            yield from entry.marks.since(before, entry.time)
            before = entry.marks
        else:
            yield entry


def of_old_catalogs(root: Path, known: Iterable[Entry]) -> list[Entry]:
    """What catalogs of version 0.1 kept, with an entry for each that says so; without those that are `known`."""
    names = {entry.catalog for entry in known if isinstance(entry, CarriedOverEntry)}
    found: list[Entry] = []
    for path in sorted({path for name in _OLD_CATALOGS for path in root.glob(name)}):
        if path.name in names:
            continue
        try:
            found += _of_old_catalog(path)
        except sqlite3.Error as error:
            what = "latencies and cascades that an earlier version kept in it cannot be read"
            log.warning("%s: %s (%s)", path, what, error)
    return found


def _of_old_catalog(path: Path) -> list[Entry]:
    """With an entry that says so, if it kept anything; of rows that cannot be read the log tells.

    Raises sqlite3.Error where it is damaged, or held. The file is empty where SQLite could never lock it.
    """
    if not path.is_file() or not path.stat().st_size:
        return []
    is_writable = os.access(path.parent, os.W_OK)
    # Immutable: in a read-only directory SQLite could not make the files that it reads with.
    uri = f"{path.resolve().as_uri()}?{'mode=rw' if is_writable else 'immutable=1'}"
    measured_at = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    with closing(sqlite3.connect(uri, uri=True, timeout=1)) as connection:
        connection.row_factory = sqlite3.Row
        tables = {row["name"] for row in connection.execute("SELECT name FROM sqlite_master")}
        rows = [dict(row) for table in _OF_TABLE if table in tables for row in connection.execute(_OF_TABLE[table])]
    found: list[Entry] = []
    damage: list[str] = []
    for row in rows:
        try:
            if "calibration" in row:
                calibration = Calibration.model_validate_json(row["calibration"])
                found.append(CalibrationEntry(measured_at=measured_at, calibration=calibration))
            else:
                found.append(LatencyEntry(**row))
        except ValidationError as error:
            damage.append(f"{error.title}, {error.errors(include_url=False)[0]['msg']}")
    if found:
        log.info("%s: its latencies and cascades, %d in all, are annotations now", path, len(found))
    if damage:
        log.warning(
            "%s: %d of its %d latencies and cascades cannot be read, and are left out (%s)",
            path,
            len(damage),
            len(rows),
            damage[0],
        )
    return [*found, CarriedOverEntry(catalog=path.name)] if rows else []
