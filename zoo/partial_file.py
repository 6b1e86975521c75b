"""A download on its way to disk: it can be gone on with after a crash, and it appears whole or not at all.

    .<name>.<start of the SHA-256>.part     beside its target; locked while someone writes it
    .<name>.<random>.part                   of whoever finds that one locked, so that nobody ever waits for anybody

The lock is the kernel's (flock), so that it ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_CHUNK = 1 << 20


class PartialFile:
    """The first `size` bytes of a file, and their SHA-256."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        """`file` is open for appending; what it holds already is read."""
        self.path = path
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0
        file.seek(0)
        while chunk := file.read(_CHUNK):
            self._count(chunk)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def append(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._file.flush()  # so that nothing is lost with a process that is killed
        self._count(chunk)

    def restart(self) -> None:
        self._file.truncate(0)
        self._hash = hashlib.sha256()
        self.size = 0

    def move_to(self, target: Path) -> None:
        """After this the target has these bytes even through a power cut."""
        os.fsync(self._file.fileno())
        self.path.replace(target)
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _count(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        self.size += len(chunk)


@contextmanager
def partial_file(target: Path, sha256: str) -> Iterator[PartialFile]:
    """What an interrupted download of these bytes left for this target, or a new file; kept for the next if it fails.

    Raises OSError where the target cannot be written.
    """
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    shared = target.parent / f".{target.name}.{sha256[:16]}.part"
    claimed = _claimed(shared)
    path = shared if claimed else target.parent / f".{target.name}.{secrets.token_hex(8)}.part"
    with claimed or path.open("xb+") as file:
        partial = PartialFile(path, file)
        try:
            yield partial
        finally:
            if not claimed or not partial.size:
                path.unlink(missing_ok=True)


def _claimed(path: Path) -> BinaryIO | None:
    """The file, locked for us; None where another has it, or where the file system knows no locks."""
    while True:
        file = path.open("ab+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
        if _is_at(path, file):
            return file
        # Between open and lock the one who had it moved it to its target: no longer ours to write.
        file.close()


def _is_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def has_sha256(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256
