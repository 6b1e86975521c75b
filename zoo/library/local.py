"""A zoo on this machine: directories of checkpoint files and the catalog over them."""

from __future__ import annotations

import hashlib
import json
import logging
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from sqlalchemy.exc import DatabaseError

from zoo.catalog.database import catalog_path
from zoo.catalog.dataset_labels import image_set
from zoo.catalog.index import COMPUTED_ALIASES, MIN_PREFIX, Catalog, images_key
from zoo.catalog.rows import DIGITS, CheckpointRow
from zoo.catalog.views import CheckpointDetail, CheckpointView, Links, Selection
from zoo.checkpoint.descriptor import Descriptor
from zoo.checkpoint.file import Checkpoint, Header, digest_of, load, read_header
from zoo.choosing.budget import ALL_DATASETS, Budget, Filters, wilson_interval
from zoo.errors import (
    BusyError,
    CheckpointError,
    ConflictError,
    GoneError,
    NoModelMeetsConstraintsError,
    NotADigestError,
    NotFoundError,
    StaleError,
    ZooError,
)
from zoo.library import audit
from zoo.library.annotated import Annotations, state
from zoo.library.ready_cascades import ReadyCascade, ReadyCascades
from zoo.network.cost import ram_bytes
from zoo.runtime import onnx_model
from zoo.runtime.device import device_name
from zoo.store.annotations import RESERVED, Marks, Measured
from zoo.store.directory import INCOMING, Directory, require_zoo
from zoo.store.files import Files
from zoo.store.locks import locked
from zoo.store.measurements import Measurements

log = logging.getLogger(__name__)

# Descriptors kept: a few kilobytes each.
_MAX_DESCRIPTORS = 256
_PAGE = 1000

Read = TypeVar("Read")
Stamp = tuple[int, int, int]


