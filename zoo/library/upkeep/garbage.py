"""`zoo gc`: files of deleted checkpoints, and what writers that were killed have left.

It needs no catalog, so that it makes room where there is none left for one.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import AnnotationsError, BusyError, NotFoundError, ZooError
from zoo.library import audit
from zoo.library.members import Members
from zoo.store.annotations import Annotations
from zoo.store.directory import INCOMING, walk
from zoo.store.locks import locked
from zoo.store.store import Store

# What `write_atomically` leaves of a checkpoint when it is killed.
_TEMPORARY = re.compile(r"\.[0-9a-f]{64}\.safetensors\.[0-9a-f]{16}\.tmp")
# An upload may still be going on, or its checkpoint be about to be published.
_KEPT_SECONDS = 24 * 60 * 60


@dataclass(frozen=True, slots=True)
class Garbage:
    digest: str | None  # of a deleted checkpoint
    place: str
    size_bytes: int
    reason: str


def garbage(store: Store, roots: Sequence[Path]) -> Iterator[Garbage]:
    """Files of deleted checkpoints, and what unfinished writes and uploads have left in the directories for a day.

    Raises AnnotationsError where it cannot be known what is deleted.
    """
    annotations = Annotations(store)
    try:
        annotations.require_whole()
    except AnnotationsError as error:
        raise AnnotationsError(
            f"{error}: no file is deleted until that is repaired or removed: it may be what brought one back"
        ) from error
    for digest, reason in _deleted(store, annotations.said.deleted):
        with suppress(NotFoundError):
            stat = store.stat(digest)
            yield Garbage(digest, stat.place, stat.size_bytes, reason)
    for root in roots:
        for path in sorted(walk(root).files):
            is_ours = path.parent.name == INCOMING or _TEMPORARY.fullmatch(path.name)
            if is_ours and (status := _status(path)) and time.time() - status.st_mtime > _KEPT_SECONDS:
                yield Garbage(None, str(path), status.st_size, "left behind")


def _deleted(store: Store, deleted: Set[str]) -> Iterator[tuple[str, str]]:
    """Files of deleted checkpoints, and elastic files of which all levels are deleted."""
    members = Members(store)
    files = store.listing(()).digests
    for file in sorted(files if deleted else ()):
        if file in deleted:
            yield file, "deleted"
        elif (levels := members.levels_of(file)) and set(levels) <= deleted:
            yield file, "all levels deleted"


def damaged(store: Store) -> Iterator[ZooError | OSError]:
    """What is wrong with each file that is named as a checkpoint and is none, by what is before its weights.

    It is no garbage, as its owner may want to know what became of it.
    """
    members = Members(store)
    for digest in sorted(members.listing(()).digests):
        try:
            members.header(digest)
        except (BusyError, NotFoundError):
            continue
        except (ZooError, OSError) as error:
            yield error


def _status(path: Path) -> os.stat_result | None:
    """None where it is gone: uploads end meanwhile."""
    with suppress(FileNotFoundError):
        return path.stat()
    return None


def collect(store: Store, roots: Sequence[Path]) -> list[Garbage]:
    """Deletes the garbage and returns what it was; nothing is published meanwhile, which brings deleted files back."""
    with ExitStack() as locks:
        # In one order, whatever that of the roots: two that lock each other's next would wait for ever.
        for root in sorted({root.resolve() for root in roots}):
            folder = root / INCOMING
            if os.access(root, os.W_OK):
                with suppress(OSError):  # a full disk, which is to be made room on
                    folder.mkdir(exist_ok=True)
            if folder.is_dir():  # else nobody can publish there
                locks.enter_context(locked(folder))
        found = list(garbage(store, roots))
        for item in found:
            if item.digest is None:
                Path(item.place).unlink(missing_ok=True)
            else:
                store.delete(item.digest)
            audit.record("gc", item.digest, path=item.place, bytes=item.size_bytes, reason=item.reason)
    return found
