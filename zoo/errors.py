"""What can go wrong with a zoo.

    ZooError
    ├── DescriptorError        a description that is no network, or one of another format version
    ├── CheckpointError        a file that is not one whole, valid checkpoint
    ├── ImageError             bytes that do not decode to a usable image
    ├── DataError              a data set that cannot be read or split
    ├── RunError               a training run that cannot start or go on
    ├── RemoteError            a zoo server that answered with a problem
    ├── ConflictError          a name that is taken
    ├── StaleError             what was to be changed has been changed since it was looked at
    ├── NotADigestError        a name where only a digest will do
    ├── NoSpaceError           a checkpoint that there is no room for
    ├── CatalogError           a catalog that cannot be read or written
    ├── BusyError              something that another process holds, or that is under way: ask again
    ├── AnnotationsError       annotations (annotations.jsonl) that cannot be read, and are therefore not changed
    └── NotFoundError          no checkpoint of that name, digest or alias
        ├── GoneError          there was one, and it was deleted
        └── NoModelMeetsConstraintsError   none within the budget; carries the nearest one

Messages name the thing, what was expected and what was found. They are translated once, at the
HTTP and command-line edges. All can be pickled, and so cross from one process to another.
"""

from __future__ import annotations

from typing import Any


class ZooError(Exception):
    """Base of every error that bad input can cause."""


class DescriptorError(ZooError):
    pass


class CheckpointError(ZooError):
    pass


class ImageError(ZooError):
    pass


class DataError(ZooError):
    pass


class RunError(ZooError):
    pass


class RemoteError(ZooError):
    """`status` is that of HTTP; None where the server gave no answer, or one that makes no sense."""

    def __init__(self, detail: str, status: int | None = None) -> None:
        super().__init__(detail)
        self.status = status


class ConflictError(ZooError):
    pass


class StaleError(ZooError):
    pass


class NotADigestError(ZooError):
    pass


class NoSpaceError(ZooError):
    pass


class CatalogError(ZooError):
    """`is_passing`: of its file or file system, and so mended or gone around with the next look."""

    def __init__(self, reason: str, *, is_passing: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_passing = is_passing

    def __str__(self) -> str:
        return f"the catalog cannot be read or written at the moment ({self.reason})"


class BusyError(ZooError):
    """Passing: the same again later may well succeed."""


class AnnotationsError(ZooError):
    pass


class NotFoundError(ZooError):
    pass


class GoneError(NotFoundError):
    pass


class NoModelMeetsConstraintsError(NotFoundError):
    """`best_available` is the nearest checkpoint as JSON shows it; None in an empty zoo."""

    def __init__(self, detail: str, best_available: dict[str, Any] | None = None) -> None:
        super().__init__(detail)
        self.best_available = best_available
