"""Store: where checkpoint files and annotations are kept. A directory of this machine is one, object storage another.

Files are immutable and named by the SHA-256 of their bytes, so a store needs no transactions: writing a file twice
changes nothing. Annotations are an append-only log.

    store: Store = Directories([Path("my-zoo")])
    with store.open(digest) as file:
        header = file.read(1000)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Protocol

from zoo.store.entries import Entry

Stamp = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Stat:
    place: str  # a path or a URL, for people
    size_bytes: int
    stamp: Stamp  # changes with the content
    changed_at: float  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class Listing:
    """What a store holds. A file that is missing from a complete listing is gone."""

    digests: Set[str]
    is_complete: bool
    # For the next listing, also that of another process.
    places: Set[str]


class AnnotationLog(Protocol):
    """Entries that were appended, by any process. Methods may be called from any thread."""

    @property
    def damage(self) -> str:
        """The first line that cannot be read, or ""."""

    def entries(self, *, strict: bool = False) -> list[Entry]:
        """By time; the same list object until something is appended. Where they cannot be read, as they were before.

        Raises AnnotationsError for that, if `strict`: before what depends on all of them is done.
        """

    def changing(self) -> AbstractContextManager[None]:
        """Between reading and appending. Raises OSError where the log cannot be written to."""

    def append(self, entries: Sequence[Entry], seen: list[Entry]) -> None:
        """All or, after a crash, the first of them. `seen` is what `entries` returned when they were decided on.

        Raises OSError, BusyError where the store cannot be reached, and AppendedMeanwhile where something was appended
        since.
        """


class AppendedMeanwhile(Exception):  # noqa: N818 - not an error: read again, and try again
    """Another process has appended since the entries were read."""


class Store(Protocol):
    """Methods may be called from any thread.

    All but `listing` raise NotFoundError for a file that is not there, BusyError where the store cannot be reached, and
    OSError where it refuses.
    """

    @property
    def url(self) -> str:
        """Where it is, or "" of directories: each store has a catalog of its own."""

    def put(self, digest: str, source: Path) -> None:
        """Moves the file `source` in, in place of a damaged one; it appears whole or not at all.

        The caller has checked that its bytes have the digest.
        """

    def open(self, digest: str) -> BufferedReader:
        """The file for reading, from any position."""

    def stat(self, digest: str) -> Stat: ...

    def listing(self, since: Collection[str]) -> Listing:
        """All digests. `since`: the `places` of the last listing; () forgets what cannot be reached.

        A store that cannot be reached is logged once, and holds what it held: an outage of a second must not empty an
        index. Raises nothing.
        """

    def delete(self, digest: str) -> None:
        """Every copy of it. Nothing where it is gone."""

    def logs(self) -> Sequence[AnnotationLog]:
        """The first is appended to, the others are read."""


def store_of(roots: Sequence[Path], url: str | None) -> Store:
    """The directories, or the object storage at the URL, if there is one (ZOO_STORE). Raises ZooError."""
    if url is None:
        from zoo.store.directories import Directories

        return Directories(roots)
    from zoo.store.object_store import ObjectStore  # of an extra

    return ObjectStore.at(url)
