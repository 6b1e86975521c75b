"""One zoo, near or far: what the command line asks of directories and of a server alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from zoo.catalog.views import CheckpointDetail, CheckpointView, DatasetView, Prediction
from zoo.checkpoint import file as checkpoint
from zoo.checkpoint.file import Checkpoint
from zoo.choosing.budget import ALL_DATASETS, Budget, FileFormat
from zoo.choosing.cascade import margins
from zoo.client import ZooClient
from zoo.client.download import Progress
from zoo.errors import CheckpointError, ZooError
from zoo.library.local import LocalZoo
from zoo.library.publish import Upload, publish
from zoo.runtime.predictor import Predictor
from zoo.store.directory import write_atomically

# As many as a cascade has stages.
_MAX_LOADED = 8


class Source(Protocol):
    @property
    def zoo(self) -> LocalZoo | ZooClient:
        """Aliases, deprecation, staging and deletion have the same methods near and far."""
        ...

    def models(self, budget: Budget) -> list[CheckpointView]: ...

    def choose(self, budget: Budget) -> CheckpointView: ...

    def datasets(self) -> list[DatasetView]: ...

    def show(self, reference: str, dataset: str | None) -> CheckpointDetail: ...

    def download(self, digest: str, to: Path, file_format: FileFormat, progress: Progress) -> None:
        """Raises OSError where the file cannot be written."""
        ...

    def predict(self, digest: str, images: Sequence[bytes], top_k: int) -> list[list[Prediction]]: ...

    def predict_by_cascade(self, budget: Budget, images: Sequence[bytes], top_k: int) -> list[list[Prediction]]:
        """`budget` is a least accuracy, perhaps of a data set."""
        ...

    def publish(self, data: bytes, stage: bool) -> CheckpointView: ...

    def verified(self) -> Iterator[tuple[str, Checkpoint | ZooError]]:
        """Each checkpoint by digest: read whole and checked, or what is wrong with it."""
        ...


class LocalSource:
    def __init__(self, roots: Sequence[Path]) -> None:
        self.zoo = LocalZoo(roots)
        self.zoo.sync()
        self._predictor = lru_cache(maxsize=_MAX_LOADED)(lambda digest: Predictor(self.zoo.load(digest)))

    def models(self, budget: Budget) -> list[CheckpointView]:
        return self.zoo.views(self.zoo.rows(budget))

    def choose(self, budget: Budget) -> CheckpointView:
        return self.zoo.view(self.zoo.choose(budget))

    def datasets(self) -> list[DatasetView]:
        return self.zoo.catalog.dataset_views()

    def show(self, reference: str, dataset: str | None) -> CheckpointDetail:
        return self.zoo.show(reference, dataset)

    def download(self, digest: str, to: Path, file_format: FileFormat, progress: Progress) -> None:
        data = self.zoo.file(digest, file_format)
        write_atomically(to, data)
        progress(len(data), len(data))

    def predict(self, digest: str, images: Sequence[bytes], top_k: int) -> list[list[Prediction]]:
        predictor = self._predictor(digest)
        return predictor.top_k(predictor.probabilities(predictor.decode(images)), top_k)

    def predict_by_cascade(self, budget: Budget, images: Sequence[bytes], top_k: int) -> list[list[Prediction]]:
        assert budget.min_acc is not None
        chosen = self.zoo.cascade(budget.min_acc, budget.dataset)
        answered: dict[int, list[Prediction]] = {}
        for stage in chosen.cascade.stages:
            unsure = [index for index in range(len(images)) if index not in answered]
            if not unsure:
                break
            predictor = Predictor(self.zoo.load(stage.digest))
            scores = predictor.probabilities(predictor.decode([images[index] for index in unsure]))
            sure = stage.is_sure(margins(scores))
            ranked = predictor.top_k(scores, top_k)
            answered |= {index: ranked[place] for place, index in enumerate(unsure) if sure[place]}
        return [answered[index] for index in range(len(images))]

    def publish(self, data: bytes, stage: bool) -> CheckpointView:
        """Into the first directory."""
        root, digest = self.zoo.roots[0], checkpoint.digest_of(data)
        with Upload(root) as upload:
            upload.write(data)
            upload.keep(digest)
        row, _ = publish(self.zoo, root, digest, stage=stage)
        return self.zoo.view(row)

    def verified(self) -> Iterator[tuple[str, Checkpoint | ZooError]]:
        """Of all files, also those that the catalog leaves out."""
        for digest, path in sorted(self.zoo.paths().items()):
            try:
                yield digest, checkpoint.load(path)
            except (ZooError, OSError) as error:
                yield digest, error if isinstance(error, ZooError) else CheckpointError(str(error))


class RemoteSource:
    def __init__(self, url: str, token: str | None) -> None:
        self.zoo = ZooClient(url, token)

    def models(self, budget: Budget) -> list[CheckpointView]:
        return list(self.zoo.models(**budget.given()))

    def choose(self, budget: Budget) -> CheckpointView:
        return self.zoo.choose(**budget.given())

    def datasets(self) -> list[DatasetView]:
        return self.zoo.datasets()

    def show(self, reference: str, dataset: str | None) -> CheckpointDetail:
        return self.zoo.show(reference, dataset=dataset)

    def download(self, digest: str, to: Path, file_format: FileFormat, progress: Progress) -> None:
        self.zoo.download(digest, to, file_format=file_format, progress=progress)

    def predict(self, digest: str, images: Sequence[bytes], top_k: int) -> list[list[Prediction]]:
        return self.zoo.predict(images, digest, top_k=top_k)

    def predict_by_cascade(self, budget: Budget, images: Sequence[bytes], top_k: int) -> list[list[Prediction]]:
        return self.zoo.predict(images, top_k=top_k, policy="cascade", **budget.given())

    def publish(self, data: bytes, stage: bool) -> CheckpointView:
        return self.zoo.publish(data, stage=stage)

    def verified(self) -> Iterator[tuple[str, Checkpoint | ZooError]]:
        """As the server sends them now: not from a cache."""
        with TemporaryDirectory() as folder:
            for view in self.zoo.models(dataset=ALL_DATASETS):
                try:
                    yield view.id, checkpoint.load(self.zoo.download(view, Path(folder) / "checkpoint"))
                except ZooError as error:
                    yield view.id, error
