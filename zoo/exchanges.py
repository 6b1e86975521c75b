"""What is said to a zoo server and what its answers mean: without a socket, and so written once for both clients.

An exchange is a generator, as the auth flows of httpx are. It yields what is to be done next, is sent the response or
thrown the network's error, and returns what the caller asked for:

    exchange ──── Send(request), Wait(seconds) ────► ZooClient or AsyncZooClient ────► network
             ◄─── response, httpx.RequestError ────
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from zoo.budget import Budget, Complexity
from zoo.errors import ImageError, NoModelMeetsConstraintsError, NotFoundError, RemoteError, ZooError
from zoo.partial_file import PartialFile, has_sha256, partial_file
from zoo.user_cache import user_cache
from zoo.views import CheckpointDetail, CheckpointView, Prediction

if TYPE_CHECKING:
    from zoo.module import TorchClassifier
    from zoo.onnx_classifier import OnnxClassifier

FileFormat = Literal["safetensors", "onnx"]
Runtime = Literal["onnx", "torch"]
# Bytes that are there, and of how many if the server said.
Progress = Callable[[int, int | None], None]

_PAGE = 200
# Half of what a server accepts by default.
_MAX_IMAGES = 64
_MAX_BYTES = 16 * 1024 * 1024
_FIRST_WAIT_S = 0.1
# A server that wants more patience than this is down, for a program that waits.
_LONGEST_WAIT_S = 30.0
_BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_UNREACHED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol)
_PASSING = (httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError)
_DIGEST = re.compile(r"[0-9a-f]{64}")

Receive = Callable[[httpx.Response], Callable[[bytes], None]]
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Send:
    """`receive`, given the head of a successful response, returns what takes its bytes as they come."""

    request: httpx.Request
    receive: Receive | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float


Result = TypeVar("Result")
Exchange = Generator[Send | Wait, Any, Result]


class Page(BaseModel):
    items: tuple[CheckpointView, ...]
    following: str | None = None


class _Answer(BaseModel):
    predictions: list[list[Prediction]]


class _Selection(BaseModel):
    selected: CheckpointView | None


class Exchanges:
    """All requests may be repeated: none changes more the second time than the first."""

    def __init__(self, build: Callable[..., httpx.Request], url: str, cache: Path | None, retries: int) -> None:
        """`build`: a client's `build_request`, which knows the server's address and the token."""
        self._build = build
        self._url = url
        self._cache = cache
        self._retries = retries

    # --- choosing --------------------------------------------------------------------------------------

    def smallest(self, budget: Budget) -> Exchange[CheckpointView]:
        selection = yield from self._get(_Selection, "/models", {**budget.given(), "limit": 1})
        if selection.selected is None:
            raise NoModelMeetsConstraintsError(f"{self._url} holds no checkpoint", None)
        return selection.selected

    def page(self, budget: Budget, following: str | None = None) -> Exchange[Page]:
        """The first page, or the one at the address that the one before says is `following`."""
        params = None if following else {**budget.given(), "limit": _PAGE}
        try:
            response = yield from self._answer(lambda: self._build("GET", following or "/models", params=params))
        except NoModelMeetsConstraintsError:
            return Page(items=())
        page = self._parsed(Page, response)
        return page.model_copy(update={"following": response.links.get("next", {}).get("url")})

    def pareto(self, x: Complexity, budget: Budget) -> Exchange[list[CheckpointView]]:
        try:
            page = yield from self._get(Page, "/models/pareto", {**budget.given(), "x": x})
        except NoModelMeetsConstraintsError:
            return []
        return list(page.items)

    def show(self, reference: str) -> Exchange[CheckpointDetail]:
        return (yield from self._get(CheckpointDetail, _path(reference)))

    def _digest(self, checkpoint: str | CheckpointView | None, budget: Budget) -> Exchange[str]:
        if checkpoint is None:
            return (yield from self.smallest(budget)).id
        name = checkpoint if isinstance(checkpoint, str) else checkpoint.name
        if budget.given():
            raise ZooError(f"{name} names one checkpoint: give it or a budget ({budget}), not both")
        if isinstance(checkpoint, CheckpointView):
            return checkpoint.id
        return name if _DIGEST.fullmatch(name) else (yield from self.show(name)).id

    # --- files -----------------------------------------------------------------------------------------

    def download(
        self,
        checkpoint: str | CheckpointView | None,
        to: Path | None,
        file_format: FileFormat,
        progress: Progress | None,
        budget: Budget,
    ) -> Exchange[Path]:
        digest = yield from self._digest(checkpoint, budget)
        sha256 = digest if file_format == "safetensors" else (yield from self._sha256_of_onnx(digest))
        target = to or (self._cache or user_cache("files")) / f"{sha256}.{file_format}"
        if not has_sha256(target, sha256):
            with partial_file(target, sha256) as partial:
                yield from self._complete(partial, sha256, f"{_path(digest)}/file", {"format": file_format}, progress)
                partial.move_to(target)
        return target

    def _sha256_of_onnx(self, digest: str) -> Exchange[str]:
        """Other versions of a server may write the same network as other bytes."""
        url, params = f"{_path(digest)}/file", {"format": "onnx"}
        response = yield from self._answer(lambda: self._build("HEAD", url, params=params))
        etag = response.headers.get("etag", "").strip('"')
        if not _DIGEST.fullmatch(etag):
            raise RemoteError(f"{response.url}: the ETag should be the SHA-256 of the file, is {etag!r}")
        return etag

    def _complete(
        self, partial: PartialFile, sha256: str, url: str, params: dict[str, str], progress: Progress | None
    ) -> Exchange[None]:
        """Goes on where the file ends, as often as it takes; from its start if what was there before was damaged."""

        def request() -> httpx.Request:
            # Bytes on the way are those of the file: no compression, and a part only of this very file.
            headers = {"Accept-Encoding": "identity"}
            if partial.size:
                headers |= {"Range": f"bytes={partial.size}-", "If-Range": f'"{sha256}"'}
            return self._build("GET", url, params=params, headers=headers)

        def receive(response: httpx.Response) -> Callable[[bytes], None]:
            if response.status_code != HTTPStatus.PARTIAL_CONTENT:
                partial.restart()
            length = response.headers.get("content-length", "")
            total = partial.size + int(length) if length.isdecimal() else None

            def take(chunk: bytes) -> None:
                partial.append(chunk)
                if progress:
                    progress(partial.size, total)

            return take

        was_resumed = partial.size > 0
        if partial.sha256 == sha256:
            return
        try:
            yield from self._answer(request, receive, reached=lambda: partial.size)
        except RemoteError as error:
            if error.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
        if was_resumed and partial.sha256 != sha256:
            partial.restart()
            yield from self._answer(request, receive, reached=lambda: partial.size)
        if partial.sha256 != sha256:
            found = partial.sha256
            partial.restart()
            raise RemoteError(f"{self._url} sent other bytes than those of {sha256}: their SHA-256 is {found}")

    def load(
        self, checkpoint: str | CheckpointView | None, runtime: Runtime, budget: Budget
    ) -> Exchange[OnnxClassifier | TorchClassifier]:
        path = yield from self.download(checkpoint, None, "safetensors", None, budget)
        # What only those need who load.
        from zoo import checkpoint as checkpoints

        loaded = checkpoints.load(path)
        if runtime == "torch":
            from zoo.module import TorchClassifier

            return TorchClassifier(loaded)
        from zoo.onnx_classifier import OnnxClassifier

        return OnnxClassifier(loaded)

    # --- predicting ------------------------------------------------------------------------------------

    def predict(
        self, images: Sequence[bytes], model: str | CheckpointView | None, top_k: int, budget: Budget
    ) -> Exchange[list[list[Prediction]]]:
        named = {} if model is None else {"model": model if isinstance(model, str) else model.id}
        params = {**budget.given(), **named, "top_k": top_k}
        predictions: list[list[Prediction]] = []
        for batch in _batches(images):
            answer = yield from self._predict(batch, params)
            predictions += answer.predictions
        return predictions

    def _predict(self, images: Sequence[bytes], params: dict[str, Any]) -> Exchange[_Answer]:
        files = [("file", (f"{index}", image)) for index, image in enumerate(images)]
        response = yield from self._answer(lambda: self._build("POST", "/predict", params=params, files=files))
        return self._parsed(_Answer, response)

    # --- asking ----------------------------------------------------------------------------------------

    def _get(self, model: type[Model], url: str, params: dict[str, Any] | None = None) -> Exchange[Model]:
        response = yield from self._answer(lambda: self._build("GET", url, params=params))
        return self._parsed(model, response)

    def _answer(
        self,
        request: Callable[[], httpx.Request],
        receive: Receive | None = None,
        reached: Callable[[], int] = lambda: 0,
    ) -> Exchange[httpx.Response]:
        """Asks until there is a successful response; failures count in a row, as long as no more is `reached`.

        Raises what the last failure means.
        """
        failures, furthest = 0, reached()
        while True:
            failure: httpx.Response | httpx.RequestError
            try:
                response: httpx.Response = yield Send(request(), receive)
                if response.is_success:
                    return response
                failure = response
            except httpx.RequestError as error:
                failure = error
            failures = 1 if reached() > furthest else failures + 1
            furthest = max(furthest, reached())
            seconds = wait_s(failure, failures) if failures <= self._retries else None
            if seconds is None:
                raise self._meaning(failure) from (failure if isinstance(failure, Exception) else None)
            yield Wait(seconds)

    def _parsed(self, model: type[Model], response: httpx.Response) -> Model:
        try:
            return model.model_validate_json(response.content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise RemoteError(
                f"{response.url} answered with something else than was expected ({place}: {first['msg']}): "
                "no zoo server, or one of another version?"
            ) from error

    def _meaning(self, failure: httpx.Response | httpx.RequestError) -> ZooError:
        if isinstance(failure, httpx.RequestError):
            what = "cannot be reached" if isinstance(failure, _UNREACHED) else "broke off"
            return RemoteError(f"{self._url} {what}: {failure or type(failure).__name__}")
        problem = _problem(failure)
        detail = str(problem.get("detail", f"{failure.status_code} {failure.reason_phrase} {failure.text[:200]}"))
        if problem.get("type") == "no-model-meets-constraints":
            return NoModelMeetsConstraintsError(detail, problem.get("best_available"))
        if problem.get("type") == "bad-image":
            return ImageError(detail)
        if failure.status_code == HTTPStatus.NOT_FOUND:
            return NotFoundError(detail)
        return RemoteError(f"{self._url} refused: {detail}", failure.status_code)


def wait_s(failure: httpx.Response | httpx.RequestError, failures: int) -> float | None:
    """How long to wait before asking again after so many failures; None where it would not help.

    A busy server's Retry-After counts where it is in seconds; where it is a date, the wait is our own.
    """
    own = _FIRST_WAIT_S * 2 ** (failures - 1)
    if isinstance(failure, httpx.RequestError):
        return own if isinstance(failure, _PASSING) else None
    if failure.status_code not in _BUSY:
        return None
    asked = failure.headers.get("retry-after", "")
    seconds = float(asked) if asked.isdecimal() else own
    return seconds if seconds <= _LONGEST_WAIT_S else None


def _path(reference: str) -> str:
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


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
