"""Advisory file locks (flock), which the kernel lets go of with the process that holds them, however it ends.

Some file systems have none: Lustre without `-o flock`, NFS without lockd, some of FUSE. What is written atomically is
safe there too, so the work goes on without the lock, and says so once.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
# struct flock: type, whence, start, length (0: to the end), process.
_FLOCK = "hhqqi"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """An exclusive lock on a directory, across threads and processes; waits for it."""
    opened = os.open(directory, os.O_RDONLY)
    try:
        _flock(opened, fcntl.LOCK_EX, directory)
        yield
    finally:
        os.close(opened)


def lock(file: BinaryIO, path: Path) -> None:
    """Locks the file until it is closed. Raises BlockingIOError where another process holds it."""
    _flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, path)
    # flock cannot be asked for without being taken, and whoever takes it to see is in the way of the next to start.
    with suppress(OSError):
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))


def is_locked(path: Path) -> bool:
    """Whether a process on this machine holds `lock`. Takes no lock itself. Raises OSError."""
    with path.open("rb") as file:
        try:
            found = fcntl.fcntl(file, fcntl.F_OFD_GETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        except OSError:
            return False
    return bool(struct.unpack(_FLOCK, found)[0] != fcntl.F_UNLCK)


def _flock(opened: int, operation: int, path: Path) -> None:
    try:
        fcntl.flock(opened, operation)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        _say_unsupported(path, os.strerror(error.errno))


@cache
def _say_unsupported(path: Path, reason: str) -> None:
    log.warning("%s: its file system has no locks (%s); going on without", path, reason)
