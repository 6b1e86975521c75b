"""Where checkpoint files live: a directory. Every `<sha256>.safetensors` below it is a checkpoint."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from zoo.errors import NotFoundError, ZooError

# Where uploads arrive; its lock is held while one is put in place, and while garbage is collected.
INCOMING = ".incoming"
_SUFFIX = ".safetensors"
_DIGEST = re.compile(r"[0-9a-f]{64}")
# Whatever else is there: a directory that holds one of these is a zoo.
_SIGNS = ("checkpoints", "runs", "catalog*.sqlite", "annotations.jsonl", "cascades.json", ".incoming")
# What a new file system, or a desktop that has looked at a directory, leaves in it.
_NOTHING = ("lost+found",)
# A full disk, a quota, a limit on the size of files.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_DIRECTORY_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)


@dataclass(slots=True)
class Listing:
    """What a recursive walk through a directory found."""

    # Ordinary files and links to such, also to one that is gone.
    files: list[Path] = field(default_factory=list)
    # Pipes, devices, sockets: to open one can take for ever.
    special: list[Path] = field(default_factory=list)
    # Each directory that was listed, with the device that it is on.
    devices: dict[Path, int] = field(default_factory=dict)
    # Each directory that could not be, and why.
    unlisted: dict[Path, OSError] = field(default_factory=dict)


def walk(root: Path) -> Listing:
    """Walks a directory recursively, each directory once. Follows links to directories, except to parents of `root`."""
    listing, seen = Listing(), _identities(root.resolve().parents)
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            listing.unlisted[folder] = error
            continue
        seen.add((status.st_dev, status.st_ino))
        listing.devices[folder] = status.st_dev
        links = []
        for entry in entries:
            path = folder / entry.name
            if entry.name in _NOTHING:
                continue
            if not _is_directory(entry):
                (listing.files if _is_ordinary(entry) else listing.special).append(path)
            elif entry.is_symlink():
                links.append(path)
            else:
                waiting.append(path)
        # Looked at last, so that a directory keeps its own name where it is also linked from elsewhere.
        waiting[:0] = links
    return listing


def _identities(folders: Iterable[Path]) -> set[tuple[int, int]]:
    found = set()
    for folder in folders:
        with suppress(OSError):
            status = folder.stat()
            found.add((status.st_dev, status.st_ino))
    return found


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle of links, or to where nobody may look: what opens it says so
        return False


def _is_ordinary(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())
    except OSError:
        return True


def is_zoo(root: Path) -> bool:
    """Whether the directory is a zoo or empty, and not somebody's folder of other files."""
    if any(next(root.glob(sign), None) for sign in _SIGNS):
        return True
    names = [path.name for path in root.iterdir()]
    if all(name.startswith(".") or name in _NOTHING for name in names):
        return True
    return next(Directory(root).paths(), None) is not None


def require_zoo(root: Path) -> None:
    """Raises ZooError where the directory is not there, or is somebody's folder of other things."""
    if not root.is_dir():
        raise ZooError(f"{root}: no such zoo directory")
    if not is_zoo(root):
        raise ZooError(
            f"no zoo here: {root} holds other files and no checkpoint; a new zoo starts in an empty directory"
        )


class Directory:
    """One directory of checkpoint files: immutable, named by the SHA-256 of their bytes, written atomically.

    digest = Directory(Path("my-zoo")).put(encode(checkpoint))  # raises OSError
    Directory(Path("my-zoo")).path(digest)  # raises NotFoundError
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, data: bytes, scratch: Path | None = None) -> str:
        """Stores the bytes and returns their digest; storing them again changes nothing.

        `scratch`, on the same file system, is where a write that is killed leaves its temporary file.
        """
        digest = hashlib.sha256(data).hexdigest()
        path = self.usual_path(digest)
        if not path.exists():
            write_atomically(path, data, scratch)
        return digest

    def usual_path(self, digest: str) -> Path:
        """The path that `put` writes to."""
        return self.root / "checkpoints" / f"{digest}{_SUFFIX}"

    def paths(self) -> Iterator[tuple[str, Path]]:
        """(digest, path) of every checkpoint, wherever below the root it lies."""
        yield from checkpoints(walk(self.root))

    def path(self, digest: str) -> Path:
        """Raises NotFoundError."""
        usual = self.usual_path(digest)
        if usual.is_file():
            return usual
        for found, path in self.paths():
            if found == digest:
                return path
        raise NotFoundError(f"{self.root} holds no checkpoint {digest}")


def checkpoints(listing: Listing) -> Iterator[tuple[str, Path]]:
    """(digest, path) of files named `<sha256>.safetensors`."""
    for path in listing.files:
        if is_named_by_digest(path):
            yield path.stem, path


def is_named_by_digest(path: Path) -> bool:
    return path.suffix == _SUFFIX and _DIGEST.fullmatch(path.stem) is not None


# --- writing ---------------------------------------------------------------------------------------------


def is_special(path: Path) -> bool:
    """Whether it is a device, pipe or terminal, which is written to and never replaced."""
    return path.exists() and not path.is_file() and not path.is_dir()


def end_of_link(path: Path) -> Path:
    """The ordinary file that a link leads to: that is to be replaced, not the link."""
    return path.resolve() if path.is_symlink() and path.is_file() else path


def write_atomically(path: Path, data: bytes, scratch: Path | None = None) -> None:
    """Atomic and durable: the file has the old content or the new, also after a crash or power cut.

    A link's target is replaced, not the link. A device or pipe is written to.
    """
    if is_special(path):
        with naming(path), path.open("wb") as special:
            special.write(data)
        return
    path = end_of_link(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _replacing(path, _scratch(path, scratch)) as file:
        file.write(data)


@contextmanager
def _replacing(path: Path, folder: Path) -> Iterator[BinaryIO]:
    """A temporary file in the folder, which then becomes the one at the path, or nothing."""
    temporary = folder / f".{path.name}.{secrets.token_hex(8)}.tmp"
    try:
        with naming(path), temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        move_into_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def naming(path: object) -> Iterator[None]:
    """Has an error of writing, such as of a full disk, say where: the system says it of opening alone."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def _scratch(path: Path, scratch: Path | None) -> Path:
    """Beside the file, where `scratch` is on another file system: only within one is a rename atomic."""
    is_near = scratch is not None and scratch.stat().st_dev == path.parent.stat().st_dev
    return scratch if scratch is not None and is_near else path.parent


def move_into_place(source: Path, target: Path) -> None:
    """Atomic; a power cut afterwards does not undo it. Between file systems by way of a copy beside the target."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with source.open("rb") as reading, _replacing(target, target.parent) as writing:
            shutil.copyfileobj(reading, writing)
        source.unlink()
    sync_directory(target.parent)


def sync_directory(directory: Path) -> None:
    """fsync of a directory: makes renames in it durable, where the file system supports that."""
    opened = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(opened)