class LocalZoo:
    """Several directories count as one zoo; the first holds the catalog, or nothing where it is read-only."""

    def __init__(self, roots: Sequence[Path], default_dataset: str | None = None) -> None:
        """Raises ZooError where a root is no zoo's directory. Call `sync` to index the files."""
        for root in roots:
            require_zoo(root)
        self.roots = tuple(roots)
        self._directories = [Directory(root) for root in roots]
        self.measurements = Measurements(roots)
        self.measurements.carry_over()  # before a catalog that is damaged is set aside
        self.catalog = Catalog(catalog_path(roots), default_dataset)
        self._files = Files(roots)
        self._annotations = Annotations(roots)
        self._synced_marks = Marks()
        self._paths: dict[str, Path] = {}
        # By file, why it was left out: each reason is worth one warning.
        self._refused: dict[Path, str] = {}
        # Files found damaged after they had got into the catalog, as they were then.
        self._damaged: dict[Path, Stamp] = {}
        # The catalog's as of the last sync: what is then missing, another process has taken out.
        self._synced_digests: set[str] = set()
        # Data sets of which it was said that they are kept apart from another one of their name.
        self._labels_told: set[str] = set()
        self._cascades = ReadyCascades(roots, self.measurements)
        self._descriptors = lru_cache(maxsize=_MAX_DESCRIPTORS)(
            lambda digest: self._read(digest, read_header).descriptor
        )
        # Files read whole and found good, as they were then.
        self._verified: dict[Path, Stamp] = {}

    def close(self) -> None:
        self.catalog.close()

    # --- the index -------------------------------------------------------------------------------------

    def sync(self) -> bool:
        """Adds what is new on disk to the catalog and takes out what is gone.

        True if anything changed since this process last looked: files, marks, cascades, or rows by its own doing.

        Latencies become those measured on this device; cascades those whose checkpoints are all there.

        A file that is no checkpoint is left out, with a warning, and read again the next time: it may be one that is
        still being copied here. Of a directory that cannot be listed, everything stays as it was.
        """
        try:
            return self._sync()
        except DatabaseError as error:
            # Damaged, and set aside by now; or it can be read no longer.
            if not (self.catalog.follow_file() or self.catalog.leave_file(error)):
                raise
            return self._sync()

    def _sync(self) -> bool:
        # The index before the disk: writers put the file first and the row second, and take the row out after they
        # have marked it as deleted, so the reverse order could drop a fresh row.
        is_anew = self.catalog.follow_file()
        known, folders = self.catalog.digests(), self._files.folders() if is_anew else self.catalog.folders()
        before = self._synced_marks, self._paths
        self._annotations.read()
        self._synced_marks = self._marks
        self._paths = self._found(folders)
        # A file that this process has never seen may lie where it cannot look now.
        lookable = known if self._files.is_complete else known & (before[1].keys() | self._marks.deleted)
        gone = lookable - self._paths.keys() | known & self._damaged_digests()
        if gone:
            self.catalog.remove(gone)
        taken_out = (self._synced_digests - known) & self._paths.keys()
        self._look_for_damage(() if is_anew else taken_out)
        new = self._labelled(self._read_rows(self._paths.keys() - known))
        if new:
            self.catalog.add(new)
        self.catalog.follow_folders(self._files.folders())
        measured = self._follow_latencies()
        annotated = self._annotate_rows()
        self._synced_digests = known - gone | {row.digest for row in new}
        calibrated = self._follow_cascades()
        changed = before[0] != self._synced_marks or before[1].keys() != self._paths.keys()
        return changed or is_anew or annotated or calibrated or bool(gone or taken_out or new or measured)

    def reindex(self) -> int:
        """Rebuilds the catalog from the files alone and returns the number of checkpoints."""
        self._refused.clear()
        self._damaged.clear()
        self._annotations.read()
        self._files.forget()
        self._paths = self._found(())
        rows = self._labelled(self._read_rows(self._paths))
        self.catalog.replace(row.model_dump() for row in rows)
        self._annotate_rows()
        self.catalog.follow_folders(self._files.folders())
        self._follow_latencies()
        self._synced_digests = {row.digest for row in rows}
        self._follow_cascades()
        return len(rows)

    def _follow_latencies(self) -> bool:
        return self.catalog.follow_latencies(self.measurements.latencies(device_name()))

    def _follow_cascades(self) -> bool:
        return self._cascades.follow(self.catalog, self._synced_digests, self._marks.deprecated)

    @property
    def _marks(self) -> Marks:
        return self._annotations.marks

    def _annotate_rows(self) -> bool:
        measured = {digest: (found.accuracy, found.n) for digest, found in self._marks.measured.items()}
        return self.catalog.annotate(self._marks.deprecated, self._marks.staged, measured)

    def _found(self, folders: Iterable[str]) -> dict[str, Path]:
        """Without those that are marked as deleted."""
        found = self._files.look(folders)
        return {digest: path for digest, path in found.items() if digest not in self._marks.deleted}

    def _look_for_damage(self, digests: Iterable[str]) -> None:
        """Where no header shows it: another process may have taken them out for it, and this one not know."""
        for digest in digests:
            if not self._is_damaged(self._paths[digest]):
                with suppress(ZooError, OSError):
                    self.load(digest)

    def _damaged_digests(self) -> set[str]:
        found = list(self._damaged)  # other threads find more meanwhile
        return {path.stem for path in found if self._paths.get(path.stem) == path and self._is_damaged(path)}

    def _is_damaged(self, path: Path) -> bool:
        """Whether it is still what was found damaged."""
        if path not in self._damaged:
            return False
        with suppress(OSError):
            return self._damaged[path] == _stamp(path)
        return False

    def _read_rows(self, digests: Iterable[str]) -> Iterable[CheckpointRow]:
        for digest in sorted(digests):
            path = self._paths[digest]
            try:
                if self._is_damaged(path):
                    continue
                yield _row(digest, read_header(path), self._marks)
            except (CheckpointError, OSError) as error:
                if self._refused.get(path) != str(error):
                    self._refused[path] = str(error)
                    log.warning("left out of the catalog: %s", error)

    def _labelled(self, rows: Iterable[CheckpointRow]) -> list[CheckpointRow]:
        """With other images under one name kept apart. `images` are, in the rows that come, the image set itself."""
        found = list(rows)
        first_seen: dict[str, str] = {}
        for row in found:
            first_seen[row.images] = min(row.created_at, first_seen.get(row.images, row.created_at))
        labels = self.catalog.label_images(first_seen) if found else {}
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

    # --- annotations -----------------------------------------------------------------------------------

    def alias(self, alias: str, reference: str, *, dataset: str | None = None) -> CheckpointView:
        """Gives a checkpoint the alias, in one step taken from whichever of its data set had it.

        As all that change something: raises AnnotationsError where marks.json cannot be read, OSError where it cannot
        be written.
        """
        row = self.find(reference, dataset)
        self._check_alias(alias)
        self._change(
            lambda marks: marks.with_alias(alias, row.dataset, row.digest),
            # In the other directories whoever else had it, has it no longer.
            lambda marks: marks.without_dataset(alias, row.dataset),
        )
        audit.record("alias", row.digest, alias=alias, dataset=row.dataset)
        return self.view(row)

    def unalias(self, alias: str, reference: str | None = None, *, dataset: str | None = None) -> None:
        """Takes the alias away; with `reference` only if it is still that checkpoint's. Raises NotFoundError."""
        row = self.find(alias if reference is None else reference, dataset)
        if alias not in self._marks.aliases_of(row.digest):
            raise NotFoundError(f"checkpoint {row.digest} has no alias {alias}")
        self._change(*(lambda marks: marks.without_alias(alias, row.digest),) * 2)
        audit.record("unalias", row.digest, alias=alias, dataset=row.dataset)

    def deprecate(self, reference: str, *, dataset: str | None = None) -> CheckpointView:
        """Then it is found by whatever names it, and chosen by no budget and no computed alias."""
        return self.mark(self.find(reference, dataset).digest, deprecated=True)

    def undeprecate(self, reference: str, *, dataset: str | None = None) -> CheckpointView:
        return self.mark(self.find(reference, dataset).digest, deprecated=False)

    def stage(self, reference: str, *, dataset: str | None = None) -> CheckpointView:
        """Then it is found by its digest alone, until it is promoted."""
        return self.mark(self.find(reference, dataset).digest, staged=True)

    def promote(self, reference: str, *, dataset: str | None = None) -> CheckpointView:
        return self.mark(self.find(reference, dataset).digest, staged=False)

    def mark(
        self,
        digest: str,
        *,
        aliases: list[str] | None = None,
        deprecated: bool | None = None,
        staged: bool | None = None,
        move: bool = False,
        expected: Collection[str] | None = None,
    ) -> CheckpointView:
        """Several at once; None leaves a thing as it is. `aliases` are all that it then has.

        Raises ConflictError where an alias is another checkpoint's and is not to `move`, StaleError where what is said
        of it has none of the `expected` tags (`tag`).
        """
        row = self.find(digest)

        def check(marks: Marks) -> None:
            found = state(marks, digest)
            if expected is not None and found not in expected:
                raise StaleError(f"checkpoint {digest} has changed since: it is {found} now. Look at it again")
            if aliases is not None:
                marks.with_aliases(digest, row.dataset, aliases, move=move)  # raises where one is taken in any of them

        def change(marks: Marks) -> Marks:
            if aliases is not None:
                marks = marks.with_aliases(digest, row.dataset, aliases, move=move)
            if deprecated is not None:
                marks = marks.with_deprecated(digest, deprecated)
            return marks if staged is None else marks.with_staged(digest, staged)

        def forget(marks: Marks) -> Marks:
            if aliases is not None:
                for alias in set(marks.aliases_of(digest)) - set(aliases):
                    marks = marks.without_alias(alias, digest)
                for alias in aliases if move else ():
                    marks = marks.without_dataset(alias, row.dataset, but=digest)
            if deprecated is False:
                marks = marks.with_deprecated(digest, False)
            return marks.with_staged(digest, False) if staged is False else marks

        for alias in aliases or ():
            self._check_alias(alias)
        self._change(change, forget, check)
        self._in_catalog(self._annotate_rows)
        for action, value in (("aliases", aliases), ("deprecated", deprecated), ("staged", staged)):
            if value is not None:
                shown = ",".join(value) if isinstance(value, list) else value
                audit.record(action, digest, value=shown, dataset=row.dataset)
        return self.view(self.find(digest))

    def tag(self, digest: str) -> str:
        """An ETag of what is said of a checkpoint: changes with its aliases, deprecation and staging."""
        return state(self._marks, digest)

    def delete(self, reference: str) -> None:
        """Softly: the file stays until `zoo gc`, and `undelete` or publishing it again brings it back.

        Only by its whole digest: by a name that moves, like "best", the same again would delete the next. Raises
        NotADigestError, which says the digest.
        """
        digest = self.find(reference).digest
        if digest != reference:
            raise NotADigestError(
                f"only a whole digest deletes a checkpoint, so that doing it twice deletes one: {reference} is {digest}"
            )
        self._change(lambda marks: marks.with_deleted(digest), lambda marks: marks.without_names(digest))
        self._paths = {other: path for other, path in self._paths.items() if other != digest}
        self._in_catalog(lambda: self.catalog.remove([digest]))
        audit.record("delete", digest)

    def undelete(self, digest: str) -> CheckpointView:
        """Takes the mark away, as long as `zoo gc` has not deleted the file; its aliases do not come back.

        Raises NotFoundError where the file is gone, CheckpointError where it is damaged.
        """
        with suppress(NotFoundError):
            return self.view(self.find(digest))
        path = self.path(digest)
        root = next(root for root in self.roots if path.is_relative_to(root))
        (root / INCOMING).mkdir(exist_ok=True)
        with locked(root / INCOMING):
            load(path)
            row = self.admit(digest, path)
        audit.record("undelete", digest)
        return self.view(row)

    def measured(self, digest: str, measured: Measured) -> None:
        """Its test accuracy, as measured here: from now on this counts, whatever its file claims."""
        self._change(lambda marks: marks.with_measured(digest, measured), lambda marks: marks)
        self._in_catalog(self._annotate_rows)
        audit.record("measure", digest, accuracy=measured.accuracy, n=measured.n)

    def announce(self, digest: str, *, staged: bool, measured: Measured | None) -> None:
        """What is said of a checkpoint that is about to be put in place."""

        def change(marks: Marks) -> Marks:
            marks = marks.without_deleted(digest)
            if staged:
                marks = marks.with_staged(digest, True)
            return marks if measured is None else marks.with_measured(digest, measured)

        self._change(change, lambda marks: marks.without_deleted(digest))

    def admit(self, digest: str, path: Path) -> CheckpointRow:
        """Adds the row of a checkpoint that has been put in place. Raises BusyError, NoSpaceError."""
        self._change(*(lambda marks: marks.without_deleted(digest),) * 2)
        self._damaged.pop(path, None)
        [row] = self._labelled([_row(digest, read_header(path), self._marks)])
        self._paths = {**self._paths, digest: path}
        self._in_catalog(lambda: self.catalog.add([row]))
        return row

    def _in_catalog(self, change: Callable[[], object]) -> None:
        """In memory, where the file cannot be written to: the disk is full, or another process keeps it locked."""
        try:
            change()
        except DatabaseError as error:
            if not self.catalog.leave_file(error):
                raise
            change()

    def _change(
        self,
        change: Callable[[Marks], Marks],
        forget: Callable[[Marks], Marks],
        check: Callable[[Marks], None] = lambda _: None,
    ) -> None:
        """As Annotations.change; aliases become those of what their checkpoints' data sets are called now."""
        named = {digest for named in self._marks.aliases.values() for digest in named.values()}
        datasets = {digest: row.dataset for digest, row in self.catalog.rows(named).items()}
        self._annotations.change(
            lambda marks: change(marks.of_known_datasets(datasets)),
            lambda marks: forget(marks.of_known_datasets(datasets)),
            lambda marks: check(marks.of_known_datasets(datasets)),
        )

    def _check_alias(self, alias: str) -> None:
        if alias in RESERVED:
            raise ConflictError(f"alias {alias} has a meaning of its own: choose another name")
        if named := self.catalog.named(alias):
            raise ConflictError(f"alias {alias} is the name of checkpoint {named[0].digest}: choose another")

    # --- choosing --------------------------------------------------------------------------------------

    def choose(self, budget: Budget) -> CheckpointRow:
        """The one that the budget prefers. Raises NoModelMeetsConstraintsError, with the nearest checkpoint."""
        row = self.catalog.choose(budget)
        if row is None:
            raise self.nothing_meets(budget)
        return row

    def smallest(self, budget: Budget) -> CheckpointRow:
        """As `choose`: the fewest parameters."""
        return self.choose(budget.preferring("params"))

    def best(self, budget: Budget) -> CheckpointRow:
        """As `choose`: the highest accuracy."""
        return self.choose(budget.preferring("accuracy"))

    def select(self, budget: Budget, limit: int, cursor: str | None = None) -> tuple[Selection, str | None]:
        """A page of the eligible checkpoints, the preferred ones first, and the cursor of the next.

        Raises as `choose` where something was asked for, and ValueError for a cursor that no page of them gave out.
        """
        listing = self.catalog.listing(budget, limit, cursor)
        if listing.selected is None and budget.is_filtered():
            raise self.nothing_meets(budget)
        selection = Selection(
            dataset=listing.dataset,
            selected=None if listing.selected is None else self._view(listing.selected, listing.aliases),
            because=None if listing.selected is None else budget.because(),
            items=tuple(self._view(row, listing.aliases) for row in listing.page.rows),
            count=listing.count,
        )
        return selection, listing.page.next_cursor

    def cascade(self, min_acc: float, dataset: str | None = None) -> ReadyCascade:
        """The one with the fewest mean MACs that reaches the accuracy; without `dataset`, of the default one.

        Raises NoModelMeetsConstraintsError, and NotFoundError for a data set without cascades.
        """
        name = self.catalog.dataset_of(Budget(dataset=dataset))
        found = self._cascades.of(name or "")
        if not found:
            raise NotFoundError(
                f"data set {name} has no cascades: `zoo calibrate --zoo DIR --data PATH`, given the directories that "
                "are served and the images that the checkpoints were trained on, finds some"
            )
        index = bisect_left(found, min_acc, key=lambda ready: ready.cascade.accuracy)
        if index == len(found):
            best = found[-1]
            raise NoModelMeetsConstraintsError(
                f"no cascade of data set {name} reaches accuracy {min_acc:g}; the best one promises "
                f"{best.cascade.accuracy:.4f}: ask for less, or calibrate again if there are new checkpoints",
                self.view(self.find(best.rows[-1].digest)).model_dump(mode="json"),
            )
        return found[index]

    def nothing_meets(self, filters: Filters) -> NoModelMeetsConstraintsError:
        best = self.catalog.best_available(filters)
        dataset = self.catalog.dataset_of(filters)
        if best is None:
            return NoModelMeetsConstraintsError(self._holds_none_of(dataset), None)
        of_dataset = "" if dataset == ALL_DATASETS else f" of data set {dataset}"
        bounds = filters.model_copy(update={"dataset": None, "prefer": None})
        return NoModelMeetsConstraintsError(
            f"no checkpoint{of_dataset} meets {bounds}; {self._what_there_is(filters, best)}",
            self.view(best).model_dump(mode="json"),
        )

    def _holds_none_of(self, dataset: str | None) -> str:
        names = self.catalog.datasets()
        if dataset in (None, ALL_DATASETS) or not names:
            return "the zoo holds no checkpoint"
        are = "is" if len(names) == 1 else "are"
        return f"the zoo holds no checkpoint of data set {dataset}: there {are} {', '.join(names)}"

    def _what_there_is(self, filters: Filters, nearest: CheckpointRow) -> str:
        """Why nothing meets the bounds, where that is not a matter of more or less; else the nearest checkpoint."""
        if filters.family is not None and filters.family not in (families := self.catalog.families(filters)):
            are = "is the family" if len(families) == 1 else "are the families"
            return f"there {are} {', '.join(families)}"
        if filters.max_latency_ms is not None and not self.catalog.is_measured(filters):
            return (
                f"no latency has been measured on this machine ({device_name()}): `zoo calibrate --zoo DIR`, given the "
                "directories that are served, measures them"
            )
        accuracy = "unknown accuracy" if nearest.accuracy is None else f"accuracy {nearest.accuracy:.4f}"
        found = f"the nearest has {nearest.params:,} parameters and {accuracy} ({nearest.name})"
        return f"{found}: ask for less, or allow more"

    def rows(self, budget: Budget) -> list[CheckpointRow]:
        """All eligible rows, the preferred ones first."""
        page = self.catalog.page(budget, _PAGE)
        rows = list(page.rows)
        while page.next_cursor is not None:
            page = self.catalog.page(budget, _PAGE, page.next_cursor)
            rows += page.rows
        return rows

    def find(self, reference: str, dataset: str | None = None) -> CheckpointRow:
        """By digest, digest prefix, name or alias; computed aliases are about `dataset`, else the default one.

        Raises NotFoundError, also where the checkpoint is of another data set than `dataset`; GoneError where it was
        deleted.
        """
        try:
            row = self._find(reference, dataset)
        except NotFoundError:
            # Another process may have named or deleted it since the last sync.
            if not self._annotations.changed_elsewhere():
                raise
            self._annotations.read()
            row = self._find(reference, dataset)
        if dataset not in (None, ALL_DATASETS, row.dataset):
            raise NotFoundError(f"checkpoint {row.name} is of data set {row.dataset}, not of {dataset}")
        return row

    def _find(self, reference: str, dataset: str | None) -> CheckpointRow:
        named = self._named(reference)
        of_dataset = self.catalog.dataset_of(Budget(dataset=dataset)) if named else None
        if of_dataset == ALL_DATASETS and len(named) == 1:
            [of_dataset] = named
        try:
            row = self.catalog.find(named.get(of_dataset or "", reference), dataset)
            if row.digest in self._marks.deleted:  # its row is still to go
                raise NotFoundError(row.digest)
            return row
        except NotFoundError as error:
            if reference in COMPUTED_ALIASES and dataset not in (None, ALL_DATASETS, *self.catalog.datasets()):
                raise NotFoundError(self._holds_none_of(dataset)) from error
            if named:
                other, digest = next(iter(named.items()))
                name = found.name if (found := self.catalog.rows([digest]).get(digest)) else digest
                raise NotFoundError(
                    f"alias {reference}: checkpoint {name} is of data set {other}, not of {of_dataset}; name it with "
                    f"dataset={other}"
                ) from error
            deleted = [digest for digest in self._marks.deleted if digest.startswith(reference)]
            if deleted and len(reference) >= MIN_PREFIX:
                raise GoneError(f"checkpoint {deleted[0]} was deleted") from error
            raise

    def _named(self, alias: str) -> dict[str, str]:
        """The digests that have the alias, by what their data sets are called now."""
        named = self._marks.aliases.get(alias, {})
        rows = self.catalog.rows(named.values()) if named else {}
        return {rows[digest].dataset if digest in rows else dataset: digest for dataset, digest in named.items()}

    def view(self, row: CheckpointRow) -> CheckpointView:
        [view] = self.views([row])
        return view

    def views(self, rows: Iterable[CheckpointRow]) -> list[CheckpointView]:
        computed = self.catalog.aliases()
        return [self._view(row, computed) for row in rows]

    def _view(self, row: CheckpointRow, computed: Mapping[str, str]) -> CheckpointView:
        """`computed`: the digests of computed aliases."""
        aliases = [alias for alias, digest in computed.items() if digest == row.digest]
        return _view(row, aliases + self._marks.aliases_of(row.digest))

    def show(self, reference: str, dataset: str | None = None) -> CheckpointDetail:
        """As `find`."""
        row = self.find(reference, dataset)
        return CheckpointDetail(**dict(self.view(row)), descriptor=self.descriptor(row.digest))

    # --- files -----------------------------------------------------------------------------------------

    def paths(self) -> dict[str, Path]:
        """Every file by digest as of the last sync, those left out of the catalog too."""
        return dict(self._paths)

    def path(self, digest: str) -> Path:
        """Raises NotFoundError where the file is gone, BusyError where its directory is away for the moment."""
        path = self._paths.get(digest)
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
            self.catalog.remove([digest])
            raise

    def file(self, digest: str, file_format: str) -> bytes:
        """The checkpoint as "safetensors" or "onnx", or its descriptor as "json".

        Raises CheckpointError where the bytes are not the digest's.
        """
        if file_format == "onnx":
            return onnx_model.build(self.load(digest))
        if file_format == "json":
            return self.descriptor(digest).to_json().encode()
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


