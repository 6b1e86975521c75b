"""Changing what is said of a zoo's checkpoints: aliases, deprecation, staging, deletion, measured accuracies."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

from sqlalchemy.exc import DatabaseError

from zoo.catalog.index import Catalog
from zoo.catalog.rows import CheckpointRow
from zoo.catalog.views import CheckpointView
from zoo.checkpoint.file import load, read_header
from zoo.errors import ConflictError, NotADigestError, NotFoundError, StaleError
from zoo.library import audit
from zoo.library.annotated import Annotations, state
from zoo.library.choose import Chooser
from zoo.library.files import CheckpointFiles
from zoo.library.follow import Follower
from zoo.library.rows import row_of
from zoo.store.annotations import RESERVED, Marks, Measured
from zoo.store.directory import INCOMING
from zoo.store.locks import locked


class Annotator:
    """Belongs to a LocalZoo. All methods may be called from any thread.

    What changes something raises AnnotationsError where marks.json cannot be read, OSError where it cannot be written.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        catalog: Catalog,
        files: CheckpointFiles,
        annotations: Annotations,
        chooser: Chooser,
        follower: Follower,
    ) -> None:
        self._roots = roots
        self._catalog = catalog
        self._files = files
        self._annotations = annotations
        self._chooser = chooser
        self._follower = follower

    def alias(self, alias: str, reference: str, *, dataset: str | None = None) -> CheckpointView:
        """Gives a checkpoint the alias, in one step taken from whichever of its data set had it."""
        row = self._chooser.find(reference, dataset)
        self._check_alias(alias)
        self._change(
            lambda marks: marks.with_alias(alias, row.dataset, row.digest),
            # In the other directories whoever else had it, has it no longer.
            lambda marks: marks.without_dataset(alias, row.dataset),
        )
        audit.record("alias", row.digest, alias=alias, dataset=row.dataset)
        return self._chooser.view(row)

    def unalias(self, alias: str, reference: str | None = None, *, dataset: str | None = None) -> None:
        """Takes the alias away; with `reference` only if it is still that checkpoint's. Raises NotFoundError."""
        row = self._chooser.find(alias if reference is None else reference, dataset)
        if alias not in self._annotations.marks.aliases_of(row.digest):
            raise NotFoundError(f"checkpoint {row.digest} has no alias {alias}")
        self._change(*(lambda marks: marks.without_alias(alias, row.digest),) * 2)
        audit.record("unalias", row.digest, alias=alias, dataset=row.dataset)

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
        row = self._chooser.find(digest)

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
        self._in_catalog(self._follower.annotate_rows)
        for action, value in (("aliases", aliases), ("deprecated", deprecated), ("staged", staged)):
            if value is not None:
                shown = ",".join(value) if isinstance(value, list) else value
                audit.record(action, digest, value=shown, dataset=row.dataset)
        return self._chooser.view(self._chooser.find(digest))

    def tag(self, digest: str) -> str:
        """An ETag of what is said of a checkpoint: changes with its aliases, deprecation and staging."""
        return state(self._annotations.marks, digest)

    def delete(self, reference: str) -> None:
        """Softly: the file stays until `zoo gc`, and `undelete` or publishing it again brings it back.

        Only by its whole digest: by a name that moves, like "best", the same again would delete the next. Raises
        NotADigestError, which says the digest.
        """
        digest = self._chooser.find(reference).digest
        if digest != reference:
            raise NotADigestError(
                f"only a whole digest deletes a checkpoint, so that doing it twice deletes one: {reference} is {digest}"
            )
        self._change(lambda marks: marks.with_deleted(digest), lambda marks: marks.without_names(digest))
        self._files.paths = {other: path for other, path in self._files.paths.items() if other != digest}
        self._in_catalog(lambda: self._catalog.remove([digest]))
        audit.record("delete", digest)

    def undelete(self, digest: str) -> CheckpointView:
        """Takes the mark away, as long as `zoo gc` has not deleted the file; its aliases do not come back.

        Raises NotFoundError where the file is gone, CheckpointError where it is damaged.
        """
        with suppress(NotFoundError):
            return self._chooser.view(self._chooser.find(digest))
        path = self._files.path(digest)
        root = next(root for root in self._roots if path.is_relative_to(root))
        (root / INCOMING).mkdir(exist_ok=True)
        with locked(root / INCOMING):
            load(path)
            row = self.admit(digest, path)
        audit.record("undelete", digest)
        return self._chooser.view(row)

    def measured(self, digest: str, measured: Measured) -> None:
        """Its test accuracy, as measured here: from now on this counts, whatever its file claims."""
        self._change(lambda marks: marks.with_measured(digest, measured), lambda marks: marks)
        self._in_catalog(self._follower.annotate_rows)
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
        self._files.forget_damage(path)
        [row] = self._follower.labelled([row_of(digest, read_header(path), self._annotations.marks)])
        self._files.paths = {**self._files.paths, digest: path}
        self._in_catalog(lambda: self._catalog.add([row]))
        return row

    def _in_catalog(self, change: Callable[[], object]) -> None:
        """In memory, where the file cannot be written to: the disk is full, or another process keeps it locked."""
        try:
            change()
        except DatabaseError as error:
            if not self._catalog.leave_file(error):
                raise
            change()

    def _change(
        self,
        change: Callable[[Marks], Marks],
        forget: Callable[[Marks], Marks],
        check: Callable[[Marks], None] = lambda _: None,
    ) -> None:
        """As Annotations.change; aliases become those of what their checkpoints' data sets are called now."""
        named = {digest for named in self._annotations.marks.aliases.values() for digest in named.values()}
        datasets = {digest: row.dataset for digest, row in self._catalog.rows(named).items()}
        self._annotations.change(
            lambda marks: change(marks.of_known_datasets(datasets)),
            lambda marks: forget(marks.of_known_datasets(datasets)),
            lambda marks: check(marks.of_known_datasets(datasets)),
        )

    def _check_alias(self, alias: str) -> None:
        if alias in RESERVED:
            raise ConflictError(f"alias {alias} has a meaning of its own: choose another name")
        if named := self._catalog.named(alias):
            raise ConflictError(f"alias {alias} is the name of checkpoint {named[0].digest}: choose another")
