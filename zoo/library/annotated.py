"""The annotations of several directories as those of one zoo: read together, changed in one step, never written over
where they cannot be read."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import reduce
from operator import or_
from pathlib import Path

from zoo.errors import AnnotationsError
from zoo.store.annotations import Marks, MarksFile, Stamp
from zoo.store.locks import locked

log = logging.getLogger(__name__)

Change = Callable[[Marks], Marks]


class Annotations:
    """Belongs to a LocalZoo. `marks` are as of the last `read`; all methods may be called from any thread."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._files = [MarksFile(root) for root in roots]
        # A file that cannot be read counts as it last could.
        self._last = [Marks() for _ in roots]
        self._damage: list[str | None] = [None for _ in roots]
        self._stamps: list[Stamp] = []
        self.marks = Marks()

    def read(self) -> None:
        """What is wrong with a file is logged once, not each time that it is read."""
        self._stamps = self._stamps_now()  # first: what is written meanwhile is read again
        for index, file in enumerate(self._files):
            if not file.root.is_dir():  # it is not there for the moment, and what was said in it counts on
                continue
            try:
                self._last[index] = file.read()
                self._damage[index] = None
            except AnnotationsError as error:
                if self._damage[index] != str(error):
                    self._damage[index] = str(error)
                    log.error("%s; it counts as it was before, and nothing is changed until it can be read", error)
        self.marks = reduce(or_, self._last)

    def changed_elsewhere(self) -> bool:
        """Whether another process has written since the last `read`. To see that takes no reading."""
        return self._stamps != self._stamps_now()

    def change(self, change: Change, forget: Change, check: Callable[[Marks], None] = lambda _: None) -> None:
        """`change` is for the first directory; what is no longer said must be in none, hence `forget` for the others.

        `check` sees all of them together, with the lock held. Raises what it and `change` raise, AnnotationsError
        where a file cannot be read, OSError where one cannot be written.
        """
        # A read-only one is left alone where it says nothing of this, and asked for no lock.
        others = [file for file in self._files[1:] if forget(found := file.read()) != found]
        with ExitStack() as locks:
            # In one order, whatever that of the directories: two that lock each other's next would wait for ever.
            for file in sorted({self._files[0], *others}, key=lambda file: str(file.root.resolve())):
                locks.enter_context(locked(file.root))
            check(reduce(or_, (file.read() for file in self._files)))
            before = self._files[0].read()
            after = change(before)
            # The others first: that one cannot be written to is then known before anything is changed.
            for file in others:
                file.write(forget(file.read()))
            if after != before:
                self._files[0].write(after)
        self.read()

    def _stamps_now(self) -> list[Stamp]:
        return [file.stamp() for file in self._files]


def state(marks: Marks, digest: str) -> str:
    """The ETag of what is said of one checkpoint: another one after each change, the same where it is taken back."""
    said = [sorted(marks.aliases_of(digest)), *(digest in each for each in (marks.deprecated, marks.staged))]
    return f'"{hashlib.sha256(json.dumps([digest, said]).encode()).hexdigest()[:32]}"'
