"""Follows what the store holds: checkpoint files, annotations, latencies, cascades become the catalog's."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Set
from contextlib import suppress

from zoo.catalog.changes import images_key
from zoo.catalog.dataset_labels import name_of
from zoo.catalog.protocol import Index
from zoo.catalog.rows import CheckpointRow
from zoo.errors import BusyError, CatalogError, ZooError
from zoo.library import audit
from zoo.library.files import CheckpointFiles
from zoo.library.ready_cascades import ReadyCascades
from zoo.library.rows import row_of
from zoo.library.upkeep.device import device_name
from zoo.store.annotations import Annotations
from zoo.store.entries import DatasetEntry, Entry, Said
from zoo.store.store import Listing

log = logging.getLogger(__name__)


class Follower:
    """Belongs to a LocalZoo, whose parts it keeps up with its store."""

    def __init__(
        self,
        catalog: Index,
        files: CheckpointFiles,
        annotations: Annotations,
        cascades: ReadyCascades,
    ) -> None:
        self._catalog = catalog
        self._files = files
        self._annotations = annotations
        self._cascades = cascades
        # Where files were as of the last listing.
        self._places: Set[str] = frozenset()
        # What was said of checkpoints as of the last sync.
        self._synced_marks = _of_checkpoints(Said())
        # By digest, why a file was left out: each reason is worth one warning.
        self._refused: dict[str, str] = {}
        # The catalog's as of the last sync: what is then missing, another process has taken out.
        self._synced_digests: set[str] = set()
        # Data sets of which it was said that they are kept apart from another one of their name.
        self._labels_told: set[str] = set()

    def sync(self) -> bool:
        """Adds what is new in the store to the catalog and takes out what is gone.

        True if anything changed since this process last looked: files, marks, cascades, or rows by its own doing.

        Latencies become those measured on this device; cascades those whose checkpoints are all there.

        A file that is no checkpoint is left out, with a warning, and read again when it changes: it may be one that is
        still being copied here. What cannot be reached stays as it was.
        """
        try:
            return self._sync()
        except CatalogError as error:
            # Damaged, and set aside by now; or it can be read no longer.
            if not (self._catalog.follow_file() or self._catalog.leave_file(error)):
                raise
            self._catalog.is_incomplete = True
            return self._sync()

    def _sync(self) -> bool:
        # The index before the store: writers put the file first and the row second, and take the row out after they
        # have marked it as deleted, so the reverse order could drop a fresh row.
        is_anew = self._catalog.follow_file()
        self._catalog.is_incomplete |= is_anew
        known, places = self._catalog.digests(), self._places if is_anew else self._catalog.folders()
        before = self._synced_marks, self._files.digests
        self._annotations.read()
        self._synced_marks = _of_checkpoints(self._annotations.said)
        listing = self._look(places, known)
        # A file that this process has never seen may lie where it cannot look now.
        lookable = known if listing.is_complete else known & (before[1] | self._annotations.said.deleted)
        gone = lookable - self._files.digests | known & self._files.damaged_digests()
        if gone:
            self._catalog.remove(gone)
        taken_out = (self._synced_digests - known) & self._files.digests
        self._look_for_damage(() if is_anew else taken_out)
        new = self.labelled(self._read_rows(self._files.digests - known))
        if new:
            self._catalog.add(new)
        placed = self._catalog.follow_places(self._files.places, is_complete=listing.is_complete)
        self._catalog.follow_folders(set(self._places))
        measured = self._follow_latencies()
        annotated = self.annotate_rows()
        self._synced_digests = known - gone | {row.digest for row in new}
        calibrated = self._follow_cascades()
        self._catalog.is_incomplete = False
        changed = before[0] != self._synced_marks or before[1] != self._files.digests
        return changed or is_anew or annotated or calibrated or bool(gone or taken_out or new or placed or measured)

    def reindex(self) -> int:
        """Rebuilds the catalog from the files alone and returns the number of checkpoints."""
        self._refused.clear()
        self._files.forget_damage()
        self._annotations.read()
        self._look((), frozenset())
        rows = self.labelled(self._read_rows(self._files.digests))
        self._catalog.replace(row.model_dump() for row in rows)
        self.annotate_rows()
        self._catalog.follow_folders(set(self._places))
        self._follow_latencies()
        self._synced_digests = {row.digest for row in rows}
        self._follow_cascades()
        return len(rows)

    def _follow_latencies(self) -> bool:
        return self._catalog.follow_latencies(self._annotations.latencies(device_name()))

    def _follow_cascades(self) -> bool:
        return self._cascades.follow(self._catalog, self._synced_digests)

    def annotate_rows(self) -> bool:
        return self._catalog.annotate(self._annotations.said)

    def _look(self, places: Collection[str], known: Set[str]) -> Listing:
        """What is annotated as deleted is no longer among the files."""
        listing = self._files.listing(places, known | self._files.damaged_digests())
        self._places = listing.places
        self._files.digests = listing.digests - self._annotations.said.deleted
        return listing

    def _look_for_damage(self, digests: Iterable[str]) -> None:
        """Where no header shows it: another process may have taken them out for it, and this one not know."""
        for digest in digests:
            if not self._files.is_damaged(digest):
                with suppress(ZooError, OSError):
                    self._files.load(digest)

    def _read_rows(self, digests: Iterable[str]) -> Iterable[CheckpointRow]:
        for digest in sorted(digests):
            try:
                if self._files.is_damaged(digest):
                    continue
                with self._files.remembering_refusal(digest):
                    header = self._files.header(digest)
                yield row_of(digest, header, self._annotations.said, self._files.places.get(digest))
            except BusyError:
                continue  # the store has logged that it cannot be reached
            except (ZooError, OSError) as error:
                if self._refused.get(digest) != str(error):
                    self._refused[digest] = str(error)
                    log.warning("left out of the catalog: %s", error)

    def labelled(self, rows: Iterable[CheckpointRow]) -> list[CheckpointRow]:
        """With other images under one name kept apart. `images` are, in the rows that come, the image set itself."""
        found = list(rows)
        if not found:
            return found
        first_seen: dict[str, str] = {}
        for row in found:
            first_seen[row.images] = min(row.created_at, first_seen.get(row.images, row.created_at))
        labels = self._catalog.label_images(first_seen, self._annotations.said.labels)
        self._keep(labels)
        for row in found:
            label = labels[row.images]
            if label != row.dataset and label not in self._labels_told:
                self._labels_told.add(label)
                log.warning(
                    "other images under the name %s: checkpoints such as %s are kept apart, as data set %s",
                    row.dataset,
                    row.name,
                    label,
                )
        return [
            row.model_copy(update={"dataset": labels[row.images], "images": images_key(row.images)}) for row in found
        ]

    def _keep(self, labels: Mapping[str, str]) -> None:
        """Beside the files, where a name stands for several: a catalog that is begun anew must not turn them round."""
        of_name: dict[str, set[str]] = {}
        for images, label in labels.items():
            of_name.setdefault(name_of(images), set()).add(label)

        def new(said: Said) -> list[Entry]:
            return [
                DatasetEntry(images=images, label=label)
                for images, label in labels.items()
                if len(of_name[name_of(images)]) > 1 and images not in said.labels
            ]

        if new(self._annotations.said):
            with suppress(ZooError, OSError):  # where it cannot be written, the catalog alone knows them
                self._annotations.change(new, audit.actor())


def _of_checkpoints(said: Said) -> tuple[object, ...]:
    """What answers may depend on and rows do not say."""
    return said.aliases, said.deprecated, said.staged, said.deleted
