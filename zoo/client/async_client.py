"""ZooClient's methods, to be awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, Self, Unpack, overload

import httpx

from zoo.catalog.views import CheckpointDetail, CheckpointView, DatasetView, Prediction
from zoo.choosing.budget import ALL_DATASETS, Bounds, Budget, Complexity, FileFormat, Filters
from zoo.client.client import ZooClient
from zoo.client.connection import opened, path_of, proxy_to
from zoo.client.operations import Operations, Runtime
from zoo.client.transport import Exchange, Outcome, Result, Send, Server, Wait, resumed
from zoo.client.upgradable import ElasticOperations
from zoo.errors import ZooError
from zoo.images.inputs import Image, Images, encoded, is_one, listed
from zoo.protocol import AnyPath, PredictOptions, Progress, Reference

if TYPE_CHECKING:
    from zoo.checkpoint.file import Checkpoint
    from zoo.runtime.elastic import ElasticNetwork
    from zoo.runtime.module import TorchClassifier
    from zoo.runtime.onnx_classifier import OnnxClassifier


class AsyncZooClient:
    """As ZooClient, and raises the same; methods are awaited, `models` is for `async for`.

        async with AsyncZooClient("http://127.0.0.1:8000") as zoo:
            print(await zoo.predict("frog.png", max_params=20_000))

    Downloads write to disk between two reads of the network, on the event loop.
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
        proxy = proxy_to(url)
        self._http = opened(httpx.AsyncClient, url, token, timeout_s, proxy)
        self._zoo = Operations(Server(self._http.build_request, url, retries, proxy), path_of(cache))
        self._elastic = ElasticOperations(self._zoo)
        self._waiting = partial(ZooClient, url, token, timeout_s=timeout_s, retries=retries, cache=cache)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def choose(self, **bounds: Unpack[Bounds]) -> CheckpointView:
        return await self._run(self._zoo.choose(Budget(**bounds)))

    async def smallest(self, **bounds: Unpack[Bounds]) -> CheckpointView:
        return await self._run(self._zoo.choose(Budget(**bounds).preferring("params")))

    async def best(self, **bounds: Unpack[Bounds]) -> CheckpointView:
        return await self._run(self._zoo.choose(Budget(**bounds).preferring("accuracy")))

    def models(self, **bounds: Unpack[Bounds]) -> AsyncIterator[CheckpointView]:
        return self._pages(Budget(**bounds))

    async def _pages(self, budget: Budget) -> AsyncIterator[CheckpointView]:
        page = await self._run(self._zoo.page(budget))
        for view in page.items:
            yield view
        while page.following:
            page = await self._run(self._zoo.page(budget, page.following))
            for view in page.items:
                yield view

    async def datasets(self) -> list[DatasetView]:
        return await self._run(self._zoo.datasets())

    async def pareto(self, x: Complexity = "params", **bounds: Unpack[Bounds]) -> list[CheckpointView]:
        return await self._run(self._zoo.pareto(x, Filters.model_validate(bounds)))

    async def show(self, reference: str, *, dataset: str | None = None) -> CheckpointDetail:
        return await self._run(self._zoo.show(reference, dataset))

    async def download(
        self,
        checkpoint: Reference | None = None,
        to: AnyPath | None = None,
        *,
        file_format: FileFormat = "safetensors",
        upgradable: bool = False,
        progress: Progress | None = None,
        **bounds: Unpack[Bounds],
    ) -> Path:
        zoo = self._elastic if upgradable else self._zoo
        return await self._run(zoo.download(checkpoint, path_of(to), file_format, progress, Budget(**bounds)))

    async def upgrade(
        self, file: AnyPath, *, min_acc: float | None = None, progress: Progress | None = None
    ) -> CheckpointView:
        return await self._run(self._elastic.upgrade(Path(file), min_acc, progress))

    @overload
    async def load(
        self,
        checkpoint: Reference | None = None,
        *,
        as_: Literal["onnx"] = "onnx",
        elastic: Literal[False] = False,
        **bounds: Unpack[Bounds],
    ) -> OnnxClassifier: ...

    @overload
    async def load(
        self,
        checkpoint: Reference | None = None,
        *,
        as_: Literal["torch"],
        elastic: Literal[False] = False,
        **bounds: Unpack[Bounds],
    ) -> TorchClassifier: ...

    @overload
    async def load(
        self,
        checkpoint: Reference | None = None,
        *,
        as_: Runtime = "onnx",
        elastic: Literal[True],
        **bounds: Unpack[Bounds],
    ) -> ElasticNetwork[OnnxClassifier | TorchClassifier]: ...

    async def load(
        self,
        checkpoint: Reference | None = None,
        *,
        as_: Runtime = "onnx",
        elastic: bool = False,
        **bounds: Unpack[Bounds],
    ) -> OnnxClassifier | TorchClassifier | ElasticNetwork[OnnxClassifier | TorchClassifier]:
        if not elastic:
            return await self._run(self._zoo.load(checkpoint, as_, Budget(**bounds)))
        return await self._run(self._elastic.load(checkpoint, as_, Budget(**bounds), self._wait))

    def _wait(self, exchange: Exchange[CheckpointView]) -> None:
        """For what a network fetches: its `upgrade` is no coroutine, and has a connection of its own."""
        with self._waiting() as zoo:
            zoo._run(exchange)

    @overload
    async def predict(  # type: ignore[overload-overlap]
        self, images: Image, model: Reference | None = None, **options: Unpack[PredictOptions]
    ) -> list[Prediction]: ...

    @overload
    async def predict(
        self, images: Sequence[Image], model: Reference | None = None, **options: Unpack[PredictOptions]
    ) -> list[list[Prediction]]: ...

    async def predict(
        self, images: Images, model: Reference | None = None, **options: Unpack[PredictOptions]
    ) -> list[Prediction] | list[list[Prediction]]:
        files = [encoded(image) for image in listed(images)]
        answers = await self._run(self._zoo.predict(files, model, options))
        return answers[0] if is_one(images) else answers

    async def verified(self) -> AsyncIterator[tuple[str, Checkpoint | ZooError]]:
        from zoo.checkpoint.file import load

        with TemporaryDirectory() as folder:
            async for view in self.models(dataset=ALL_DATASETS):
                try:
                    yield view.id, load(await self.download(view, Path(folder) / "checkpoint"))
                except ZooError as error:
                    yield view.id, error

    async def publish(self, data: bytes, *, stage: bool = False) -> CheckpointView:
        return await self._run(self._zoo.publish(data, stage=stage))

    async def alias(self, alias: str, checkpoint: Reference, *, dataset: str | None = None) -> CheckpointView:
        return await self._run(self._zoo.alias(alias, checkpoint, dataset))

    async def unalias(self, alias: str, *, dataset: str | None = None) -> None:
        await self._run(self._zoo.unalias(alias, dataset))

    async def deprecate(self, checkpoint: Reference, *, dataset: str | None = None) -> CheckpointView:
        return await self._run(self._zoo.mark(checkpoint, dataset, deprecated=True))

    async def undeprecate(self, checkpoint: Reference, *, dataset: str | None = None) -> CheckpointView:
        return await self._run(self._zoo.mark(checkpoint, dataset, deprecated=False))

    async def stage(self, checkpoint: Reference, *, dataset: str | None = None) -> CheckpointView:
        return await self._run(self._zoo.mark(checkpoint, dataset, staged=True))

    async def promote(self, checkpoint: Reference, *, dataset: str | None = None) -> CheckpointView:
        return await self._run(self._zoo.mark(checkpoint, dataset, staged=False))

    async def delete(self, checkpoint: Reference) -> None:
        await self._run(self._zoo.delete(checkpoint))

    async def undelete(self, digest: str) -> CheckpointView:
        return await self._run(self._zoo.undelete(digest))

    async def _run(self, exchange: Exchange[Result]) -> Result:
        outcome: Outcome = None
        with closing(exchange):
            try:
                while True:
                    outcome = await self._do(resumed(exchange, outcome))
            except StopIteration as done:
                result: Result = done.value
                return result

    async def _do(self, step: Send | Wait) -> Outcome:
        if isinstance(step, Wait):
            await asyncio.sleep(step.seconds)
            return None
        try:
            async with aclosing(await self._http.send(step.request, stream=True)) as response:
                if step.receive is None or not response.is_success:
                    await response.aread()
                    return response
                take = step.receive(response)
                async for chunk in response.aiter_raw():
                    take(chunk)
            return response
        except httpx.RequestError as error:
            return error
