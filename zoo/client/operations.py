"""What can be asked of a zoo server: the methods of both clients, as exchanges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from zoo.catalog.views import AnsweredBy, CheckpointDetail, CheckpointView, Datasets, DatasetView, Prediction
from zoo.choosing.budget import Budget, Complexity, FileFormat, Filters
from zoo.client.download import fetch, is_digest, sha256_of_onnx
from zoo.client.transport import Exchange, Server
from zoo.errors import ImageError, NoModelMeetsConstraintsError, NotFoundError, ZooError
from zoo.protocol import PredictOptions, Progress, Reference, reference_of
from zoo.store.user_cache import user_cache

if TYPE_CHECKING:
    from zoo.checkpoint.file import Checkpoint
    from zoo.runtime.module import TorchClassifier
    from zoo.runtime.onnx_classifier import OnnxClassifier

Runtime = Literal["onnx", "torch"]

_PAGE = 200
# Half of what a server accepts by default.
_MAX_IMAGES = 64
_MAX_BYTES = 16 * 1024 * 1024


class Page(BaseModel):
    items: tuple[CheckpointView, ...]
    following: str | None = None


class _Selection(BaseModel):
    selected: CheckpointView | None


class _Answer(BaseModel):
    model: dict[str, Any]
    because: str | None = None
    predictions: list[list[Prediction]]


class Operations:
    def __init__(self, server: Server, cache: Path | None) -> None:
        self.server = server
        self._cache = cache

    @property
    def cache(self) -> Path:
        """Where downloads go that are given no path."""
        return self._cache or user_cache("files")

    # --- choosing --------------------------------------------------------------------------------------

    def choose(self, budget: Budget) -> Exchange[CheckpointView]:
        selection = yield from self.server.get(_Selection, "/models", {**budget.given(), "limit": 1})
        if selection.selected is None:
            raise NoModelMeetsConstraintsError(f"{self.server.url} holds no checkpoint", None)
        return selection.selected

    def page(self, budget: Budget, following: str | None = None) -> Exchange[Page]:
        """The first page, or the one at the address that the one before says is `following`."""
        params = None if following else {**budget.given(), "limit": _PAGE}
        try:
            response = yield from self.server.answer(
                lambda: self.server.build("GET", f"/{(following or 'models').lstrip('/')}", params=params)
            )
        except NoModelMeetsConstraintsError:
            return Page(items=())
        page = self.server.parsed(Page, response)
        return page.model_copy(update={"following": response.links.get("next", {}).get("url")})

    def datasets(self) -> Exchange[list[DatasetView]]:
        return list((yield from self.server.get(Datasets, "/datasets")).items)

    def pareto(self, x: Complexity, filters: Filters) -> Exchange[list[CheckpointView]]:
        try:
            page = yield from self.server.get(Page, "/models/pareto", {**filters.given(), "x": x})
        except NoModelMeetsConstraintsError:
            return []
        return list(page.items)

    def show(self, reference: str, dataset: str | None = None) -> Exchange[CheckpointDetail]:
        return (yield from self.server.get(CheckpointDetail, _path(reference), _of(dataset)))

    def digest(self, checkpoint: Reference | None, budget: Budget) -> Exchange[str]:
        if checkpoint is None:
            return (yield from self.choose(budget)).id
        name = checkpoint if isinstance(checkpoint, str) else checkpoint.name
        if budget.is_bounded():
            raise ZooError(f"{name} names one checkpoint: give it or a budget ({budget}), not both")
        reference = checkpoint if isinstance(checkpoint, str) else checkpoint.id
        if is_digest(reference) and budget.dataset is None:
            return reference
        return (yield from self.show(reference, budget.dataset)).id

    # --- files and networks ----------------------------------------------------------------------------

    def download(
        self,
        checkpoint: Reference | None,
        to: Path | None,
        file_format: FileFormat,
        progress: Progress | None,
        budget: Budget,
    ) -> Exchange[Path]:
        if file_format not in get_args(FileFormat):
            raise ZooError(f"file_format is one of {', '.join(get_args(FileFormat))}, not {file_format!r}")
        budget = budget.model_copy(update={"format": file_format})
        digest = yield from self.digest(checkpoint, budget)
        path = f"{_path(digest)}/file"
        of_file = digest if file_format == "safetensors" else (yield from sha256_of_onnx(self.server, path))
        target = to or self.cache / f"{of_file}.{file_format}"
        yield from fetch(self.server, path, of_file, target, file_format, progress)
        return target

    def load(
        self, checkpoint: Reference | None, runtime: Runtime, budget: Budget
    ) -> Exchange[OnnxClassifier | TorchClassifier]:
        check(runtime)
        path = yield from self.download(checkpoint, None, "safetensors", None, budget)
        with naming_extra(runtime):
            from zoo.checkpoint import file as checkpoints

            return network(checkpoints.load(path), runtime)

    # --- changing --------------------------------------------------------------------------------------

    def publish(self, data: bytes, *, stage: bool = False) -> Exchange[CheckpointView]:
        digest = sha256(data).hexdigest()
        yield from self.server.answer(lambda: self.server.build("PUT", f"/blobs/sha256:{digest}", content=data))
        return (yield from self._viewed("POST", "/models", json={"digest": digest, "stage": stage}))

    def undelete(self, digest: str) -> Exchange[CheckpointView]:
        return (yield from self._viewed("POST", "/models", json={"digest": digest}))

    def alias(self, alias: str, checkpoint: Reference, dataset: str | None) -> Exchange[CheckpointView]:
        path = f"{_path(reference_of(checkpoint))}/aliases/{quote(alias, safe='')}"
        return (yield from self._viewed("PUT", path, params=_of(dataset)))

    def unalias(self, alias: str, dataset: str | None) -> Exchange[None]:
        digest = (yield from self.show(alias, dataset)).id
        path = f"{_path(digest)}/aliases/{quote(alias, safe='')}"
        yield from self.server.answer(lambda: self.server.build("DELETE", path))

    def mark(self, checkpoint: Reference, dataset: str | None, **changes: bool) -> Exchange[CheckpointView]:
        path = _path(reference_of(checkpoint))
        return (yield from self._viewed("PATCH", path, params=_of(dataset), json=changes))

    def delete(self, checkpoint: Reference) -> Exchange[None]:
        yield from self.server.answer(lambda: self.server.build("DELETE", _path(reference_of(checkpoint))))

    def _viewed(self, method: str, path: str, **content: Any) -> Exchange[CheckpointView]:
        response = yield from self.server.answer(lambda: self.server.build(method, path, **content))
        return self.server.parsed(CheckpointView, response)

    # --- predicting ------------------------------------------------------------------------------------

    def predict(
        self, images: Sequence[bytes], model: Reference | None, options: PredictOptions
    ) -> Exchange[list[list[Prediction]]]:
        how: dict[str, Any] = {"top_k": options.pop("top_k", 5), "policy": options.pop("policy", "single")}
        if "deadline_ms" in options:
            how["deadline_ms"] = options.pop("deadline_ms")
        told = options.pop("told", None)
        named = {} if model is None else {"model": reference_of(model)}
        params = {**Budget.model_validate(options).given(), **named, **how}
        predictions: list[list[Prediction]] = []
        for batch in _batches(images):
            try:
                answer = yield from self._predict(batch, params)
            except ImageError as error:
                if len(batch) == len(images):
                    raise
                first, last = len(predictions) + 1, len(predictions) + len(batch)
                raise ImageError(f"images {first} to {last} of {len(images)}: {error}") from error
            predictions += answer.predictions
            if told is not None and how["policy"] == "adaptive":
                told(AnsweredBy.model_validate({**answer.model, "because": answer.because}))
        return predictions

    def _predict(self, images: Sequence[bytes], params: dict[str, Any]) -> Exchange[_Answer]:
        files = [("file", (f"{index}", image)) for index, image in enumerate(images)]

        def request() -> httpx.Request:
            built = self.server.build("POST", "/predict", params=params, files=files)
            built.read()  # joins the form; httpx would write each piece of it on its own, six for one image
            return built

        response = yield from self.server.answer(request)
        return self.server.parsed(_Answer, response)


def _of(dataset: str | None) -> dict[str, str]:
    return {} if dataset is None else {"dataset": dataset}


def _path(reference: str) -> str:
    if reference in ("", ".", ".."):  # which would lead elsewhere
        raise NotFoundError(f"no checkpoint {reference!r}: a digest, a name or an alias was expected")
    return f"/models/{quote(reference, safe='')}"


def _batches(images: Sequence[bytes]) -> Iterator[list[bytes]]:
    """In order, each within what a server accepts; an image that is too large alone is for the server to refuse."""
    batch: list[bytes] = []
    for image in images:
        if batch and (len(batch) == _MAX_IMAGES or sum(map(len, batch)) + len(image) > _MAX_BYTES):
            yield batch
            batch = []
        batch.append(image)
    if batch:
        yield batch


def check(runtime: Runtime) -> None:
    if runtime not in get_args(Runtime):
        raise ZooError(f"as_ is one of {', '.join(get_args(Runtime))}, not {runtime!r}")


@contextmanager
def naming_extra(runtime: Runtime) -> Iterator[None]:
    """That which has what is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        extra = "train" if runtime == "torch" else "local"
        raise ZooError(f"to run networks, pip install 'checkpoint-zoo[{extra}]' ({error})") from error


def network(checkpoint: Checkpoint, runtime: Runtime) -> OnnxClassifier | TorchClassifier:
    """Imports what only those need who load."""
    if runtime == "torch":
        from zoo.runtime.module import TorchClassifier

        return TorchClassifier(checkpoint)
    from zoo.runtime.onnx_classifier import OnnxClassifier

    return OnnxClassifier(checkpoint)
