"""Annotations: aliases, deprecation, staging, deletion and measured accuracies, which no checkpoint file can say.

    marks.json    {"aliases": {"stable": {"cifar10": "<digest>"}}, "deprecated": ["<digest>"], "staged": ["<digest>"],
                   "deleted": ["<digest>"], "measured": {"<digest>": {"accuracy": 0.8, "n": 10000}}}

A file beside the checkpoints, because a catalog can be thrown away at any time, and is another one where the same
directory is served together with others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from zoo.checkpoint.descriptor import Digest, Fraction, Slug
from zoo.errors import AnnotationsError, ConflictError
from zoo.store.directory import write_atomically

# Computed from the catalog, or taken in URLs: /models/file, /zoo/cifar10/resolve/main/…
RESERVED = ("smallest", "best", "latest", "file", "pareto", "main")


def _no_digits(alias: str) -> str:
    if re.fullmatch(r"[0-9a-f]{8,64}", alias):
        raise ValueError("an alias must not look like the first digits of a digest")
    return alias


Alias = Annotated[Slug, AfterValidator(_no_digits)]
# Where an earlier version wrote the alias, which knew one for all data sets.
_UNKNOWN: Literal["*"] = "*"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Measured(_Frozen):
    """Top-1 over the `n` test images that this zoo has asked a checkpoint about."""

    accuracy: Fraction
    n: Annotated[int, Field(ge=1)]


class Marks(_Frozen):
    # By alias and data set: each data set has a `stable` of its own.
    aliases: dict[Alias, dict[Slug | Literal["*"], Digest]] = {}
    deprecated: frozenset[Digest] = frozenset()
    staged: frozenset[Digest] = frozenset()
    deleted: frozenset[Digest] = frozenset()
    measured: dict[Digest, Measured] = {}

    @field_validator("aliases", mode="before")
    @classmethod
    def _of_one_for_all_data_sets(cls, value: Any) -> Any:
        """Until 0.1 an alias was one digest: {"stable": "<digest>"}."""
        if not isinstance(value, dict):
            return value
        return {alias: {_UNKNOWN: found} if isinstance(found, str) else found for alias, found in value.items()}

    # --- reading -----------------------------------------------------------------------------------------

    def aliases_of(self, digest: str) -> list[str]:
        return [alias for alias, named in self.aliases.items() if digest in named.values()]

    # --- changing ----------------------------------------------------------------------------------------

    def with_aliases(self, digest: str, dataset: str, aliases: list[str], *, move: bool = False) -> Self:
        """These and no others. Raises ConflictError where one is another checkpoint's, unless it is to `move`."""
        for alias in aliases:
            taken = self.aliases.get(alias, {}).get(dataset, digest)
            if taken != digest and not move:
                raise ConflictError(
                    f"alias {alias} is that of checkpoint {taken}: take it away there first, or move it "
                    '("move": true; `zoo alias`)'
                )
        kept = self._without_aliases_of(digest)
        return self._changed(aliases={**kept, **{alias: {**kept.get(alias, {}), dataset: digest} for alias in aliases}})

    def with_alias(self, alias: str, dataset: str, digest: str) -> Self:
        """Beside those that it has, and taken from whichever checkpoint of the data set had it."""
        return self._changed(aliases={**self.aliases, alias: {**self.aliases.get(alias, {}), dataset: digest}})

    def without_alias(self, alias: str, digest: str) -> Self:
        """The checkpoint no longer has it; others' are left alone."""
        left = {dataset: other for dataset, other in self.aliases.get(alias, {}).items() if other != digest}
        others = {other: named for other, named in self.aliases.items() if other != alias}
        return self._changed(aliases={**others, alias: left} if left else others)

    def without_dataset(self, alias: str, dataset: str, *, but: str = "") -> Self:
        """No checkpoint of the data set has it, `but` this one."""
        taken = self.aliases.get(alias, {}).get(dataset, but)
        return self if taken == but else self.without_alias(alias, taken)

    def of_known_datasets(self, datasets: Mapping[str, str]) -> Self:
        """Each alias is of the data set that its checkpoint is of, where that is known."""
        aliases = {
            alias: {datasets.get(digest, dataset): digest for dataset, digest in named.items()}
            for alias, named in self.aliases.items()
        }
        return self if aliases == self.aliases else self._changed(aliases=aliases)

    def with_deprecated(self, digest: str, deprecated: bool) -> Self:
        return self._changed(deprecated=self.deprecated | {digest} if deprecated else self.deprecated - {digest})

    def with_staged(self, digest: str, staged: bool) -> Self:
        return self._changed(staged=self.staged | {digest} if staged else self.staged - {digest})

    def with_measured(self, digest: str, measured: Measured) -> Self:
        return self._changed(measured={**self.measured, digest: measured})

    def with_deleted(self, digest: str) -> Self:
        """What was said of it is forgotten, but for what was measured."""
        return self.without_names(digest)._changed(deleted=self.deleted | {digest})

    def without_names(self, digest: str) -> Self:
        """Without its aliases, neither deprecated nor staged."""
        kept = self._without_aliases_of(digest)
        return self._changed(aliases=kept).with_deprecated(digest, False).with_staged(digest, False)

    def without_deleted(self, digest: str) -> Self:
        return self._changed(deleted=self.deleted - {digest})

    def _without_aliases_of(self, digest: str) -> dict[str, dict[str, str]]:
        left = {
            alias: {dataset: other for dataset, other in named.items() if other != digest}
            for alias, named in self.aliases.items()
        }
        return {alias: named for alias, named in left.items() if named}

    def _changed(self, **fields: object) -> Self:
        """Validated, as model_copy is not: what is written must be possible to read."""
        return type(self).model_validate({**dict(self), **fields})

    def __or__(self, other: Marks) -> Marks:
        """Both; where an alias of a data set is in both, this one's."""
        aliases = {
            alias: {**other.aliases.get(alias, {}), **self.aliases.get(alias, {})}
            for alias in {**other.aliases, **self.aliases}
        }
        return Marks(
            aliases=aliases,
            deprecated=self.deprecated | other.deprecated,
            staged=self.staged | other.staged,
            deleted=self.deleted | other.deleted,
            measured={**other.measured, **self.measured},
        )


Stamp = tuple[int, int, int] | None


class MarksFile:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "marks.json"

    def stamp(self) -> Stamp:
        """Another one after each change; None where no file can be seen."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    def read(self) -> Marks:
        """Raises AnnotationsError where the file is there and cannot be read as marks."""
        try:
            if self.path.exists() and not self.path.is_file():
                raise AnnotationsError(f"{self.path} is no ordinary file")
            return Marks.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return Marks()
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "all of it"
            raise AnnotationsError(f"{self.path}: {place}: {first['msg']}") from error
        except OSError as error:
            raise AnnotationsError(f"{self.path} cannot be read: {error.strerror}") from error

    def write(self, marks: Marks) -> None:
        """Raises OSError. The caller holds the directory's lock."""
        write_atomically(self.path, marks.model_dump_json(indent=1).encode())
