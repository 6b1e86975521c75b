"""The annotations of a zoo: all logs of its store read together, changes appended in one step."""

from __future__ import annotations

import hashlib
import json
import operator
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from zoo.choosing.cascade import Calibration
from zoo.errors import AnnotationsError, ZooError
from zoo.store.entries import CalibrationEntry, Entry, Latency, LatencyEntry, Said, together
from zoo.store.store import AppendedMeanwhile, Store

# Given what is said, what to add.
Change = Callable[[Said], Sequence[Entry]]


class Annotations:
    """All annotations of a zoo: `said` is as of the last `read`. All methods may be called from any thread.

        annotations = Annotations(store)
        annotations.change(lambda said: said.flagged(digest, deprecated=True), "user ada")
        annotations.said.deprecated

    Entries go to the store's first log. One that takes something back also goes to each other log that says it, as that
    directory may be served alone.
    """

    def __init__(self, store: Store) -> None:
        self._logs = store.logs()
        # `said` is what is together in `_read`: both are set by one thread at a time.
        self._reading = threading.Lock()
        self._read: list[list[Entry]] = []
        self.said = Said()
        self.read()

    def reserve(self) -> None:
        """Room for changes to come, in a directory that may be full by then; where there is none, nothing happens."""
        with suppress(OSError, ZooError):
            self.change(lambda _: (), "")

    def read(self, *, strict: bool = False) -> bool:
        """Reads new entries; True if there are any. Raises AnnotationsError where a log cannot be read, if `strict`."""
        return self._latest(strict=strict)[-1]

    def require_whole(self) -> None:
        """Reads all logs before something irreversible is done.

        Raises AnnotationsError where a log cannot be read, or has a damaged line. `change` goes on after a damaged
        line, as one must not block every change.
        """
        self.read(strict=True)
        for each in self._logs:
            if each.damage:
                raise AnnotationsError(each.damage)

    def _latest(self, *, strict: bool = False) -> tuple[Said, list[Entry], bool]:
        """All annotations now, the first log's entries among them, and whether anything changed."""
        with self._reading:
            # The first log last: of two entries of one time its own counts.
            found = [each.entries(strict=strict) for each in reversed(self._logs)]
            if len(found) == len(self._read) and all(map(operator.is_, found, self._read)):
                return self.said, found[-1], False
            said = together(sorted((entry for entries in found for entry in entries), key=lambda entry: entry.time))
            before, self.said, self._read = self.said, said, found
            return said, found[-1], said != before

    def change(self, change: Change, actor: str) -> None:
        """Appends the entries that `change` returns, as one atomic read-modify-write across all processes.

        Raises what `change` raises, AnnotationsError where a log cannot be read, OSError or BusyError where the first
        cannot be written.
        """
        entries, taken_back_at = self._append(change, actor)
        for other in self._logs[1:] if entries else ():
            there = together(other.entries())
            ended = [each for entry in entries for each in there.taken_back_by(entry)]
            if ended:
                with suppress(OSError, ZooError, AppendedMeanwhile), other.changing():
                    taken_back = [each.model_copy(update={"time": taken_back_at, "actor": actor}) for each in ended]
                    other.append(taken_back, other.entries())
        self.read()

    def _append(self, change: Change, actor: str) -> tuple[list[Entry], str]:
        """The entries appended to the first log, and the time for those that take something back in other logs."""
        while True:
            try:
                with self._logs[0].changing():
                    said, seen, _ = self._latest(strict=True)
                    found = change(said)
                    # What is taken back elsewhere was said before, in whichever order the logs are read next.
                    taken_back_at, time = self._now()
                    entries = [entry.model_copy(update={"time": time, "actor": actor}) for entry in found]
                    if entries:
                        self._logs[0].append(entries, seen)
                    return entries, taken_back_at
            except AppendedMeanwhile:  # then `change` is to see what was appended
                continue

    def _now(self) -> tuple[str, str]:
        """Two times, both later than every entry, so that a wrong clock somewhere does not reorder changes."""
        now, step = datetime.now(UTC), timedelta(microseconds=1)
        last = max((entries[-1].time for entries in self._read if entries), default="")
        if last >= now.isoformat(timespec="microseconds"):
            now = datetime.fromisoformat(last).astimezone(UTC) + step
        return now.isoformat(timespec="microseconds"), (now + step).isoformat(timespec="microseconds")

    # --- measurements ----------------------------------------------------------------------------------

    def latencies(self, device: str) -> dict[str, float]:
        """Median milliseconds by digest."""
        return {digest: ms for (digest, where), ms in self.said.latencies.items() if where == device}

    def calibrations(self) -> list[Calibration]:
        return list(self.said.calibrations.values())

    def record_latencies(self, latencies: Iterable[Latency], actor: str = "") -> None:
        """Raises as `change`."""
        self.change(lambda _: [LatencyEntry(**latency.model_dump()) for latency in latencies], actor)

    def record_calibration(self, calibration: Calibration, actor: str = "") -> None:
        """Replaces the data set's cascades. Raises as `change`."""
        self.change(lambda _: [CalibrationEntry(calibration=calibration)], actor)


def tag(said: Said, digest: str) -> str:
    """The ETag of a checkpoint's annotations: changes with each of them, and changes back with it."""
    found = [sorted(said.aliases_of(digest)), *(digest in each for each in (said.deprecated, said.staged))]
    return f'"{hashlib.sha256(json.dumps([digest, found]).encode()).hexdigest()[:32]}"'
