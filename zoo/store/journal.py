"""A log of one JSON object a line, which is appended to and never changed: damage to a line costs that line only."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError

from zoo.errors import AnnotationsError
from zoo.store.directory import sync_directory
from zoo.store.entries import KINDS, KNOWN, Entry

log = logging.getLogger(__name__)

Stamp = tuple[int, int, int] | None


class _Kind(BaseModel):
    kind: str


class Journal:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_at: Stamp = None
        self._entries: list[Entry] = []
        self._said: str | None = None
        # The first line that is none, in words: something may have been said there that counts no longer.
        self.damage = ""

    def entries(self, *, strict: bool = False) -> list[Entry]:
        """In the order of the file; the same list until that changes. As they were where it cannot be read.

        Raises AnnotationsError for that if `strict`: before what depends on all of them is done.
        """
        try:
            stamp = stamp_of(self.path)
            if stamp != self._read_at and (stamp or self.path.parent.is_dir()):
                self._entries = self._parsed(self.path.read_bytes()) if stamp else []
                self._read_at = stamp
        except OSError as error:
            if strict:
                raise AnnotationsError(f"{self.path} cannot be read: {error.strerror}") from error
            self._say(f"{self.path} cannot be read ({error.strerror}): as it was when it could")
        return self._entries

    def _parsed(self, data: bytes) -> list[Entry]:
        """Without a last line that is still being written, or whose writer was killed."""
        entries: list[Entry] = []
        self.damage = ""
        lines = data.split(b"\n")
        for number, text in enumerate(lines, 1):
            try:
                if text and _Kind.model_validate_json(text).kind in KINDS:
                    entries.append(KNOWN.validate_json(text))
            except ValidationError:
                damage = f"{self.path}: line {number} is no annotation"
                self.damage = self.damage or damage
                if number < len(lines):
                    self._say(f"{damage}, and left out")
        return entries

    def _say(self, what: str) -> None:
        if what != self._said:
            self._said = what
            log.warning("%s", what)

    def append(self, entries: Sequence[Entry]) -> None:
        """All of them, or after a crash the first ones; a last line that was torn stays apart from them.

        Raises OSError. The caller holds the directory's lock.
        """
        data = b"".join(entry.model_dump_json().encode() + b"\n" for entry in entries)
        with self.path.open("ab+", buffering=0) as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                data = data if file.read(1) == b"\n" else b"\n" + data
            size = file.seek(0, os.SEEK_END)
            try:
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())
            except OSError:  # a full disk: nothing of it
                os.ftruncate(file.fileno(), size)
                raise
        sync_directory(self.path.parent)


def stamp_of(path: Path) -> Stamp:
    """Another one after each change; None where there is no file. Raises OSError."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "no ordinary file", str(path))
    return status.st_mtime_ns, status.st_ino, status.st_size
