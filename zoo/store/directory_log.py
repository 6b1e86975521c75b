"""The annotation log of one directory, annotations.jsonl: appended to, and a damaged line loses that line only.

It keeps room for some more lines where the file system can (Linux's fallocate), so that on a full disk checkpoints can
still be deleted. The room lies beyond the file's end: nobody who reads the file sees it.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from zoo.errors import AnnotationsError
from zoo.store.directory import sync_directory
from zoo.store.entries import Entry, as_lines, parsed
from zoo.store.locks import locked

log = logging.getLogger(__name__)

Stamp = tuple[int, int, int] | None

# Of lines that say that a checkpoint is deleted: 300.
_RESERVED_BYTES = 64 * 1024
_FALLOC_FL_KEEP_SIZE = 1


class DirectoryLog:
    """An AnnotationLog. Raises OSError where the directory cannot be written to."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / "annotations.jsonl"
        # Around what is kept of the file; never held while it is written.
        self._reading = threading.Lock()
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
        with self._reading:
            try:
                stamp = stamp_of(self._path)
                if stamp != self._read_at and (stamp or self._root.is_dir()):
                    found = self._read_on(self._path.read_bytes() if stamp else b"")
                    self._entries = sorted(found, key=lambda entry: entry.time)
                    self._read_at = stamp
            except OSError as error:
                if strict:
                    raise AnnotationsError(f"{self._path} cannot be read: {error.strerror}") from error
                self._say(f"{self._path} cannot be read ({error.strerror}): as it was when it could")
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
                damage = f"{self._path}: line {number} is no annotation"
                self._damage_of_lines = self._damage_of_lines or damage
                self._say(f"{damage}, and left out")
        self._lines, self.damage = data[: len(data) - len(torn)], self._damage_of_lines
        try:
            return [*self._of_lines, *parsed(torn)]
        except ValidationError:
            self.damage = self.damage or f"{self._path}: line {before + len(lines) + 1} is no annotation"
            return [*self._of_lines]

    def _say(self, what: str) -> None:
        if what != self._said:
            self._said = what
            log.warning("%s", what)

    @contextmanager
    def changing(self) -> Iterator[None]:
        with locked(self._root):
            with suppress(OSError), self._path.open("ab", buffering=0) as file:
                _reserve(file.fileno(), file.tell())
            yield

    def append(self, entries: Sequence[Entry], seen: list[Entry]) -> None:  # noqa: ARG002 - the lock is held since
        """A last line that was torn stays apart from them."""
        data = as_lines(entries)
        with self._path.open("ab+", buffering=0) as file:
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
        sync_directory(self._root)


def _reserve(file: int, start: int) -> None:
    """Room for what is appended next, if there is any."""
    with suppress(AttributeError):  # another system's C library
        ctypes.CDLL(None).fallocate(
            file, _FALLOC_FL_KEEP_SIZE, ctypes.c_longlong(start), ctypes.c_longlong(_RESERVED_BYTES)
        )


def stamp_of(path: Path) -> Stamp:
    """Changes whenever the file does; None where there is no file. Raises OSError."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "no ordinary file", str(path))
    return status.st_mtime_ns, status.st_ino, status.st_size
