"""What people have said of checkpoints since they were made: aliases, what is deprecated, what is deleted.

    marks.json    {"aliases": {"stable": "<digest>"}, "deprecated": ["<digest>"], "deleted": ["<digest>"]}

A file beside the checkpoints, because a catalog can be thrown away at any time, and is another one where the same
directory is served together with others.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from zoo.descriptor import Digest, Slug
from zoo.errors import ConflictError, ZooError
from zoo.locks import locked
from zoo.storage import write_atomically

# Computed from the catalog, or taken in URLs: /models/file, /zoo/cifar10/resolve/main/…
RESERVED = ("smallest", "best", "latest", "file", "pareto", "main")


def _no_digits(alias: str) -> str:
    if re.fullmatch(r"[0-9a-f]{8,64}", alias):
        raise ValueError("an alias must not look like the first digits of a digest")
    return alias


Alias = Annotated[Slug, AfterValidator(_no_digits)]


class Marks(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    aliases: dict[Alias, Digest] = {}
    deprecated: frozenset[Digest] = frozenset()
    deleted: frozenset[Digest] = frozenset()

    def with_aliases(self, digest: str, aliases: list[str]) -> Self:
        """These and no others. Raises ConflictError where one is taken."""
        for alias in aliases:
            if alias in RESERVED:
                raise ConflictError(f"alias {alias} has a meaning of its own: choose another name")
            if self.aliases.get(alias, digest) != digest:
                raise ConflictError(
                    f"alias {alias} is that of checkpoint {self.aliases[alias]}: take it away there first"
                )
        others = {alias: marked for alias, marked in self.aliases.items() if marked != digest}
        return self._changed(aliases=others | dict.fromkeys(aliases, digest))

    def with_deprecated(self, digest: str, deprecated: bool) -> Self:
        marked = self.deprecated | {digest} if deprecated else self.deprecated - {digest}
        return self._changed(deprecated=marked)

    def with_deleted(self, digest: str) -> Self:
        """What else was said of it is forgotten."""
        return self.without_names(digest)._changed(deleted=self.deleted | {digest})

    def without_names(self, digest: str) -> Self:
        """Without its aliases, and not deprecated."""
        return self.with_aliases(digest, []).with_deprecated(digest, False)

    def without_deleted(self, digest: str) -> Self:
        return self._changed(deleted=self.deleted - {digest})

    def _changed(self, **fields: object) -> Self:
        """Validated, as model_copy is not: what is written must be possible to read."""
        return type(self).model_validate({**dict(self), **fields})

    def __or__(self, other: Marks) -> Marks:
        """Both; where an alias is in both, this one's."""
        return Marks(
            aliases=other.aliases | self.aliases,
            deprecated=self.deprecated | other.deprecated,
            deleted=self.deleted | other.deleted,
        )


Stamp = tuple[int, int, int] | None


class MarksFile:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / "marks.json"

    def stamp(self) -> Stamp:
        """Another one after each change; None where there is no file."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    def read(self) -> Marks:
        """Raises ZooError where the file is there and cannot be read as marks."""
        try:
            return Marks.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return Marks()
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "all of it"
            raise ZooError(f"{self._path}: {place}: {first['msg']}") from error

    def change(self, change: Callable[[Marks], Marks]) -> None:
        """Reads, changes and writes, and lets no other process do so meanwhile. Raises what `change` raises."""
        with locked(self._root):
            before = self.read()
            after = change(before)
            if after != before:
                write_atomically(self._path, after.model_dump_json(indent=1).encode())
