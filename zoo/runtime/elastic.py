"""A network in several sizes, between which a program switches while it runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from zoo.catalog.views import Prediction
from zoo.checkpoint.descriptor import Descriptor
from zoo.checkpoint.elastic import ElasticFile, reaching
from zoo.checkpoint.file import Checkpoint, decode
from zoo.choosing.budget import Budget
from zoo.errors import CheckpointError, NotFoundError
from zoo.images.inputs import Images
from zoo.runtime.classifier import Classifier, Pixels

Made = TypeVar("Made", bound=Classifier)
# Fetches what the level with this number needs; the file is then opened anew.
Fetch = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class LevelSize:
    """A level, for who chooses among them. `accuracy` is top-1 on the test split, None where it is unknown."""

    number: int
    digest: str
    params: int
    macs: int
    bytes: int
    accuracy: float | None
    is_here: bool


class ElasticNetwork(Classifier, Generic[Made]):
    """The levels of one elastic file, on ONNX Runtime or on torch; `net(images)` and `net.predict(images)` ask one.

    >>> net = zoo.load(min_acc=0.8, elastic=True)
    >>> [(level.params, level.accuracy) for level in net.levels]
    [(6834, 0.8012), (16394, 0.8551), (34098, 0.8853)]
    >>> net.predict("frog.png")
    >>> net.upgrade(min_acc=0.86)  # fetches what is missing, and uses it
    >>> net.level = 0              # and back, at once: what was used stays loaded

    A level's number is its place in `levels`, the smallest first. Use one from one thread at a time.
    """

    def __init__(
        self, opened: Callable[[], BinaryIO], make: Callable[[Checkpoint], Made], fetch: Fetch | None = None
    ) -> None:
        """`opened` opens the file, whole or its beginning. It begins with the largest level that is there."""
        self._opened, self._make, self._fetch = opened, make, fetch
        self._networks: dict[int, Made] = {}
        self._look()
        self.level = max(level.number for level in self.levels if level.is_here)

    def _look(self) -> None:
        with self._opened() as file:
            elastic = ElasticFile(file)
            self._levels, there = elastic.levels, {level.number for level in elastic.there}
        if not there:
            raise CheckpointError(f"no level is whole: level 0 needs the first {self._levels[0].prefix_bytes} bytes")
        self.levels = tuple(
            LevelSize(
                level.number,
                level.digest,
                level.header.params,
                level.header.macs,
                level.header.size_bytes,
                level.accuracy,
                level.number in there,
            )
            for level in self._levels
        )

    @property
    def level(self) -> int:
        """The number of the level that answers."""
        return self._level

    @level.setter
    def level(self, number: int) -> None:
        """Raises CheckpointError where there is no such level, or its bytes are not there: `upgrade` fetches them."""
        if number not in self._networks:
            with self._opened() as file:
                self._networks[number] = self._make(decode(ElasticFile(file).extract(number), f"level {number}"))
        self._level = number

    @property
    def network(self) -> Made:
        """What answers: an OnnxClassifier or, on torch, a torch.nn.Module."""
        return self._networks[self._level]

    @property
    def descriptor(self) -> Descriptor:  # type: ignore[override]  # of the level that answers
        return self.network.descriptor

    def upgrade(self, min_acc: float | None = None) -> LevelSize:
        """Switches to the smallest level with that test accuracy, or to the largest; fetches it if need be.

        Where that one was deleted from its zoo, to the next that would do. Raises NoModelMeetsConstraintsError where no
        level has it, pydantic.ValidationError where it is no fraction, CheckpointError where it can be had nowhere.
        """
        Budget(min_acc=min_acc)
        *levels, last = [level.number for level in reaching(self._levels, min_acc)]
        for number in levels:
            with suppress(NotFoundError):
                return self._switched(number)
        return self._switched(last)

    def _switched(self, number: int) -> LevelSize:
        if not self.levels[number].is_here and self._fetch is not None:
            self._fetch(number)
            self._look()
        self.level = number
        return self.levels[number]

    def __call__(self, images: Images) -> Any:
        """Logits, (batch, classes): an array, or on torch a tensor. Raises ImageError."""
        network: Any = self.network
        return network(images)

    def _best(self, pixels: Pixels, top_k: int) -> list[list[Prediction]]:
        return self.network._best(pixels, top_k)


def open_elastic(file: Path, make: Callable[[Checkpoint], Made]) -> ElasticNetwork[Made]:
    """A file on this machine, without a zoo.

    >>> net = open_elastic(Path("net.safetensors"), OnnxClassifier)
    """
    return ElasticNetwork(lambda: file.open("rb"), make)
