"""What can be asked of a zoo and done to it, wherever it is.

A library on this machine (`zoo.library.local.LocalZoo`) and a client of a server (`zoo.client.ZooClient`) both have
these methods, so that a program and the command line need not know which of them they speak to:

    def smallest_file(zoo: Zoo) -> Path:
        return zoo.download(zoo.choose(min_acc=0.8), "small.safetensors")

Where no checkpoint is named a budget chooses (`zoo.choosing.budget`), whose fields are keyword arguments: with
`min_acc` the smallest, else the most accurate one within the bounds, unless `prefer` says otherwise.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self, TypeAlias, TypedDict, Unpack

from zoo.catalog.views import AnsweredBy, CheckpointDetail, CheckpointView, DatasetView, Prediction
from zoo.choosing.budget import Bounds, Budget, Complexity, FileFormat
from zoo.errors import ZooError
from zoo.images.inputs import Image

if TYPE_CHECKING:
    from zoo.checkpoint.file import Checkpoint

# A digest, a digest prefix, a name, an alias; or what another method has returned.
Reference: TypeAlias = str | CheckpointView
AnyPath: TypeAlias = str | os.PathLike[str]
Policy = Literal["single", "cascade", "adaptive"]
# Bytes that are there, and of how many if that is known.
Progress = Callable[[int, int | None], None]


class PredictOptions(Bounds, total=False):
    """`top_k`: how many classes to name for each image, 5 by default. `policy` "cascade": a small network first;
    "adaptive": the most accurate network that answers within `deadline_ms` under the present load. `told`: called
    with which that was and why, once for each batch of images."""

    top_k: int
    policy: Policy
    deadline_ms: float
    told: Callable[[AnsweredBy], None]


class Marks(TypedDict, total=False):
    deprecated: bool
    staged: bool


class Zoo(Protocol):
    """Raises NotFoundError for an unknown checkpoint, NoModelMeetsConstraintsError where none is within the budget."""

    def choose(self, **bounds: Unpack[Bounds]) -> CheckpointView: ...

    def smallest(self, **bounds: Unpack[Bounds]) -> CheckpointView: ...

    def best(self, **bounds: Unpack[Bounds]) -> CheckpointView: ...

    def models(self, **bounds: Unpack[Bounds]) -> Iterator[CheckpointView]: ...

    def pareto(self, x: Complexity = "params", **bounds: Unpack[Bounds]) -> list[CheckpointView]: ...

    def datasets(self) -> list[DatasetView]: ...

    def show(self, reference: str, *, dataset: str | None = None) -> CheckpointDetail: ...

    def download(
        self,
        checkpoint: Reference,
        to: AnyPath,
        *,
        file_format: FileFormat = "safetensors",
        upgradable: bool = False,
        progress: Progress | None = None,
    ) -> Path: ...

    def upgrade(
        self, file: AnyPath, *, min_acc: float | None = None, progress: Progress | None = None
    ) -> CheckpointView: ...

    def predict(
        self, images: Sequence[Image], model: Reference | None = None, **options: Unpack[PredictOptions]
    ) -> list[list[Prediction]]: ...

    def verified(self) -> Iterator[tuple[str, Checkpoint | ZooError]]: ...

    def publish(self, data: bytes, *, stage: bool = False) -> CheckpointView: ...

    def alias(self, alias: str, checkpoint: Reference, *, dataset: str | None = None) -> CheckpointView: ...

    def unalias(self, alias: str, *, dataset: str | None = None) -> None: ...

    def deprecate(self, checkpoint: Reference, *, dataset: str | None = None) -> CheckpointView: ...

    def undeprecate(self, checkpoint: Reference, *, dataset: str | None = None) -> CheckpointView: ...

    def stage(self, checkpoint: Reference, *, dataset: str | None = None) -> CheckpointView: ...

    def promote(self, checkpoint: Reference, *, dataset: str | None = None) -> CheckpointView: ...

    def delete(self, checkpoint: Reference) -> None: ...

    def undelete(self, digest: str) -> CheckpointView: ...

    def close(self) -> None: ...


def reference_of(checkpoint: Reference) -> str:
    return checkpoint if isinstance(checkpoint, str) else checkpoint.id


class ZooBase(ABC):
    """Those methods of a Zoo that are others of them with fixed arguments; and `with`, which closes it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def choose(self, **bounds: Unpack[Bounds]) -> CheckpointView: ...

    def smallest(self, **bounds: Unpack[Bounds]) -> CheckpointView:
        """Of those within the bounds, the one with the fewest parameters."""
        return self.choose(**Budget(**bounds).preferring("params").given())

    def best(self, **bounds: Unpack[Bounds]) -> CheckpointView:
        """Of those within the bounds, the most accurate one."""
        return self.choose(**Budget(**bounds).preferring("accuracy").given())

    @abstractmethod
    def _mark(self, checkpoint: Reference, dataset: str | None, **marks: Unpack[Marks]) -> CheckpointView: ...

    def deprecate(self, checkpoint: Reference, *, dataset: str | None = None) -> CheckpointView:
        """Then it is found by whatever names it, and chosen by no budget and no computed alias."""
        return self._mark(checkpoint, dataset, deprecated=True)

    def undeprecate(self, checkpoint: Reference, *, dataset: str | None = None) -> CheckpointView:
        """Has budgets choose a deprecated checkpoint again."""
        return self._mark(checkpoint, dataset, deprecated=False)

    def stage(self, checkpoint: Reference, *, dataset: str | None = None) -> CheckpointView:
        """Then it is found by its digest alone, until it is promoted."""
        return self._mark(checkpoint, dataset, staged=True)

    def promote(self, checkpoint: Reference, *, dataset: str | None = None) -> CheckpointView:
        """Makes a staged checkpoint one that budgets choose from."""
        return self._mark(checkpoint, dataset, staged=False)
