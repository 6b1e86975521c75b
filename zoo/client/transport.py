"""One question to a zoo server and what its answer means: without a socket, and so written once for both clients.

An exchange is a generator, as the auth flows of httpx are. It yields what is to be done next, is sent the response or
thrown the network's error, and returns what the caller asked for:

    exchange ──── Send(request), Wait(seconds) ────► ZooClient or AsyncZooClient ────► network
             ◄─── response, httpx.RequestError ────
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from zoo.client.proxies import Proxy
from zoo.errors import GoneError, ImageError, NoModelMeetsConstraintsError, NotFoundError, RemoteError, ZooError

_FIRST_WAIT_S = 0.1
# A server that wants more patience than this is down, for a program that waits.
_LONGEST_WAIT_S = 30.0
_BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_UNREACHED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol)
_PASSING = (httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError)

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
# What came of a step: of waiting nothing.
Outcome = httpx.Response | httpx.RequestError | None


def resumed(exchange: Exchange[Result], outcome: Outcome) -> Send | Wait:
    """The exchange's next step; at its end StopIteration has its result. None begins it."""
    return exchange.throw(outcome) if isinstance(outcome, httpx.RequestError) else exchange.send(outcome)


class Server:
    """Asks until it is answered. That may repeat every request: none changes more the second time than the first."""

    def __init__(self, build: Callable[..., httpx.Request], url: str, retries: int, proxy: Proxy | None = None) -> None:
        """`build`: a client's `build_request`, which knows the address and the token."""
        self.build = build
        self.url = url
        self._retries = retries
        self._way = "" if proxy is None else f" through {proxy}"

    def get(self, model: type[Model], path: str, params: dict[str, Any] | None = None) -> Exchange[Model]:
        response = yield from self.answer(lambda: self.build("GET", path, params=params))
        return self.parsed(model, response)

    def answer(
        self,
        request: Callable[[], httpx.Request],
        receive: Receive | None = None,
        reached: Callable[[], int] = lambda: 0,
    ) -> Exchange[httpx.Response]:
        """The successful response; failures count in a row, as long as no more is `reached`.

        Raises what the last failure means.
        """
        failures, furthest = 0, reached()
        while True:
            failure: httpx.Response | httpx.RequestError
            try:
                response: httpx.Response = yield Send(request(), receive)
                if (way := _lost_on_the_way(response)) is not None:
                    raise RemoteError(f"{self.url} redirects to {way}: give that address instead", response.status_code)
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

    def parsed(self, model: type[Model], response: httpx.Response) -> Model:
        try:
            return model.model_validate_json(response.content, context={"address": str(response.url)})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise RemoteError(
                f"{response.url} answered with something else than was expected ({place}: {first['msg']}): "
                f"no zoo server, or one of another version?{self._way and f' It was asked{self._way}.'}"
            ) from error

    def _meaning(self, failure: httpx.Response | httpx.RequestError) -> ZooError:
        if isinstance(failure, httpx.RequestError):
            what = "cannot be reached" if isinstance(failure, _UNREACHED) else "broke off"
            return RemoteError(f"{self.url} {what}{self._way}: {str(failure) or type(failure).__name__}")
        problem = _problem(failure)
        # HEAD and what stands between us and a zoo server give no reasons.
        said = f"{failure.status_code} {failure.reason_phrase} for {failure.url} {failure.text[:200]}".strip()
        detail = str(problem.get("detail", said))
        if problem.get("type") == "no-model-meets-constraints":
            return NoModelMeetsConstraintsError(detail, problem.get("best_available"))
        if problem.get("type") == "bad-image":
            return ImageError(detail)
        if failure.status_code == HTTPStatus.GONE:
            return GoneError(detail)
        if failure.status_code == HTTPStatus.NOT_FOUND:
            return NotFoundError(detail)
        # An answer in another form may be that of a proxy.
        way = "" if problem else self._way
        return RemoteError(f"{self.url} refused{way}: {detail}", failure.status_code)


def _lost_on_the_way(response: httpx.Response) -> str | None:
    """Where a redirect led that cost the request its method and body, or the server's token."""
    if not response.history:
        return None
    asked, answered = response.history[0].request, response.request
    is_changed = asked.method != answered.method
    is_unknown = response.status_code == HTTPStatus.UNAUTHORIZED and "authorization" in asked.headers.keys() - (
        answered.headers.keys()
    )
    return f"{answered.url.scheme}://{answered.url.netloc.decode()}" if is_changed or is_unknown else None


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


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
