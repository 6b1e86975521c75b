"""The annotation log of one directory: annotations.jsonl, and the files of earlier versions."""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from zoo.store.earlier import MarksFile, expanded, of_old_catalogs
from zoo.store.entries import Entry, MarksEntry
from zoo.store.journal import Journal
from zoo.store.locks import locked


class DirectoryLog:
    """An AnnotationLog. Raises OSError where the directory cannot be written to."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._journal = Journal(root / "annotations.jsonl")
        self._earlier = Journal(root / "measurements.jsonl")
        self._marks = MarksFile(root)
        # Around what is kept of the files; never held while one is written.
        self._reading = threading.RLock()
        self._made_of: tuple[object, ...] = ()
        self._entries: list[Entry] = []
        # Of old catalogs in a directory that cannot be written to.
        self._carried_over: list[Entry] = []

    @property
    def damage(self) -> str:
        return self._journal.damage

    def entries(self, *, strict: bool = False) -> list[Entry]:
        """Sorted by time; the same list object until a file changes. Raises AnnotationsError, if `strict`."""
        with self._reading:
            parts = self._earlier.entries(strict=strict), self._journal.entries(strict=strict)
            made_of = (*parts, self._marks.entry(strict=strict), self._carried_over)
            if len(made_of) != len(self._made_of) or not all(map(operator.is_, made_of, self._made_of)):
                found = [*self._carried_over, *parts[0], *parts[1], *self._untaken()]
                self._entries = list(expanded(sorted(found, key=lambda entry: entry.at)))
                self._made_of = made_of
            return self._entries

    def _untaken(self) -> list[MarksEntry]:
        """The content of marks.json, where it differs from the copy in the journal."""
        with self._reading:
            now = self._marks.entry()
            taken = [entry for entry in self._journal.entries() if isinstance(entry, MarksEntry)]
            return [] if now is None or (taken and taken[-1].marks == now.marks) else [now]

    def append(self, entries: Sequence[Entry], seen: list[Entry]) -> None:  # noqa: ARG002 - the lock is held since
        """Copies a changed marks.json into the journal first, so that later changes there count as later."""
        self._journal.append([*self._untaken(), *entries])

    @contextmanager
    def changing(self) -> Iterator[None]:
        with locked(self._root):
            self._journal.reserve()
            yield

    def carry_over(self) -> None:
        """Copies measurements out of catalogs of version 0.1, once. Kept in memory in a read-only directory."""
        found = of_old_catalogs(self._root, self.entries())
        if not found:
            return
        try:
            with locked(self._root):
                self.append(found, [])
        except OSError:
            self._carried_over = found
