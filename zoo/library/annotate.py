"""Annotates checkpoints: aliases, deprecation, staging, deletion, measured accuracies."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from pydantic import TypeAdapter, ValidationError

from zoo.catalog.protocol import Index
from zoo.catalog.rows import CheckpointRow
from zoo.catalog.views import CheckpointView
from zoo.errors import CatalogError, ConflictError, NotADigestError, NotFoundError, StaleError, ZooError
from zoo.library import audit
from zoo.library.choose import Chooser
from zoo.library.files import CheckpointFiles
from zoo.library.follow import Follower
from zoo.library.rows import row_of
from zoo.store.annotations import Annotations, tag
from zoo.store.entries import MAX_ALIASES, RESERVED, Alias, AliasEntry, Entry, Measured, MeasuredEntry, Said
from zoo.store.locks import locked

_ALIAS: TypeAdapter[str] = TypeAdapter(Alias)
# Tags of which what is said of a checkpoint should have one; None: any will do.
Expected: TypeAlias = Collection[str] | None


@dataclass(frozen=True)
class Annotator:
    """Belongs to a LocalZoo. All methods may be called from any thread.

    Changes raise AnnotationsError where annotations cannot be read, OSError where they cannot be written.
    """

    uploads: Path
    catalog: Index
    files: CheckpointFiles
    annotations: Annotations
    chooser: Chooser
    follower: Follower

    def alias(
        self, alias: str, reference: str, *, dataset: str | None = None, expected: Expected = None
    ) -> CheckpointView:
        """Gives a checkpoint the alias, in one step taken from whichever of its data set had it.

        Raises ConflictError where it has `MAX_ALIASES` others, StaleError as `mark`.
        """
        row = self.chooser.find(reference, dataset)
        self._check_alias(alias)

        def change(said: Said) -> list[Entry]:
            _check_seen(said, row.digest, expected)
            others = set(said.aliases_of(row.digest)) - {alias}
            if len(others) >= MAX_ALIASES:
                raise ConflictError(
                    f"checkpoint {row.digest} has {len(others)} aliases, at most {MAX_ALIASES} are kept"
                )
            return self._named(said, alias, row)

        self._change(change)
        audit.record("alias", row.digest, alias=alias, dataset=row.dataset)
        return self.chooser.view(row)

    def unalias(
        self, alias: str, reference: str | None = None, *, dataset: str | None = None, expected: Expected = None
    ) -> None:
        """Takes the alias away; with `reference` only if it is still that checkpoint's. Raises NotFoundError, and
        StaleError as `mark`."""
        row = self.chooser.find(alias if reference is None else reference, dataset)
        if alias not in self.annotations.said.aliases_of(row.digest):
            raise NotFoundError(f"checkpoint {row.digest} has no alias {alias}")

        def change(said: Said) -> list[Entry]:
            _check_seen(said, row.digest, expected)
            return said.unnamed(row.digest, [alias])

        self._change(change)
        audit.record("unalias", row.digest, alias=alias, dataset=row.dataset)

    def mark(
        self,
        digest: str,
        *,
        aliases: list[str] | None = None,
        deprecated: bool | None = None,
        staged: bool | None = None,
        move: bool = False,
        expected: Expected = None,
    ) -> CheckpointView:
        """Several at once; None leaves a thing as it is. `aliases` are all that it then has.

        Raises ConflictError where an alias is another checkpoint's and is not to `move`, StaleError where what is said
        of it has none of the `expected` tags (`tag`).
        """
        row = self.chooser.find(digest)

        def change(said: Said) -> list[Entry]:
            _check_seen(said, digest, expected)
            entries: list[Entry] = []
            if aliases is not None:
                entries += said.unnamed(digest, [alias for alias in said.aliases_of(digest) if alias not in aliases])
            for alias in aliases or ():
                taken = {*self._held(said, alias, row.dataset).values()} - {digest}
                if taken and not move:
                    raise ConflictError(
                        f"alias {alias} is that of checkpoint {min(taken)}: take it away there first, or move it "
                        '("move": true; `zoo alias`)'
                    )
                entries += self._named(said, alias, row)
            return entries + said.flagged(digest, deprecated=deprecated, staged=staged)

        for alias in aliases or ():
            self._check_alias(alias)
        self._change(change)
        self._in_catalog(self.follower.annotate_rows)
        for action, value in (("aliases", aliases), ("deprecated", deprecated), ("staged", staged)):
            if value is not None:
                shown = ",".join(value) if isinstance(value, list) else value
                audit.record(action, digest, value=shown, dataset=row.dataset)
        return self.chooser.view(self.chooser.find(digest))

    def tag(self, digest: str) -> str:
        """An ETag of what is said of a checkpoint: changes with its aliases, deprecation and staging."""
        return tag(self.annotations.said, digest)

    def delete(self, reference: str, *, expected: Expected = None) -> None:
        """Softly: the file stays until `zoo gc`, and `undelete` or publishing it again brings it back.

        Only by its whole digest: by a name that moves, like "best", the same again would delete the next. Raises
        NotADigestError, which says the digest, and StaleError as `mark`.
        """
        digest = self.chooser.find(reference).digest
        if digest != reference:
            raise NotADigestError(
                f"only a whole digest deletes a checkpoint, so that doing it twice deletes one: {reference} is {digest}"
            )

        def change(said: Said) -> list[Entry]:
            _check_seen(said, digest, expected)
            return said.flagged(digest, deleted=True)

        self._change(change)
        self.files.digests = self.files.digests - {digest}
        self._in_catalog(lambda: self.catalog.remove([digest]))
        audit.record("delete", digest)

    def undelete(self, digest: str) -> CheckpointView:
        """Takes the mark away, as long as `zoo gc` has not deleted the file; its aliases do not come back.

        Raises NotFoundError where the file is gone, CheckpointError where it is damaged.
        """
        with suppress(NotFoundError):
            return self.chooser.view(self.chooser.find(digest))
        self.files.size_bytes(digest)
        self.uploads.mkdir(exist_ok=True)
        with locked(self.uploads):
            self.files.decoded(digest)
            row = self.admit(digest)
        audit.record("undelete", digest)
        return self.chooser.view(row)

    def measured(self, digest: str, measured: Measured) -> None:
        """Records a test accuracy measured here, which replaces the one that the file claims."""
        self._change(lambda _: [MeasuredEntry(digest=digest, **measured.model_dump())])
        self._in_catalog(self.follower.annotate_rows)
        audit.record("measure", digest, accuracy=measured.accuracy, n=measured.n)

    def announce(self, digest: str, *, staged: bool, claimed: bool | None, measured: Measured | None) -> None:
        """Annotates a checkpoint before its file is put in place; `claimed` None leaves that flag unchanged."""

        def change(said: Said) -> list[Entry]:
            found = said.flagged(digest, deleted=False, staged=staged or None, claimed=claimed)
            return found if measured is None else [*found, MeasuredEntry(digest=digest, **measured.model_dump())]

        self._change(change)

    def admit(self, digest: str) -> CheckpointRow:
        """Adds the row of a checkpoint that has been put in place. Raises BusyError, NoSpaceError."""
        self._change(lambda said: said.flagged(digest, deleted=False))
        self.files.forget_damage(digest)
        header, place = self.files.header(digest), self.files.places.get(digest)
        [row] = self.follower.labelled([row_of(digest, header, self.annotations.said, place)])
        self.files.digests = self.files.digests | {digest}
        self._in_catalog(lambda: self.catalog.add([row]))
        if place is not None:  # a row that was there stays as it was
            self._in_catalog(lambda: self.catalog.follow_places({digest: place}, is_complete=False))
        return row

    def _in_catalog(self, change: Callable[[], object]) -> None:
        """Falls back to a catalog in memory where the file cannot be written: a full disk, a lock held elsewhere."""
        try:
            change()
        except CatalogError as error:
            if not self.catalog.leave_file(error):
                raise
            change()

    def _change(self, change: Callable[[Said], list[Entry]]) -> None:
        self.annotations.change(change, audit.actor())

    def _held(self, said: Said, alias: str, dataset: str) -> dict[str, str]:
        """Who has the alias in a data set, by the data set that was written down: it may be called otherwise now."""
        named = said.aliases.get(alias, {})
        rows = self.catalog.rows(named.values()) if named else {}
        return {
            key: digest for key, digest in named.items() if (rows[digest].dataset if digest in rows else key) == dataset
        }

    def _named(self, said: Said, alias: str, row: CheckpointRow) -> list[Entry]:
        held = self._held(said, alias, row.dataset)
        if held == {row.dataset: row.digest}:
            return []
        others: list[Entry] = [AliasEntry(alias=alias, dataset=key, digest=None) for key in held if key != row.dataset]
        return [*others, AliasEntry(alias=alias, dataset=row.dataset, digest=row.digest)]

    def _check_alias(self, alias: str) -> None:
        try:
            _ALIAS.validate_python(alias)
        except ValidationError as error:
            message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise ZooError(f"alias: {message} (got {alias!r})") from error
        if alias in RESERVED:
            raise ConflictError(f"alias {alias} has a meaning of its own: choose another name")
        if named := self.catalog.named(alias):
            raise ConflictError(f"alias {alias} is the name of checkpoint {named[0].digest}: choose another")


def _check_seen(said: Said, digest: str, expected: Expected) -> None:
    found = tag(said, digest)
    if expected is not None and found not in expected:
        raise StaleError(f"checkpoint {digest} has changed since: it is {found} now. Look at it again")
