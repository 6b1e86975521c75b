"""A download on its way to disk: resumable, verified, and in place whole or not at all.

    .<start of the SHA-256>.<random>.part     beside its target; written by the process that made it, and no other

One file, one writer, without any lock: where locks do nothing (Lustre, some of NFS) two that share a file would each
find their own bytes right, and leave others on disk. What an earlier process left is copied, not written on. A
lock, where there are any, only tells who is still at work on theirs.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from zoo.store.directory import is_special, move_into_place


class PartialFile:
    """The first `size` bytes of a file."""

    def __init__(self, path: Path, file: BufferedRandom) -> None:
        """`file` is open for reading and appending, and of this object alone."""
        self.path = path
        self._file = file
        self.size = file.seek(0, os.SEEK_END)

    @property
    def sha256(self) -> str:
        """Of what is on disk."""
        self._file.seek(0)
        return hashlib.file_digest(self._file, "sha256").hexdigest()

    def read(self) -> bytes:
        self._file.seek(0)
        return self._file.read()

    def append(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._file.flush()  # so that nothing is lost with a process that is killed
        self.size += len(chunk)

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self.size = 0

    def move_to(self, target: Path) -> None:
        """Moves the finished file into place, atomic and durable. A device or pipe is written to."""
        if is_special(target):
            with target.open("wb") as special:
                self._copy_to(special)
            return
        os.fsync(self._file.fileno())
        if not self.path.exists():
            # Another process took it for one that was left behind, as no lock told it better.
            with self.path.open("xb") as file:
                self._copy_to(file)
                os.fsync(file.fileno())
        move_into_place(self.path, target)

    def _copy_to(self, other: BinaryIO) -> None:
        self._file.seek(0)
        shutil.copyfileobj(self._file, other)
        other.flush()


@contextmanager
def partial_file(target: Path, sha256: str) -> Iterator[PartialFile]:
    """Resumes an interrupted download beside its target, or starts a new one; kept for the next try if it fails.

    Raises OSError where the target cannot be written.
    """
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if is_special(target):
        with TemporaryDirectory() as folder, _new(Path(folder), sha256) as partial:
            yield partial
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with _new(target.parent, sha256) as partial:
        try:
            yield partial
        finally:
            # Another process may have been faster: what is left of this one's would help nobody.
            if partial.path.exists() and has_sha256(target, sha256):
                partial.path.unlink(missing_ok=True)


@contextmanager
def _new(folder: Path, sha256: str) -> Iterator[PartialFile]:
    left_behind = [path for path in folder.glob(f".{sha256[:16]}.*.part") if not _is_at_work(path)]
    path = folder / f".{sha256[:16]}.{secrets.token_hex(8)}.part"
    with path.open("xb+") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            _take_over(left_behind, file)
            partial = PartialFile(path, file)
            yield partial
        finally:
            if not os.fstat(file.fileno()).st_size:
                path.unlink(missing_ok=True)


def _take_over(left_behind: list[Path], file: BinaryIO) -> None:
    """Copies the longest partial file, then removes all of them."""
    sizes = {}
    for path in left_behind:
        with suppress(OSError):  # gone by now
            sizes[path] = path.stat().st_size
    if any(sizes.values()):
        with suppress(FileNotFoundError), max(sizes, key=sizes.__getitem__).open("rb") as longest:
            shutil.copyfileobj(longest, file)
            file.flush()
    for path in sizes:
        with suppress(OSError):
            path.unlink()


def _is_at_work(path: Path) -> bool:
    """Whether a process holds the file's lock; without locks nobody does."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def has_sha256(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256
