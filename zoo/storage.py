"""Where checkpoint files live: a directory. Every `<sha256>.safetensors` below it is a checkpoint."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zoo.checkpoint import digest_of
from zoo.errors import NotFoundError

_SUFFIX = ".safetensors"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Directory:
    """Files are immutable, named by the SHA-256 of their bytes, and appear whole or not at all."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, data: bytes, scratch: Path | None = None) -> str:
        """Stores the bytes and returns their digest; storing them again changes nothing.

        `scratch`, on the same file system, is where a write that is killed leaves its temporary file.
        """
        digest = digest_of(data)
        path = self.usual_path(digest)
        if not path.exists():
            write_atomically(path, data, scratch)
        return digest

    def usual_path(self, digest: str) -> Path:
        """Where `put` puts it."""
        return self.root / "checkpoints" / f"{digest}{_SUFFIX}"

    def paths(self) -> Iterator[tuple[str, Path]]:
        """(digest, path) of every checkpoint, wherever below the root it lies."""
        for path in self.root.rglob(f"*{_SUFFIX}"):
            if _DIGEST.fullmatch(path.stem):
                yield path.stem, path

    def path(self, digest: str) -> Path:
        """Raises NotFoundError."""
        usual = self.usual_path(digest)
        if usual.exists():
            return usual
        for found, path in self.paths():
            if found == digest:
                return path
        raise NotFoundError(f"{self.root} holds no checkpoint {digest}")


def write_atomically(path: Path, data: bytes, scratch: Path | None = None) -> None:
    """After this the file has the new content even through a power cut; before, the old or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = (scratch or path.parent) / f".{path.name}.{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        move_into_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def move_into_place(source: Path, target: Path) -> None:
    """On one file system; a power cut afterwards does not undo it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One thread at a time, of all processes that ask for it."""
    opened = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)
