"""An append-only log in JSON lines: a damaged line loses that line only.

It keeps room for some more lines where the file system can (Linux's fallocate), so that on a full disk checkpoints can
still be deleted. The room lies beyond the file's end: nobody who reads the file sees it.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ValidationError

from zoo.errors import AnnotationsError
from zoo.store.directory import sync_directory
from zoo.store.entries import KINDS, KNOWN, Entry

log = logging.getLogger(__name__)

Stamp = tuple[int, int, int] | None

# Of lines that say that a checkpoint is deleted: 300.
_RESERVED_BYTES = 64 * 1024
_FALLOC_FL_KEEP_SIZE = 1


class _Kind(BaseModel):
    kind: str


class Journal:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_at: Stamp = None
        self._entries: list[Entry] = []
        self._said: str | None = None
        # The lines that have been read, what they say, and which of them is the first that says nothing.
        self._lines = b""
        self._of_lines: list[Entry] = []
        self._damage_of_lines = ""
        # Likewise, or the last one that was torn: something may have been said there that counts no longer.
        self.damage = ""

    def entries(self, *, strict: bool = False) -> list[Entry]:
        """In the order of the file; the same list until that changes. As they were where it cannot be read.

        Raises AnnotationsError for that if `strict`: before what depends on all of them is done.
        """
        try:
            stamp = stamp_of(self.path)
            if stamp != self._read_at and (stamp or self.path.parent.is_dir()):
                self._entries = self._read_on(self.path.read_bytes() if stamp else b"")
                self._read_at = stamp
        except OSError as error:
            if strict:
                raise AnnotationsError(f"{self.path} cannot be read: {error.strerror}") from error
            self._say(f"{self.path} cannot be read ({error.strerror}): as it was when it could")
        return self._entries

    def _read_on(self, data: bytes) -> list[Entry]:
        """Parses what has been appended; all of it where lines are others than before: somebody has repaired one.

        A last line that is still being written, or whose writer was killed, is left out.
        """
        if not data.startswith(self._lines):
            self._lines, self._of_lines, self._damage_of_lines = b"", [], ""
        *lines, torn = data[len(self._lines) :].split(b"\n")
        before = self._lines.count(b"\n")
        for number, line in enumerate(lines, before + 1):
            try:
                self._of_lines += parsed(line)
            except ValidationError:
                damage = f"{self.path}: line {number} is no annotation"
                self._damage_of_lines = self._damage_of_lines or damage
                self._say(f"{damage}, and left out")
        self._lines, self.damage = data[: len(data) - len(torn)], self._damage_of_lines
        try:
            return [*self._of_lines, *parsed(torn)]
        except ValidationError:
            self.damage = self.damage or f"{self.path}: line {before + len(lines) + 1} is no annotation"
            return [*self._of_lines]

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
                _reserve(file.fileno(), size)
                raise
        sync_directory(self.path.parent)

    def reserve(self) -> None:
        """Room for what is appended next, if there is any."""
        with suppress(OSError), self.path.open("ab", buffering=0) as file:
            _reserve(file.fileno(), file.tell())


def _reserve(file: int, start: int) -> None:
    with suppress(AttributeError):  # another system's C library
        ctypes.CDLL(None).fallocate(
            file, _FALLOC_FL_KEEP_SIZE, ctypes.c_longlong(start), ctypes.c_longlong(_RESERVED_BYTES)
        )


def parsed(line: bytes) -> list[Entry]:
    """The entry of a line; [] for an empty line or an unknown kind. Raises ValidationError."""
    return [KNOWN.validate_json(line)] if line and _Kind.model_validate_json(line).kind in KINDS else []


def stamp_of(path: Path) -> Stamp:
    """Changes whenever the file does; None where there is no file. Raises OSError."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "no ordinary file", str(path))
    return status.st_mtime_ns, status.st_ino, status.st_size
