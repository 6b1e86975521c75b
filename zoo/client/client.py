"""A zoo behind a URL, for programs: `ZooClient("http://127.0.0.1:8000").smallest(min_acc=0.8)`.

Importing this needs httpx and pydantic. `load` needs the library it loads for, Pillow images and arrays need Pillow.

Both clients ask what is in `zoo.client.operations`; they differ in how they wait for the network. What fails in passing
is asked again: no connection, one that broke off, 429 and 503.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, Unpack, overload

import httpx

from zoo.catalog.views import CheckpointDetail, CheckpointView, DatasetView, Prediction
from zoo.choosing.budget import ALL_DATASETS, Bounds, Budget, Complexity, FileFormat, Filters
from zoo.client.connection import opened, path_of, proxy_to
from zoo.client.operations import Operations, Runtime
from zoo.client.transport import Exchange, Outcome, Result, Send, Server, Wait, resumed
from zoo.client.upgradable import ElasticOperations
from zoo.errors import ZooError
from zoo.protocol import AnyPath, Marks, PredictOptions, Progress, Reference, Zoo

if TYPE_CHECKING:
    from zoo.checkpoint.file import Checkpoint
    from zoo.runtime.elastic import ElasticNetwork
    from zoo.runtime.module import TorchClassifier
    from zoo.runtime.onnx_classifier import OnnxClassifier


class ZooClient(Zoo):
    """A zoo behind a URL.

        with ZooClient("http://127.0.0.1:8000") as zoo:
            model = zoo.choose(min_acc=0.8)
            print(model.name, zoo.predict("frog.png", model)[0].label)

    Raises RemoteError for what the server refuses or where it cannot be reached, NotFoundError for an unknown
    checkpoint, NoModelMeetsConstraintsError, with the nearest one, for a budget that none meets, and pydantic's
    ValidationError (a ValueError) for one that makes no sense.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = 30.0,
        retries: int = 3,
        cache: AnyPath | None = None,
    ) -> None:
        """`cache`: where downloads go that are given no path; by default ~/.cache/checkpoint-zoo/files.

        `retries` counts failures in a row; waits begin at 0.1 s and double, or are as long as the server says.
        """
        proxy = proxy_to(url)
        self._http = opened(httpx.Client, url, token, timeout_s, proxy)
        self._zoo = Operations(Server(self._http.build_request, url, retries, proxy), path_of(cache))
        self._elastic = ElasticOperations(self._zoo)

    def close(self) -> None:
        self._http.close()

    def choose(self, **bounds: Unpack[Bounds]) -> CheckpointView:
        return self._run(self._zoo.choose(Budget(**bounds)))

    def models(self, **bounds: Unpack[Bounds]) -> Iterator[CheckpointView]:
        return self._pages(Budget(**bounds))

    def _pages(self, budget: Budget) -> Iterator[CheckpointView]:
        page = self._run(self._zoo.page(budget))
        yield from page.items
        while page.following:
            page = self._run(self._zoo.page(budget, page.following))
            yield from page.items

    def datasets(self) -> list[DatasetView]:
        return self._run(self._zoo.datasets())

    def pareto(self, x: Complexity = "params", **bounds: Unpack[Bounds]) -> list[CheckpointView]:
        return self._run(self._zoo.pareto(x, Filters.model_validate(bounds)))

    def show(self, reference: str, *, dataset: str | None = None) -> CheckpointDetail:
        return self._run(self._zoo.show(reference, dataset))

    def download(
        self,
        checkpoint: Reference | None = None,
        to: AnyPath | None = None,
        *,
        file_format: FileFormat = "safetensors",
        upgradable: bool = False,
        progress: Progress | None = None,
        **bounds: Unpack[Bounds],
    ) -> Path:
        """The path of the checkpoint's file: `to`, or one named by its SHA-256 in the cache.

        The file appears there whole and checked against its SHA-256, or not at all. A download that was interrupted
        goes on where it stopped, a file that is there already is not fetched again. Raises OSError where it cannot be
        written. Bytes in the budget are those of `file_format`.

        With `upgradable` it is the beginning of the elastic file that has the checkpoint as a level: it can be used as
        it is (`zoo.runtime.elastic`), and completed by `upgrade`. Raises ZooError where it is no level of one.
        """
        zoo = self._elastic if upgradable else self._zoo
        return self._run(zoo.download(checkpoint, path_of(to), file_format, progress, Budget(**bounds)))

    def upgrade(
        self, file: AnyPath, *, min_acc: float | None = None, progress: Progress | None = None
    ) -> CheckpointView:
        return self._run(self._elastic.upgrade(Path(file), min_acc, progress))

    @overload
    def load(
        self,
        checkpoint: Reference | None = None,
        *,
        as_: Literal["onnx"] = "onnx",
        elastic: Literal[False] = False,
        **bounds: Unpack[Bounds],
    ) -> OnnxClassifier: ...

    @overload
    def load(
        self,
        checkpoint: Reference | None = None,
        *,
        as_: Literal["torch"],
        elastic: Literal[False] = False,
        **bounds: Unpack[Bounds],
    ) -> TorchClassifier: ...

    @overload
    def load(
        self,
        checkpoint: Reference | None = None,
        *,
        as_: Runtime = "onnx",
        elastic: Literal[True],
        **bounds: Unpack[Bounds],
    ) -> ElasticNetwork[OnnxClassifier | TorchClassifier]: ...

    def load(
        self,
        checkpoint: Reference | None = None,
        *,
        as_: Runtime = "onnx",
        elastic: bool = False,
        **bounds: Unpack[Bounds],
    ) -> OnnxClassifier | TorchClassifier | ElasticNetwork[OnnxClassifier | TorchClassifier]:
        """The network, downloaded to the cache and ready: `model(images)` are logits, `model.predict(images)` labels.

        It prepares images as its descriptor says. For "torch" it is a torch.nn.Module. With `elastic` it has several
        sizes, the others fetched when they are asked for; see `zoo.runtime.elastic.ElasticNetwork`.
        """
        budget = Budget(**bounds)
        if elastic:
            return self._run(self._elastic.load(checkpoint, as_, budget, self._run))
        return self._run(self._zoo.load(checkpoint, as_, budget))

    def _predict(
        self, files: Sequence[bytes], model: Reference | None, options: PredictOptions
    ) -> list[list[Prediction]]:
        return self._run(self._zoo.predict(files, model, options))

    def verified(self) -> Iterator[tuple[str, Checkpoint | ZooError]]:
        """Each checkpoint by digest, as the server sends it now: read whole and checked, or what is wrong with it."""
        from zoo.checkpoint.file import load  # which needs safetensors

        with TemporaryDirectory() as folder:
            for view in self.models(dataset=ALL_DATASETS):
                try:
                    yield view.id, load(self.download(view, Path(folder) / "checkpoint"))
                except ZooError as error:
                    yield view.id, error

    def publish(self, data: bytes, *, stage: bool = False) -> CheckpointView:
        """This and all below need a token for publishing; what fails in passing may be repeated, and is."""
        return self._run(self._zoo.publish(data, stage=stage))

    def alias(self, alias: str, checkpoint: Reference, *, dataset: str | None = None) -> CheckpointView:
        return self._run(self._zoo.alias(alias, checkpoint, dataset))

    def unalias(self, alias: str, *, dataset: str | None = None) -> None:
        self._run(self._zoo.unalias(alias, dataset))

    def _mark(self, checkpoint: Reference, dataset: str | None, **marks: Unpack[Marks]) -> CheckpointView:
        return self._run(self._zoo.mark(checkpoint, dataset, **marks))

    def delete(self, checkpoint: Reference) -> None:
        self._run(self._zoo.delete(checkpoint))

    def undelete(self, digest: str) -> CheckpointView:
        return self._run(self._zoo.undelete(digest))

    def _run(self, exchange: Exchange[Result]) -> Result:
        outcome: Outcome = None
        with closing(exchange):
            try:
                while True:
                    outcome = self._do(resumed(exchange, outcome))
            except StopIteration as done:
                result: Result = done.value
                return result

    def _do(self, step: Send | Wait) -> Outcome:
        if isinstance(step, Wait):
            time.sleep(step.seconds)
            return None
        try:
            with closing(self._http.send(step.request, stream=True)) as response:
                if step.receive is None or not response.is_success:
                    response.read()
                    return response
                take = step.receive(response)
                for chunk in response.iter_raw():
                    take(chunk)
            return response
        except httpx.RequestError as error:
            return error
