"""A log of finished distillations and their settings, in a run's directory: the same command again skips what is done.

A checkpoint names its teacher but not the batches or the learning rate, and the run's log is cut back to the end of
growth when the run is resumed; so there is a file beside it, with one line for each student.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer.config import RunConfig
from trainer.journal.records import DistilledRecord

# In a run's directory.
DISTILLED = "distilled.jsonl"


class Memory:
    """Students of earlier calls, also those that did not get better; an append-only file.

    The caller holds the run's lock.
    """

    def __init__(self, path: Path, config: RunConfig, **others: str | None) -> None:
        """`others`: settings that are not the configuration's; None is as if it were not there."""
        self._path = path
        self._settings: dict[str, Any] = {
            "epochs": config.distil_epochs,
            "batch_size": config.batch_size,
            "learning_rate": config.learning_rate,
            "temperature": config.distil_temperature,
            "weight": config.distil_weight,
            **{name: value for name, value in others.items() if value is not None},
        }

    def knows(self, digest: str) -> bool:
        """Whether the file came of a distillation in this log, with whatever settings."""
        return any(record.digest == digest for _, record in self._lines())

    def same(self) -> list[DistilledRecord]:
        """What came of distillations with the present settings, first to last."""
        return [record for settings, record in self._lines() if settings == self._settings]

    def add(self, record: DistilledRecord) -> None:
        line = json.dumps({"settings": self._settings, "record": asdict(record)})
        with self._path.open("ab") as file:
            file.write(f"{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())

    def _lines(self) -> list[tuple[dict[str, Any], DistilledRecord]]:
        if not self._path.exists():
            return []
        found = []
        for line in self._path.read_bytes().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # the last line, if the process was killed while it wrote it
                continue
            found.append((entry["settings"], DistilledRecord(**entry["record"])))
        return found
