"""The annotations of a zoo's directories: read together, appended to in one step."""

from __future__ import annotations

import hashlib
import json
import operator
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from zoo.choosing.cascade import Calibration
from zoo.errors import AnnotationsError
from zoo.store.earlier import MarksFile, expanded, of_old_catalogs
from zoo.store.entries import CalibrationEntry, Entry, Latency, LatencyEntry, MarksEntry, Said, together
from zoo.store.journal import Journal
from zoo.store.locks import locked

# Given what is said, what to add.
Change = Callable[[Said], Sequence[Entry]]


class _OfDirectory:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.journal = Journal(root / "annotations.jsonl")
        self._earlier = Journal(root / "measurements.jsonl")
        self._marks = MarksFile(root)
        # Around what is kept of the files; never held while one is written.
        self._reading = threading.RLock()
        self._made_of: tuple[object, ...] = ()
        self._entries: list[Entry] = []
        # Of old catalogs in a directory that cannot be written to.
        self.carried_over: list[Entry] = []

    def entries(self, *, strict: bool = False) -> list[Entry]:
        """By time; the same list until a file changes. Raises AnnotationsError, if `strict`."""
        with self._reading:
            parts = self._earlier.entries(strict=strict), self.journal.entries(strict=strict)
            made_of = (*parts, self._marks.entry(strict=strict), self.carried_over)
            if len(made_of) != len(self._made_of) or not all(map(operator.is_, made_of, self._made_of)):
                found = [*self.carried_over, *parts[0], *parts[1], *self.untaken()]
                self._entries = list(expanded(sorted(found, key=lambda entry: entry.at)))
                self._made_of = made_of
            return self._entries

    def untaken(self) -> list[MarksEntry]:
        """marks.json, where it says something else than when it was last taken down in the journal."""
        with self._reading:
            now = self._marks.entry()
            taken = [entry for entry in self.journal.entries() if isinstance(entry, MarksEntry)]
            return [] if now is None or (taken and taken[-1].marks == now.marks) else [now]

    def append(self, entries: Sequence[Entry]) -> None:
        """First what marks.json says by now: what is changed there later is then later than these."""
        self.journal.append([*self.untaken(), *entries])


class Annotations:
    """`said` is as of the last `read`, which writes nothing. All methods may be called from any thread.

    What is recorded goes to the first directory; what it takes back also to those others that say it, where they can be
    written to, as they may be served alone.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self._directories = [_OfDirectory(root) for root in roots]
        # `said` is what is together in `_read`: both are set by one thread at a time.
        self._reading = threading.Lock()
        self._read: list[list[Entry]] = []
        self.said = Said()
        self.read()

    def carry_over(self) -> None:
        """Takes down what catalogs of version 0.1 kept; once, and where it cannot be written as long as this lives."""
        for directory in self._directories:
            found = of_old_catalogs(directory.root, directory.entries())
            if not found:
                continue
            try:
                with locked(directory.root):
                    directory.append(found)
            except OSError:
                directory.carried_over = found
        self.read()

    def read(self, *, strict: bool = False) -> bool:
        """True if anything was added. Raises AnnotationsError where a file cannot be read, if `strict`."""
        return self._latest(strict=strict)[1]

    def require_whole(self) -> None:
        """Reads, before something is done that no later entry could mend.

        Raises AnnotationsError where a file cannot be read, or a line of what is said here: unlike `change`, for which
        a damaged line must not be the end.
        """
        self.read(strict=True)
        for directory in self._directories:
            if damage := directory.journal.damage:
                raise AnnotationsError(damage)

    def _latest(self, *, strict: bool = False) -> tuple[Said, bool]:
        """What is said by now, and whether that is new."""
        with self._reading:
            # The first directory last: of two entries of one time its own counts.
            found = [directory.entries(strict=strict) for directory in reversed(self._directories)]
            if len(found) == len(self._read) and all(map(operator.is_, found, self._read)):
                return self.said, False
            said = together(sorted((entry for entries in found for entry in entries), key=lambda entry: entry.at))
            before, self.said, self._read = self.said, said, found
            return said, said != before

    def change(self, change: Change, actor: str) -> None:
        """Records what `change` makes of what is said, of which nobody else changes anything meanwhile.

        Raises what it raises, AnnotationsError where a file cannot be read, OSError where one cannot be written.
        """
        first, *others = self._directories
        with locked(first.root):
            said, _ = self._latest(strict=True)
            found = change(said)
            if not found:
                return
            # What is taken back elsewhere was said before, in whichever order the directories are served next.
            taken_back_at, time = self._now()
            entries = [entry.model_copy(update={"time": time, "actor": actor}) for entry in found]
            first.append(entries)
        for other in others:
            there = together(other.entries())
            ended = [each for entry in entries for each in there.taken_back_by(entry)]
            taken_back = [entry.model_copy(update={"time": taken_back_at, "actor": actor}) for entry in ended]
            if taken_back and os.access(other.root, os.W_OK):
                with suppress(OSError), locked(other.root):
                    other.append(taken_back)
        self.read()

    def _now(self) -> tuple[str, str]:
        """Two times, the first later than all that is said: a clock that was wrong somewhere must decide nothing."""
        now, step = datetime.now(UTC), timedelta(microseconds=1)
        last = max((entries[-1].at for entries in self._read if entries), default="")
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
        """In place of the data set's cascades so far. Raises as `change`."""
        self.change(lambda _: [CalibrationEntry(calibration=calibration)], actor)


def tag(said: Said, digest: str) -> str:
    """The ETag of what is said of one checkpoint: another one after each change, the same where it is taken back."""
    found = [sorted(said.aliases_of(digest)), *(digest in each for each in (said.deprecated, said.staged))]
    return f'"{hashlib.sha256(json.dumps([digest, found]).encode()).hexdigest()[:32]}"'
