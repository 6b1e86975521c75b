"""A zoo behind a URL, for programs: `ZooClient("http://127.0.0.1:8000").smallest(Budget(min_acc=0.8))`."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from zoo.budget import Budget
from zoo.checkpoint import digest_of
from zoo.errors import NoModelMeetsConstraintsError, NotFoundError, RemoteError
from zoo.predictor import Prediction
from zoo.views import CheckpointDetail, CheckpointView

_PAGE = 200


class ZooClient:
    """Every method raises RemoteError where the server cannot be reached or refuses.

    Beyond that NotFoundError for an unknown checkpoint, NoModelMeetsConstraintsError where nothing is in the budget.
    """

    def __init__(self, url: str, token: str | None = None, timeout_s: float = 30.0) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s)
        except httpx.InvalidURL as error:
            raise RemoteError(f"{url}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def models(self, budget: Budget) -> list[CheckpointView]:
        """All checkpoints within the budget, fewest parameters first."""
        return list(self._pages(budget))

    def _pages(self, budget: Budget) -> Iterator[CheckpointView]:
        response = self._request("GET", "/models", params={**_query(budget), "limit": _PAGE})
        yield from _views(response)
        while "next" in response.links:
            response = self._request("GET", response.links["next"]["url"])
            yield from _views(response)

    def smallest(self, budget: Budget) -> CheckpointView:
        """The smallest checkpoint within the budget."""
        selected = self._json("GET", "/models", params={**_query(budget), "limit": 1})["selected"]
        if selected is None:
            raise NoModelMeetsConstraintsError(f"{self._http.base_url} holds no checkpoint", None)
        return CheckpointView.model_validate(selected)

    def show(self, reference: str) -> CheckpointDetail:
        """By digest, digest prefix, name or alias."""
        return CheckpointDetail.model_validate(self._json("GET", f"/models/{quote(reference, safe='')}"))

    def file(self, digest: str, file_format: str = "safetensors") -> bytes:
        """The checkpoint's file as "safetensors" or "onnx"; safetensors are checked against the digest."""
        data = self._request("GET", f"/models/{quote(digest, safe='')}/file", params={"format": file_format}).content
        if file_format == "safetensors" and digest_of(data) != digest:
            raise RemoteError(f"{self._http.base_url} sent other bytes than those of {digest}")
        return data

    def publish(self, data: bytes) -> CheckpointView:
        """Uploads a checkpoint's file; one that the server has is left as it is. Needs the token for publishing."""
        digest = digest_of(data)
        self._request("PUT", f"/blobs/sha256:{digest}", content=data)
        return CheckpointView.model_validate(self._json("POST", "/models", json={"digest": digest}))

    def predict(self, reference: str, images: Sequence[bytes], top_k: int = 5) -> list[list[Prediction]]:
        """For each image file its likeliest classes, likeliest first."""
        body = {
            "inputs": [base64.b64encode(image).decode() for image in images],
            "parameters": {"top_k": top_k},
        }
        answer = self._json("POST", "/predict", params={"model": reference}, json=body)
        return [[Prediction.model_validate(item) for item in row] for row in answer["predictions"]]

    def _json(self, method: str, path: str, **arguments: Any) -> Any:
        response = self._request(method, path, **arguments)
        try:
            return response.json()
        except ValueError as error:
            raise RemoteError(f"{response.url} answered with something other than JSON: no zoo server?") from error

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **arguments)
        except (httpx.TransportError, httpx.UnsupportedProtocol) as error:
            raise RemoteError(f"{self._http.base_url} cannot be reached: {error}") from error
        if response.is_success:
            return response
        problem = _problem(response)
        detail = str(problem.get("detail", f"{response.status_code} {response.text[:200]}"))
        if problem.get("type") == "no-model-meets-constraints":
            raise NoModelMeetsConstraintsError(detail, problem.get("best_available"))
        if response.status_code == HTTPStatus.NOT_FOUND:
            raise NotFoundError(detail)
        raise RemoteError(f"{self._http.base_url} refused: {detail}")


def _query(budget: Budget) -> dict[str, Any]:
    return budget.model_dump(include=set(Budget.model_fields), exclude_none=True)


def _views(response: httpx.Response) -> list[CheckpointView]:
    return [CheckpointView.model_validate(item) for item in response.json()["items"]]


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
