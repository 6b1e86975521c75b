"""The files of a zoo's checkpoints, read from its store and checked; one that is found damaged leaves the catalog."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TypeVar

from zoo.catalog.model_card import model_card
from zoo.catalog.protocol import Index
from zoo.checkpoint.descriptor import Descriptor
from zoo.checkpoint.file import Checkpoint, decode, require_digest
from zoo.errors import CheckpointError, ZooError
from zoo.library.members import Members, name_of
from zoo.runtime import onnx_model
from zoo.store.store import Stamp, Store

log = logging.getLogger(__name__)

# Descriptors kept: a few kilobytes each.
_MAX_DESCRIPTORS = 256
_SETTLED_SECONDS = 2.0

Read = TypeVar("Read")


class CheckpointFiles(Members):
    """All methods may be called from any thread.

    What reads a file raises NotFoundError where it is gone, BusyError where the store cannot be reached at the moment.
    """

    def __init__(self, store: Store, catalog: Index) -> None:
        super().__init__(store)
        self._catalog = catalog
        # As of the last look at the store; those left out of the catalog too.
        self.digests: Set[str] = frozenset()
        # Files found damaged after they had got into the catalog, as they were then.
        self._damaged: dict[str, Stamp] = {}
        # Files read whole and found good, as they were then.
        self._verified: dict[str, Stamp] = {}
        self._descriptors = lru_cache(maxsize=_MAX_DESCRIPTORS)(
            lambda digest: self._checked(digest, self.header).descriptor
        )

    def size_bytes(self, digest: str) -> int:
        return self.stat(digest).size_bytes

    def _file_of(self, digest: str) -> str | None:
        row = self._catalog.rows([digest]).get(digest)
        return None if row is None else row.elastic_file

    def read(self, digest: str) -> bytes:
        """Raises CheckpointError where the bytes are not the digest's; that has no consequences here."""
        with self.open(digest) as file:
            data = file.read()
        require_digest(data, digest, name_of(digest))
        return data

    def decoded(self, digest: str) -> Checkpoint:
        """Likewise, or where they are no checkpoint."""
        return decode(self.read(digest), name_of(digest))

    def descriptor(self, digest: str) -> Descriptor:
        """Raises CheckpointError as `load` does."""
        return self._descriptors(digest)

    def load(self, digest: str) -> Checkpoint:
        """Reads the whole file and checks it against its digest and its descriptor.

        Raises CheckpointError, and takes a damaged checkpoint out of the catalog: the next choice is another one.
        """
        return self._checked(digest, self.decoded)

    def _checked(self, digest: str, read: Callable[[str], Read]) -> Read:
        try:
            return read(digest)
        except CheckpointError as error:
            if self.is_elsewhere(digest):
                log.error("read from another file that holds it: %s", error)
                return self._checked(digest, read)
            log.error("taken out of the catalog: %s", error)
            with suppress(ZooError, OSError):
                self._damaged[digest] = self.stat(digest).stamp
            self.forget(digest)
            self._catalog.remove([digest])
            raise

    def file(self, digest: str, file_format: str) -> bytes:
        """The checkpoint as "safetensors" or "onnx", its descriptor as "json", or its model card as "card".

        Raises CheckpointError as `load` does.
        """
        if file_format == "onnx":
            return onnx_model.build(self.load(digest))
        if file_format == "json":
            return self.descriptor(digest).to_json().encode()
        if file_format == "card":
            return model_card(self.descriptor(digest), digest).encode()
        return self._checked(digest, self.read)

    def beginning(self, digest: str, levels: Sequence[str] | None = None) -> bytes:
        """The elastic file up to the level that the checkpoint is; that with just these `levels`, where they are given.

        Raises ZooError where there is none, or as `load`.
        """
        self.load(digest)
        place = self.places.get(digest) if levels is None else self.place_among(digest, levels)
        if place is None and levels is not None:
            raise ZooError(f"the elastic file is not in this zoo, which has its level {digest} elsewhere")
        if place is None:
            raise ZooError(f"checkpoint {digest} is no level of an elastic file: there is nothing to upgrade to")
        with self.open(place.file) as file:
            return file.read(place.prefix_bytes)

    def verify(self, digest: str) -> None:
        """For a file too large to be held in memory; it is read through once, and again if it changes.

        Raises CheckpointError where the bytes are not the digest's.
        """
        stamp = self.stat(digest).stamp
        if self._verified.get(digest) != stamp:
            with self.open(digest) as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != digest:
                self.load(digest)
            self._verified[digest] = stamp

    # --- damage ----------------------------------------------------------------------------------------

    def is_damaged(self, digest: str) -> bool:
        """Whether it is still what was found damaged."""
        if digest not in self._damaged:
            return False
        with suppress(ZooError, OSError):
            return self._damaged[digest] == self.stat(digest).stamp
        return False

    def damaged_digests(self) -> set[str]:
        found = list(self._damaged)  # other threads find more meanwhile
        return {digest for digest in found if digest in self.digests and self.is_damaged(digest)}

    @contextmanager
    def remembering_refusal(self, digest: str) -> Iterator[None]:
        """What is no checkpoint counts as damaged until it changes: to find that out again may take seconds.

        Except of a file that changed just now: it may still be written to, and a clock's tick hide that.
        """
        before = self.stat(digest)
        try:
            yield
        except CheckpointError:
            if time.time() - before.changed_at > _SETTLED_SECONDS:
                self._damaged[digest] = before.stamp
            raise

    def forget_damage(self, digest: str | None = None) -> None:
        """Of one file, which has been replaced, or of all."""
        if digest is None:
            self._damaged.clear()
        else:
            self._damaged.pop(digest, None)
