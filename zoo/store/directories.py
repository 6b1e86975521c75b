"""Directories of this machine as a Store. A file that is gone is told apart from one that cannot be seen.

A file is gone where its directory was listed and does not have it. Where that directory, or one above it, cannot be
listed, is not there, or lies on another device than before (a share that is not mounted leaves an empty directory),
nothing is known of the file, and it counts as where it was: an outage of a second must not empty a catalog.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from io import BufferedReader
from pathlib import Path

from zoo.errors import BusyError, NotFoundError
from zoo.store.directory import Directory, checkpoints, is_named_by_digest, move_into_place, walk
from zoo.store.directory_log import DirectoryLog
from zoo.store.store import AnnotationLog, Listing, Stat

log = logging.getLogger(__name__)


class Directories:
    """A Store. Of a file in several directories, the one in the first counts; the first is what files are put into."""

    url = ""

    def __init__(self, roots: Sequence[Path]) -> None:
        # Catalogs name places outside of the first by their whole paths, and are read again from elsewhere.
        self._roots = [root.absolute() for root in roots]
        self._logs = [DirectoryLog(root) for root in self._roots]
        # By digest, as of the last listing; and where the same file lies in further directories.
        self._paths: dict[str, Path] = {}
        self._copies: dict[str, list[Path]] = {}
        # Of each directory in which files were found, the device; None where only an earlier process knew it.
        self._devices: dict[Path, int | None] = {}
        self._said: dict[Path, str] = {}
        self._special: set[Path] = set()

    def put(self, digest: str, source: Path) -> None:
        """Replaces a file of that name in the first directory, wherever below it lies; else adds it to checkpoints/."""
        root, target = self._roots[0], Directory(self._roots[0]).usual_path(digest)
        with suppress(NotFoundError, BusyError):
            existing = self.path(digest)
            target = existing if existing.is_relative_to(root) else target
        move_into_place(source, target)
        self._paths = {**self._paths, digest: target}

    def open(self, digest: str) -> BufferedReader:
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError as error:
            raise NotFoundError(f"the file of checkpoint {digest} is gone") from error

    def stat(self, digest: str) -> Stat:
        """The stamp has the time of the last change: unlike that of the content, it cannot be put back."""
        path = self.path(digest)
        try:
            status = path.stat()
        except FileNotFoundError as error:
            raise NotFoundError(f"the file of checkpoint {digest} is gone") from error
        stamp = (path, status.st_ctime_ns, status.st_ino, status.st_size)
        return Stat(str(path), status.st_size, stamp, status.st_ctime)

    def delete(self, digest: str) -> None:
        """Deletes all copies that the last listing found."""
        for path in (self._paths.get(digest), *self._copies.get(digest, ())):
            if path is not None:
                path.unlink(missing_ok=True)

    def logs(self) -> Sequence[AnnotationLog]:
        return self._logs

    def path(self, digest: str) -> Path:
        """Raises NotFoundError where the file is gone, BusyError where its directory is away for the moment."""
        path = self._paths.get(digest)
        if path is not None and path.is_file():
            return path
        if path is not None and not path.parent.is_dir():
            raise BusyError(f"the file of checkpoint {digest} cannot be read, as its directory is away: try again")
        # Another process has added or moved it since this one looked.
        for root in self._roots:
            with suppress(NotFoundError):
                return Directory(root).path(digest)
        raise NotFoundError(f"the file of checkpoint {digest} is gone")

    def listing(self, since: Collection[str]) -> Listing:
        """A place is a directory with files, relative to the first one where it lies below, as that may be moved.

        One that is no longer among `since` has been given up.
        """
        self._devices = {(folder := self._roots[0] / name): self._devices.get(folder) for name in since}
        found: dict[str, Path] = {}
        copies: dict[str, list[Path]] = {}
        devices: dict[Path, int] = {}
        why: dict[Path, str] = {}
        for root in reversed(self._roots):
            walked = walk(root)
            for digest, path in checkpoints(walked):
                if digest in found:
                    copies.setdefault(digest, []).append(found[digest])
                found[digest] = path
            devices |= walked.devices
            why |= {folder: f"{error.strerror}" for folder, error in walked.unlisted.items()}
            self._say_special(walked.special)
        holding = {path.parent for path in found.values()}
        unseen = {
            folder
            for folder in self._devices.keys() - holding
            if folder not in devices or self._devices[folder] not in (None, devices[folder])
        }
        unexplained = (folder for folder in unseen if why.keys().isdisjoint((folder, *folder.parents)))
        self._say(why | dict.fromkeys(unexplained, "it is not there"))
        kept = {digest: path for digest, path in self._paths.items() if path.parent in unseen}
        self._devices = {folder: self._devices[folder] for folder in unseen} | {
            folder: devices[folder] for folder in holding
        }
        self._paths, self._copies = kept | found, copies
        return Listing(self._paths.keys(), is_complete=not unseen, places=self._places())

    def _places(self) -> set[str]:
        first = self._roots[0]
        return {
            str(folder.relative_to(first) if folder.is_relative_to(first) else folder.absolute())
            for folder in self._devices
        }

    def _say_special(self, paths: Iterable[Path]) -> None:
        for path in paths:
            if is_named_by_digest(path) and path not in self._special:
                self._special.add(path)
                log.warning("left out of the catalog: %s is no ordinary file", path)

    def _say(self, why: dict[Path, str]) -> None:
        for folder, reason in why.items():
            if self._said.get(folder) != reason:
                log.warning("%s cannot be listed (%s): what the catalog has of it stays as it is", folder, reason)
        for folder in self._said.keys() - why.keys():
            log.info("%s can be listed again", folder)
        self._said = why