def _stamp(path: Path) -> Stamp:
    """Another one after each change: the time of the last change, unlike that of the content, cannot be put back."""
    status = path.stat()
    return status.st_ctime_ns, status.st_ino, status.st_size


def _row(digest: str, header: Header, marks: Marks) -> CheckpointRow:
    descriptor = header.descriptor
    test, measured = descriptor.metrics.test, marks.measured.get(digest)
    known = measured or test
    return CheckpointRow(
        digest=digest,
        name=_name(descriptor, digest),
        dataset=descriptor.dataset.name,
        images=image_set(descriptor),
        family=descriptor.architecture.family,
        params=header.params,
        macs=header.macs,
        bytes=header.size_bytes,
        onnx_bytes=onnx_model.size_bytes(descriptor),
        ram_bytes=ram_bytes(descriptor.architecture.graph()),
        accuracy=round(known.accuracy, DIGITS) if known else None,
        accuracy_in_full=known.accuracy if known else None,
        accuracy_n=known.n if known else None,
        accuracy_source=None if known is None else "claimed" if measured is None else "measured",
        val_accuracy=round(descriptor.metrics.validation.accuracy, DIGITS),
        classes=json.dumps(descriptor.classes, ensure_ascii=False),
        created_at=descriptor.created_at.isoformat(),
        parent=descriptor.lineage.parent,
        distilled_from=descriptor.lineage.distilled_from,
        deprecated=digest in marks.deprecated,
        staged=digest in marks.staged,
    )


