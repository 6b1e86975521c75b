"""Which checkpoint files a zoo's directories hold, told apart from which cannot be seen at the moment.

A file is gone where its directory was listed and does not have it. Where that directory, or one above it, cannot be
listed, is not there, or lies on another device than before (a share that is not mounted leaves an empty directory),
nothing is known of the file, and it counts as where it was: an outage of a second must not empty a catalog.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from zoo.store.directory import checkpoints, is_named_by_digest, walk

log = logging.getLogger(__name__)


class Files:
    """Paths by digest, as of the last look; of a file in several directories, the one in the first."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = roots
        self._paths: dict[str, Path] = {}
        # Of each directory in which files were found, the device; None where only an earlier process knew it.
        self._devices: dict[Path, int | None] = {}
        self._said: dict[Path, str] = {}
        self._special: set[Path] = set()
        # Whether each of these directories could be listed: a file that was not found is then gone.
        self.is_complete = True

    def look(self, folders: Iterable[str]) -> dict[str, Path]:
        """Paths by digest now. A directory that cannot be listed is logged once, and once more when it can.

        `folders`: where this process or another found files the last time, as `folders` said. One that is no longer
        among them has been given up.
        """
        self._devices = {(folder := self._roots[0] / name): self._devices.get(folder) for name in folders}
        found: dict[str, Path] = {}
        devices: dict[Path, int] = {}
        why: dict[Path, str] = {}
        for root in reversed(self._roots):
            listing = walk(root)
            found |= checkpoints(listing)
            devices |= listing.devices
            why |= {folder: f"{error.strerror}" for folder, error in listing.unlisted.items()}
            self._say_special(listing.special)
        holding = {path.parent for path in found.values()}
        unseen = {folder for folder in self._devices.keys() - holding if self._is_unseen(folder, devices)}
        self._say(why | {folder: "it is not there" for folder in unseen if _is_unexplained(folder, why)})
        kept = {digest: path for digest, path in self._paths.items() if path.parent in unseen}
        self._devices = {folder: self._devices[folder] for folder in unseen} | {
            folder: devices[folder] for folder in holding
        }
        self.is_complete = not unseen
        self._paths = kept | found
        return dict(self._paths)

    def folders(self) -> set[str]:
        """Where the files are, for the next process: below the first directory relative to that, as it may move."""
        first = self._roots[0]
        return {
            str(folder.relative_to(first) if folder.is_relative_to(first) else folder.absolute())
            for folder in self._devices
        }

    def forget(self) -> None:
        """What the next look does not find is gone."""
        self._paths, self._devices = {}, {}

    def _is_unseen(self, folder: Path, devices: dict[Path, int]) -> bool:
        return folder not in devices or self._devices[folder] not in (None, devices[folder])

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


def _is_unexplained(folder: Path, why: dict[Path, str]) -> bool:
    return not any(above in why for above in (folder, *folder.parents))
