"""The files of a zoo's checkpoints, read and checked; one that is found damaged leaves the catalog."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from zoo.catalog.index import Catalog
from zoo.catalog.model_card import model_card
from zoo.checkpoint.descriptor import Descriptor
from zoo.checkpoint.file import Checkpoint, digest_of, load, read_header
from zoo.errors import BusyError, CheckpointError, NotFoundError
from zoo.runtime import onnx_model
from zoo.store.directory import Directory

log = logging.getLogger(__name__)

# Descriptors kept: a few kilobytes each.
_MAX_DESCRIPTORS = 256
_SETTLED_SECONDS = 2.0

Read = TypeVar("Read")
Stamp = tuple[int, int, int]


class CheckpointFiles:
    """All methods may be called from any thread."""

    def __init__(self, roots: Sequence[Path], catalog: Catalog) -> None:
        self._directories = [Directory(root) for root in roots]
        self._catalog = catalog
        # By digest, as of the last look through the directories; those left out of the catalog too.
        self.paths: dict[str, Path] = {}
        # Files found damaged after they had got into the catalog, as they were then.
        self._damaged: dict[Path, Stamp] = {}
        # Files read whole and found good, as they were then.
        self._verified: dict[Path, Stamp] = {}
        self._descriptors = lru_cache(maxsize=_MAX_DESCRIPTORS)(
            lambda digest: self._read(digest, read_header).descriptor
        )

    def path(self, digest: str) -> Path:
        """Raises NotFoundError where the file is gone, BusyError where its directory is away for the moment."""
        path = self.paths.get(digest)
        if path is not None and path.is_file():
            return path
        if path is not None and not path.parent.is_dir():
            raise BusyError(f"the file of checkpoint {digest} cannot be read, as its directory is away: try again")
        # Another process has added or moved it since this one looked.
        for directory in self._directories:
            with suppress(NotFoundError):
                return directory.path(digest)
        raise NotFoundError(f"the file of checkpoint {digest} is gone")

    def descriptor(self, digest: str) -> Descriptor:
        """Raises CheckpointError as `load` does."""
        return self._descriptors(digest)

    def load(self, digest: str) -> Checkpoint:
        """Reads the whole file and checks it against its digest and its descriptor.

        Raises CheckpointError, and takes a damaged checkpoint out of the catalog: the next choice is another one.
        """
        return self._read(digest, load)

    def _read(self, digest: str, read: Callable[[Path], Read]) -> Read:
        path = self.path(digest)
        try:
            return read(path)
        except CheckpointError as error:
            log.error("taken out of the catalog: %s", error)
            with suppress(FileNotFoundError):
                self._damaged[path] = _stamp(path)
            self._catalog.remove([digest])
            raise

    def file(self, digest: str, file_format: str) -> bytes:
        """The checkpoint as "safetensors" or "onnx", its descriptor as "json", or its model card as "card".

        Raises CheckpointError where the bytes are not the digest's.
        """
        if file_format == "onnx":
            return onnx_model.build(self.load(digest))
        if file_format == "json":
            return self.descriptor(digest).to_json().encode()
        if file_format == "card":
            return model_card(self.descriptor(digest), digest).encode()
        data = self.path(digest).read_bytes()
        if digest_of(data) != digest:
            self.load(digest)
        return data

    def verified_path(self, digest: str) -> Path:
        """For a file too large to be held in memory; it is read through once, and again if it changes.

        Raises CheckpointError where the bytes are not the digest's.
        """
        path = self.path(digest)
        stamp = _stamp(path)
        if self._verified.get(path) != stamp:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != digest:
                self.load(digest)
            self._verified[path] = stamp
        return path

    # --- damage ----------------------------------------------------------------------------------------

    def is_damaged(self, path: Path) -> bool:
        """Whether it is still what was found damaged."""
        if path not in self._damaged:
            return False
        with suppress(OSError):
            return self._damaged[path] == _stamp(path)
        return False

    def damaged_digests(self) -> set[str]:
        found = list(self._damaged)  # other threads find more meanwhile
        return {path.stem for path in found if self.paths.get(path.stem) == path and self.is_damaged(path)}

    @contextmanager
    def remembering_refusal(self, path: Path) -> Iterator[None]:
        """What is no checkpoint counts as damaged until it changes: to find that out again may take seconds.

        Except of a file that changed just now: it may still be written to, and a clock's tick hide that.
        """
        before = _stamp(path)
        try:
            yield
        except CheckpointError:
            if time.time() - before[0] / 1e9 > _SETTLED_SECONDS:
                self._damaged[path] = before
            raise

    def forget_damage(self, path: Path | None = None) -> None:
        """Of one file, which has been replaced, or of all."""
        if path is None:
            self._damaged.clear()
        else:
            self._damaged.pop(path, None)


def _stamp(path: Path) -> Stamp:
    """Another one after each change: the time of the last change, unlike that of the content, cannot be put back."""
    status = path.stat()
    return status.st_ctime_ns, status.st_ino, status.st_size
