"""What can be asked of a zoo and done to it, wherever it is.

A library on this machine (`zoo.library.local.LocalZoo`) and a client of a server (`zoo.client.ZooClient`) are both a
`Zoo`, so that a program and the command line need not know which of them they speak to:

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
from typing import TYPE_CHECKING, Literal, Self, TypeAlias, TypedDict, Unpack, overload

from zoo.catalog.views import AnsweredBy, CheckpointDetail, CheckpointView, DatasetView, Prediction
from zoo.choosing.budget import Bounds, Budget, Complexity, FileFormat
from zoo.errors import ZooError
from zoo.images.inputs import Image, Images, encoded, is_one, listed

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


def reference_of(checkpoint: Reference) -> str:
    return checkpoint if isinstance(checkpoint, str) else checkpoint.id


class Zoo(ABC):
    """Raises NotFoundError for an unknown checkpoint, NoModelMeetsConstraintsError where none is within the budget.

    `with` closes it.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None: ...

    # --- choosing --------------------------------------------------------------------------------------

    @abstractmethod
    def choose(self, **bounds: Unpack[Bounds]) -> CheckpointView:
        """The checkpoint that the budget chooses; the other methods use it where none is named.

        >>> zoo.choose(min_acc=0.8)  # the smallest with that accuracy
        >>> zoo.choose(max_params=20_000)  # the most accurate of that size
        >>> zoo.choose(min_acc=0.8, prefer="macs")
        """

    def smallest(self, **bounds: Unpack[Bounds]) -> CheckpointView:
        """Of those within the bounds, the one with the fewest parameters."""
        return self.choose(**Budget(**bounds).preferring("params").given())

    def best(self, **bounds: Unpack[Bounds]) -> CheckpointView:
        """Of those within the bounds, the most accurate one."""
        return self.choose(**Budget(**bounds).preferring("accuracy").given())

    @abstractmethod
    def models(self, **bounds: Unpack[Bounds]) -> Iterator[CheckpointView]:
        """All checkpoints within the bounds, the preferred ones first; none if there are none."""

    @abstractmethod
    def pareto(self, x: Complexity = "params", **bounds: Unpack[Bounds]) -> list[CheckpointView]:
        """Those that no other beats in both accuracy and `x`, ascending."""

    @abstractmethod
    def datasets(self) -> list[DatasetView]:
        """The data sets of which there is a checkpoint to choose."""

    @abstractmethod
    def show(self, reference: str, *, dataset: str | None = None) -> CheckpointDetail:
        """One checkpoint with its whole descriptor, by digest, digest prefix, name or alias.

        `dataset`: whose "best" it is; beside a name, the data set that the checkpoint must be of.
        """

    # --- using -----------------------------------------------------------------------------------------

    @abstractmethod
    def download(
        self,
        checkpoint: Reference,
        to: AnyPath,
        *,
        file_format: FileFormat = "safetensors",
        upgradable: bool = False,
        progress: Progress | None = None,
    ) -> Path:
        """Writes the checkpoint's file; if `upgradable`, the beginning of the elastic file that it is a level of.

        Raises OSError where it cannot be written, ZooError where it is no level.
        """

    @abstractmethod
    def upgrade(
        self, file: AnyPath, *, min_acc: float | None = None, progress: Progress | None = None
    ) -> CheckpointView:
        """Completes a file that was downloaded as upgradable: up to its smallest level with that accuracy, or whole.

        What is missing is fetched, and checked; the file is replaced in one step. A whole one is, byte for byte, that
        which a new download would bring. Raises NoModelMeetsConstraintsError where no level reaches the accuracy.
        """

    @overload  # a path is a sequence too: the first that fits counts
    def predict(  # type: ignore[overload-overlap]
        self, images: Image, model: Reference | None = None, **options: Unpack[PredictOptions]
    ) -> list[Prediction]: ...

    @overload
    def predict(
        self, images: Sequence[Image], model: Reference | None = None, **options: Unpack[PredictOptions]
    ) -> list[list[Prediction]]: ...

    def predict(
        self, images: Images, model: Reference | None = None, **options: Unpack[PredictOptions]
    ) -> list[Prediction] | list[list[Prediction]]:
        """The likeliest classes of one image, likeliest first; or of each of a list.

        An image is a path, the bytes of a PNG, JPEG or WebP file, a Pillow image or a uint8 array. With the policy
        "cascade" a small network is asked first, a larger one where it is unsure; with "adaptive" and `deadline_ms`
        the most accurate one that answers in time, under a server's present load. Raises ImageError.
        """
        answers = self._predict([encoded(image) for image in listed(images)], model, options)
        return answers[0] if is_one(images) else answers

    @abstractmethod
    def _predict(
        self, files: Sequence[bytes], model: Reference | None, options: PredictOptions
    ) -> list[list[Prediction]]: ...

    @abstractmethod
    def verified(self) -> Iterator[tuple[str, Checkpoint | ZooError]]:
        """Each checkpoint by digest, read whole and checked, or what is wrong with it."""

    # --- changing --------------------------------------------------------------------------------------

    @abstractmethod
    def publish(self, data: bytes, *, stage: bool = False) -> CheckpointView:
        """Adds a checkpoint, given as the bytes of its file, once it is checked and was run.

        With `stage` it is found by its digest alone, until it is promoted.
        """

    @abstractmethod
    def alias(self, alias: str, checkpoint: Reference, *, dataset: str | None = None) -> CheckpointView:
        """Gives a checkpoint the alias, in one step taken from whichever of its data set had it."""

    @abstractmethod
    def unalias(self, alias: str, *, dataset: str | None = None) -> None:
        """Takes the alias away, in the default data set unless another is given."""

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

    @abstractmethod
    def delete(self, checkpoint: Reference) -> None:
        """Softly, and by its whole digest only (or as the object that another method returned)."""

    @abstractmethod
    def undelete(self, digest: str) -> CheckpointView:
        """Brings it back, as long as its file has not been collected."""
