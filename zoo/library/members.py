"""What a store holds, checkpoint by checkpoint: files of their own, and levels of elastic files.

A level counts as the ordinary file that it extracts to. By that file's digest it is listed and opened here, so that
whoever reads checkpoints need not know which are levels. One that is both a file and a level is one checkpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from io import BufferedReader, BytesIO
from types import MappingProxyType

from zoo.catalog.views import ElasticPlace
from zoo.checkpoint.elastic import ElasticFile, is_elastic
from zoo.checkpoint.file import Header, header_of
from zoo.errors import BusyError, CheckpointError, NotFoundError, ZooError
from zoo.store.store import Listing, Stamp, Stat, Store


class Members:
    """All methods may be called from any thread. Those that read raise as `Store` does."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # Of each elastic file the digests of its levels, with their places.
        self._elastic: dict[str, dict[str, ElasticPlace]] = {}
        # Files that were looked into and are no elastic ones; what is wrong with them is for their reader to find.
        self._ordinary: set[str] = set()
        # By file and digest, where a checkpoint was found damaged that is elsewhere too; and the file as it was then.
        self._avoided: dict[tuple[str, str], Stamp] = {}
        # Of the ordinary files that levels are.
        self._sizes: dict[str, int] = {}
        self._listed: Set[str] = frozenset()
        self.places: Mapping[str, ElasticPlace] = MappingProxyType({})
        """Where levels lie, by digest, as of the last listing; of several elastic files the first, by digest."""

    def listing(self, since: Collection[str], known: Set[str] = frozenset()) -> Listing:
        """As that of the store, of checkpoints. Files that are `known` are no elastic ones.

        Of an elastic file that cannot be read at the moment the levels count as where they were, if they are `known`.
        """
        listing = self._store.listing(since)
        self._elastic = {file: levels for file, levels in self._elastic.items() if file in listing.digests}
        self._ordinary &= listing.digests
        self._avoided = {where: stamp for where, stamp in self._avoided.items() if self._stamp(where[0]) == stamp}
        unread = set()
        for file in listing.digests - known - self._ordinary - self._elastic.keys():
            try:
                self._look_into(file)
            except (CheckpointError, NotFoundError):
                continue
            except (ZooError, OSError):
                unread.add(file)
        self._listed = listing.digests
        self._place()
        found = (listing.digests - self._elastic.keys()) | self.places.keys()
        kept = {digest for digest in known - found if self._file_of(digest) in unread} if unread else set()
        return replace(listing, digests=found | kept, is_complete=listing.is_complete and not kept)

    def levels_of(self, file: str) -> list[str]:
        """The digests of an elastic file's levels, smallest first; none of another file, or one that is not there."""
        with suppress(ZooError, OSError):
            self._look_into(file)
        return list(self._elastic.get(file, ()))

    def place_among(self, digest: str, levels: Sequence[str]) -> ElasticPlace | None:
        """Where it lies in the elastic file that has just these levels, if there is one."""
        return next((found[digest] for found in self._elastic.values() if list(found) == list(levels)), None)

    def _look_into(self, file: str) -> None:
        """Once. Raises CheckpointError for one that cannot be read as an elastic file; what it is instead is open."""
        if file in self._elastic or file in self._ordinary:
            return
        with self._store.open(file) as opened:
            if not is_elastic(opened):
                self._ordinary.add(file)
                return
            elastic = ElasticFile(opened, name_of(file))
            elastic.require_whole()
        self._sizes |= {one.digest: one.header.size_bytes for one in elastic.levels}
        count = len(elastic.levels)
        levels = {
            one.digest: ElasticPlace(file=file, level=one.number, levels=count, prefix_bytes=one.prefix_bytes)
            for one in elastic.levels
        }
        self._elastic = {**self._elastic, file: levels}
        self._place()

    def _place(self) -> None:
        found: dict[str, ElasticPlace] = {}
        for file in sorted(self._elastic, reverse=True):
            levels = self._elastic[file].items()
            found |= {digest: place for digest, place in levels if (file, digest) not in self._avoided}
        self.places = found

    def _stamp(self, file: str) -> Stamp | None:
        with suppress(ZooError, OSError):
            return self._store.stat(file).stamp
        return None

    def is_elsewhere(self, digest: str) -> bool:
        """Whether another file holds the checkpoint that was found damaged: then it is read from that one.

        Until the file that is damaged changes.
        """
        place = self._place_of(digest)
        file = digest if place is None else place.file
        holders = {other for other, levels in self._elastic.items() if digest in levels} | {digest} & self._listed
        stamp = self._stamp(file)
        if stamp is None or all((other, digest) in self._avoided for other in holders - {file}):
            return False
        self._avoided[file, digest] = stamp
        self._place()
        return True

    def forget(self, digest: str) -> None:
        """Has the file that was found damaged looked into again, when it is listed next."""
        place = self.places.get(digest)
        file = digest if place is None else place.file
        self._elastic = {other: levels for other, levels in self._elastic.items() if other != file}
        self._ordinary.discard(file)

    def open(self, digest: str) -> BytesIO | BufferedReader:
        """The checkpoint's file, from any position; of a level it is made here, and checked.

        Also an elastic file, by its own digest, as it is. Raises CheckpointError where a level is damaged.
        """
        place = self._place_of(digest)
        if place is None:
            return self._store.open(digest)
        with self._store.open(place.file) as file:
            return BytesIO(ElasticFile(file, name_of(place.file)).extract(place.level))

    def stat(self, digest: str) -> Stat:
        place = self._place_of(digest)
        if place is None:
            return self._store.stat(digest)
        return replace(self._store.stat(place.file), size_bytes=self._sizes[digest])

    def header(self, digest: str) -> Header:
        """What is before the weights. Raises CheckpointError."""
        place = self._place_of(digest)
        file = digest if place is None else place.file
        with self._store.open(file) as opened:
            if place is None and not is_elastic(opened):
                return header_of(opened, name_of(digest))
            elastic = ElasticFile(opened, name_of(file))
            elastic.require_whole()
        if place is None:  # when it was looked into, it was still being written
            self._ordinary.discard(file)
            raise BusyError(f"{name_of(file)} is an elastic file, which is yet to be looked into: try again")
        level = elastic.levels[place.level]
        if level.digest != digest:
            raise CheckpointError(f"{name_of(file)}: level {place.level} was {digest} and is {level.digest}")
        return level.header

    def _file_of(self, digest: str) -> str | None:  # noqa: ARG002
        """The elastic file of a checkpoint that another process has found since the last listing, where one knows."""
        return None

    def _place_of(self, digest: str) -> ElasticPlace | None:
        """None where it is a file."""
        if digest in self._listed and (digest, digest) not in self._avoided:
            return None
        if digest not in self.places and (file := self._file_of(digest)) is not None:
            with suppress(CheckpointError, NotFoundError):
                self._look_into(file)
        return self.places.get(digest)


def name_of(digest: str) -> str:
    """For people."""
    return f"{digest}.safetensors"