def _name(descriptor: Descriptor, digest: str) -> str:
    """What it is called here. A distilled checkpoint has the name of its student, and may be one of several."""
    return f"{descriptor.name}-d{digest[:4]}" if descriptor.lineage.distilled_from else descriptor.name


def _view(row: CheckpointRow, aliases: list[str]) -> CheckpointView:
    known = row.accuracy is not None and row.accuracy_n is not None
    interval = wilson_interval(row.accuracy or 0, row.accuracy_n or 1) if known else None
    place = f"models/{row.digest}"  # relative to the service's root
    return CheckpointView(
        id=row.digest,
        name=row.name,
        dataset=row.dataset,
        family=row.family,
        params=row.params,
        macs=row.macs,
        bytes=row.bytes,
        onnx_bytes=row.onnx_bytes,
        ram_bytes=row.ram_bytes,
        latency_ms=row.latency_ms,
        accuracy=row.accuracy,
        accuracy_n=row.accuracy_n,
        accuracy_ci95=(round(interval[0], 4), round(interval[1], 4)) if interval else None,
        val_accuracy=row.val_accuracy,
        classes=tuple(json.loads(row.classes)),
        created_at=row.created,
        parent=row.parent,
        distilled_from=row.distilled_from,
        aliases=tuple(aliases),
        deprecated=row.deprecated,
        staged=row.staged,
        accuracy_source=row.accuracy_source,
        links=Links(self=place, file=f"{place}/file", onnx=f"{place}/file?format=onnx"),
    )
