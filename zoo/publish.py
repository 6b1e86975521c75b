"""Taking checkpoints in: the file first and the row second, so that a row never points at nothing.

Bytes arrive in `.incoming`, named by their SHA-256, and are moved to where checkpoints lie once they are found to be
one. What is refused leaves nothing behind; what a crash leaves, `zoo gc` sweeps.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy.exc import OperationalError

from zoo.catalog import CheckpointRow
from zoo.checkpoint import Checkpoint, load
from zoo.cost import num_params
from zoo.errors import CheckpointError, NoSpaceError, NotFoundError
from zoo.graph import output_shapes
from zoo.local import LocalZoo
from zoo.locks import locked
from zoo.marks import MarksFile
from zoo.storage import Directory, move_into_place

_INCOMING = ".incoming"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MAX_ACTIVATION_BYTES = 256 * 1024 * 1024
# What a writer that was killed leaves behind.
_TEMPORARY = re.compile(r"\.[0-9a-f]{64}\.safetensors\.[0-9a-f]{16}\.tmp")
# An upload may still be going on, or its checkpoint be about to be published.
_KEPT_SECONDS = 24 * 60 * 60


class Upload:
    """Bytes on their way in, as a context; after it nothing is left of them but what was kept."""

    def __init__(self, root: Path) -> None:
        self._folder = root / _INCOMING
        self._path = self._folder / f"{secrets.token_hex(16)}.tmp"
        self._sha256 = hashlib.sha256()

    def __enter__(self) -> Self:
        with no_space_is_ours():
            self._folder.mkdir(exist_ok=True)
            self._file = self._path.open("xb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # a buffer that finds no room; whoever wrote to it has been told
            self._file.close()
        self._path.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Raises NoSpaceError."""
        self._sha256.update(data)
        with no_space_is_ours():
            self._file.write(data)

    def keep(self, digest: str) -> None:
        """For `publish`. Raises CheckpointError where the bytes are not those of the digest, NoSpaceError."""
        found = self._sha256.hexdigest()
        if found != digest:
            raise CheckpointError(f"the bytes have SHA-256 {found}, not {digest}: another file, or damaged on the way")
        with no_space_is_ours():
            self._file.flush()
            os.fsync(self._file.fileno())
            move_into_place(self._path, self._folder / digest)


def publish(zoo: LocalZoo, root: Path, digest: str) -> tuple[CheckpointRow, bool]:
    """The row of the checkpoint that was uploaded to `root`, and whether it is new.

    Raises CheckpointError where the bytes are not a whole and valid one, NotFoundError where none were uploaded.
    """
    folder = root / _INCOMING
    folder.mkdir(exist_ok=True)
    with locked(folder):
        return _publish(zoo, folder / digest, _place(zoo, root, digest), digest)


def _place(zoo: LocalZoo, root: Path, digest: str) -> Path:
    """Where its file is in this directory, damaged perhaps; else where one belongs."""
    path = zoo.paths().get(digest)
    return path if path is not None and path.is_relative_to(root) else Directory(root).usual_path(digest)


def _publish(zoo: LocalZoo, blob: Path, target: Path, digest: str) -> tuple[CheckpointRow, bool]:
    with suppress(NotFoundError, CheckpointError):  # a file that is gone or damaged is replaced by the blob
        row = zoo.find(digest)
        if blob.exists():
            zoo.load(digest)
            blob.unlink(missing_ok=True)
        return row, False
    # Without a blob, the file may still be there of a checkpoint that was deleted.
    source = blob if blob.exists() else target
    if not source.exists():
        raise NotFoundError(f"no bytes with SHA-256 {digest} were uploaded: PUT them to /blobs/sha256:{digest} first")
    try:
        _check(load(source))
        with no_space_is_ours():
            move_into_place(source, target)
            return zoo.admit(digest, target), True
    except BaseException:
        source.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
        raise


def _check(checkpoint: Checkpoint) -> None:
    """What the file says of its size must be so, and a server must be able to run it.

    That its tensors are those of its architecture is known.
    """
    expansions = checkpoint.descriptor.lineage.expansions
    graph = checkpoint.descriptor.architecture.graph()
    params = num_params(graph)
    if expansions and expansions[-1].params_after != params:
        raise CheckpointError(
            f"the network has {params} parameters, its last expansion says {expansions[-1].params_after}"
        )
    # Few weights can go with a large image: 4096 × 4096 pixels are possible.
    largest = 4 * max(prod(shape) for shape in output_shapes(graph).values())
    if largest > _MAX_ACTIVATION_BYTES:
        raise CheckpointError(
            f"one layer's output takes {largest:,} bytes for an image, at most {_MAX_ACTIVATION_BYTES:,} are run"
        )


@contextmanager
def no_space_is_ours() -> Iterator[None]:
    """A full disk or quota becomes NoSpaceError."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise NoSpaceError(f"no space for the checkpoint: {error.strerror}") from error
        raise
    except OperationalError as error:
        if isinstance(error.orig, sqlite3.Error) and error.orig.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise NoSpaceError(f"no space for the catalog: {error.orig}") from error
        raise


@dataclass(frozen=True, slots=True)
class Garbage:
    path: Path
    size_bytes: int
    reason: str


def garbage(roots: Sequence[Path]) -> Iterator[Garbage]:
    """Files of deleted checkpoints, and what unfinished writes and uploads have left for a day."""
    deleted = {digest for root in roots for digest in MarksFile(root).read().deleted}
    for root in roots:
        for digest, path in Directory(root).paths():
            if digest in deleted and (status := _status(path)):
                yield Garbage(path, status.st_size, "deleted")
        for path in sorted({*root.rglob(".*.tmp"), *root.glob(f"{_INCOMING}/*")}):
            is_ours = path.parent.name == _INCOMING or _TEMPORARY.fullmatch(path.name)
            if is_ours and (status := _status(path)) and time.time() - status.st_mtime > _KEPT_SECONDS:
                yield Garbage(path, status.st_size, "left behind")


def _status(path: Path) -> os.stat_result | None:
    """None where it is gone: uploads end meanwhile."""
    with suppress(FileNotFoundError):
        return path.stat()
    return None


def collect(roots: Sequence[Path]) -> list[Garbage]:
    """Deletes the garbage and returns what it was; nothing is published meanwhile, which brings deleted files back."""
    with ExitStack() as locks:
        # In one order, whatever that of the roots: two that lock each other's next would wait for ever.
        for root in sorted({root.resolve() for root in roots}):
            folder = root / _INCOMING
            if os.access(root, os.W_OK):
                folder.mkdir(exist_ok=True)
            if folder.is_dir():  # else nobody can publish there
                locks.enter_context(locked(folder))
        found = list(garbage(roots))
        for item in found:
            item.path.unlink(missing_ok=True)
    return found
