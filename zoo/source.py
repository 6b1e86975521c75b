"""One zoo, near or far: what the command line asks of directories and of a server alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from zoo import checkpoint
from zoo.budget import ALL_DATASETS, Budget
from zoo.checkpoint import Checkpoint
from zoo.client import ZooClient
from zoo.errors import CheckpointError, NoModelMeetsConstraintsError, ZooError
from zoo.local import LocalZoo
from zoo.predictor import Prediction, Predictor
from zoo.publish import Upload, publish
from zoo.views import CheckpointDetail, CheckpointView

_PAGE = 1000


class Source(Protocol):
    def models(self, budget: Budget) -> list[CheckpointView]: ...

    def smallest(self, budget: Budget) -> CheckpointView: ...

    def show(self, reference: str) -> CheckpointDetail: ...

    def file(self, digest: str, file_format: str) -> bytes: ...

    def predict(self, digest: str, images: Sequence[bytes], top_k: int) -> list[list[Prediction]]: ...

    def publish(self, data: bytes) -> CheckpointView: ...

    def verified(self) -> Iterator[tuple[str, Checkpoint | ZooError]]:
        """Each checkpoint by digest: read whole and checked, or what is wrong with it."""
        ...


class LocalSource:
    def __init__(self, roots: Sequence[Path]) -> None:
        self.zoo = LocalZoo(roots)
        self.zoo.sync()

    def models(self, budget: Budget) -> list[CheckpointView]:
        page = self.zoo.catalog.page(budget, _PAGE)
        rows = list(page.rows)
        while page.next_cursor is not None:
            page = self.zoo.catalog.page(budget, _PAGE, page.next_cursor)
            rows += page.rows
        return self.zoo.views(rows)

    def smallest(self, budget: Budget) -> CheckpointView:
        return self.zoo.view(self.zoo.smallest(budget))

    def show(self, reference: str) -> CheckpointDetail:
        return self.zoo.show(reference)

    def file(self, digest: str, file_format: str) -> bytes:
        return self.zoo.file(digest, file_format)

    def predict(self, digest: str, images: Sequence[bytes], top_k: int) -> list[list[Prediction]]:
        predictor = Predictor(self.zoo.load(digest))
        return predictor.top_k(predictor.probabilities(predictor.decode(images)), top_k)

    def publish(self, data: bytes) -> CheckpointView:
        """Into the first directory."""
        root, digest = self.zoo.roots[0], checkpoint.digest_of(data)
        with Upload(root) as upload:
            upload.write(data)
            upload.keep(digest)
        row, _ = publish(self.zoo, root, digest)
        return self.zoo.view(row)

    def verified(self) -> Iterator[tuple[str, Checkpoint | ZooError]]:
        """Of all files, also those that the catalog leaves out."""
        for digest, path in sorted(self.zoo.paths().items()):
            try:
                yield digest, checkpoint.load(path)
            except (ZooError, OSError) as error:
                yield digest, error if isinstance(error, ZooError) else CheckpointError(str(error))


class RemoteSource(ZooClient):
    def models(self, budget: Budget) -> list[CheckpointView]:
        """As in a directory, no checkpoint within the budget is an empty list."""
        try:
            return super().models(budget)
        except NoModelMeetsConstraintsError:
            return []

    def verified(self) -> Iterator[tuple[str, Checkpoint | ZooError]]:
        for view in self.models(Budget(dataset=ALL_DATASETS)):
            try:
                yield view.id, checkpoint.decode(self.file(view.id), view.name)
            except ZooError as error:
                yield view.id, error
