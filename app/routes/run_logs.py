"""What training runs keep beside their checkpoints: `<zoo>/**/runs/<name>/log.jsonl`, one JSON record a line.

`event` says what a record is: an epoch, a decision, a checkpoint, a lesson (an epoch of distillation), a distilled
checkpoint, or the end. A run that is resumed cuts its log back to where it goes on, so a log may get shorter.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from zoo.errors import NotFoundError, ZooError
from zoo.store.directory import walk
from zoo.store.locks import is_locked

_LOG = "log.jsonl"

Status = Literal["running", "stopped", "finished"]
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """A record, and where in the log the next one begins."""

    record: Record
    end: int


@dataclass(frozen=True, slots=True)
class Part:
    """The records from byte `start` of a log on."""

    start: int
    entries: tuple[Entry, ...]

    @property
    def end(self) -> int:
        return self.entries[-1].end if self.entries else self.start


class RunSummary(BaseModel):
    name: str = Field(examples=["cifar10-grow-s0"])
    status: Status = Field(description="Running: a process on this machine is at work on it.")
    epoch: int = Field(description="Of the trunk; a checkpoint's annealing does not count.")
    epochs: int = Field(description="That the run was planned for.")
    params: int
    val_accuracy: float | None = Field(description="Best of its checkpoints.")
    num_checkpoints: int
    num_expansions: int
    updated_at: datetime


def paths(roots: Sequence[Path]) -> dict[str, Path]:
    """Logs by the name of their run; of a name in several directories, the one in the first."""
    return {path.parent.name: path for root in reversed(roots) for path in sorted(walk(root).files) if _is_log(path)}


def _is_log(path: Path) -> bool:
    return path.name == _LOG and path.parent.parent.name == "runs"


def path_of(roots: Sequence[Path], name: str) -> Path:
    """Raises NotFoundError."""
    known = paths(roots)
    if name not in known:
        raise NotFoundError(f"no run is named {name}: the zoo has {', '.join(sorted(known)) or 'none'}")
    return known[name]


def read(path: Path, start: int = 0) -> Part:
    """The records from `start` on, without a last line that is still being written.

    Where no record begins at `start`, because the log has been cut back since, all of them. Raises ZooError for what
    is no record.
    """
    with path.open("rb") as file:
        start = start if start <= os.fstat(file.fileno()).st_size else 0
        file.seek(max(0, start - 1))
        if start > 0 and file.read(1) != b"\n":
            start = 0
            file.seek(0)
        data = file.read()
    entries, end = [], start
    for line in data.splitlines(keepends=True):
        if line.endswith(b"\n"):
            end += len(line)
            entries.append(Entry(_record(line, path, end), end))
    return Part(start, tuple(entries))


def _record(line: bytes, path: Path, end: int) -> Record:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not str(record.get("event")).isidentifier():
        raise ZooError(f"the log of run {path.parent.name} holds no record in the line that ends at byte {end}")
    return record


def summary(path: Path) -> RunSummary:
    """Raises ZooError for a damaged log."""
    status = path.stat()
    found = _summary(path, (status.st_mtime_ns, status.st_size))
    # One that has finished may still be teaching what it grew.
    if is_locked(path):
        return found.model_copy(update={"status": "running"})
    return found


@lru_cache(maxsize=1024)
def _summary(path: Path, stamp: tuple[int, int]) -> RunSummary:
    """Kept while the file's stamp, its time in nanoseconds and its size, stays the same."""
    of: dict[str, list[Record]] = {}
    for entry in read(path).entries:
        of.setdefault(entry.record["event"], []).append(entry.record)
    try:
        distilled = [record for record in of.get("distilled", []) if record["digest"] is not None]
        checkpoints = of.get("checkpoint", []) + distilled
        # A run that had to begin again with its last checkpoint decides once more; the later decision counts.
        decided = {record["epoch"]: len(record["chosen"]) for record in of.get("decision", [])}
        # Of a run that grew nothing, the network that was taught last.
        last_epoch = (of.get("epoch") or of.get("lesson") or [{"epoch": 0, "epochs": 0, "params": 0}])[-1]
        return RunSummary(
            name=path.parent.name,
            status="finished" if "finished" in of or "adapted" in of else "stopped",
            epoch=last_epoch["epoch"],
            epochs=last_epoch["epochs"],
            params=last_epoch["params"],
            val_accuracy=max((record["val_accuracy"] for record in checkpoints), default=None),
            num_checkpoints=len(checkpoints),
            num_expansions=sum(decided.values()),
            updated_at=datetime.fromtimestamp(stamp[0] / 1e9, UTC),
        )
    except (KeyError, TypeError, ValidationError) as error:
        raise ZooError(
            f"the log of run {path.parent.name} holds a record that is not as runs write it: {error}"
        ) from error
