"""Authentication by bearer token, before a body is read; rate limiting of wrong guesses."""

from __future__ import annotations

import hmac
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Literal

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from app.http.middleware import header, is_open
from app.http.problems import ProblemError
from zoo.library import audit

Kind = Literal["publish", "read", "unknown"]

# Wrong tokens that an address may send at once, and how often it is given another one. At that rate, of tokens of 16
# characters or more, none is ever guessed.
_MAX_GUESSES = 10
_SECONDS_A_GUESS = 6.0
# Addresses that are remembered: those that guessed longest ago are forgotten first.
_MAX_ADDRESSES = 4096


class Guesses:
    """A token bucket for each address that sends wrong tokens. Belongs to one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # By address: guesses that count against it, as of a time; whether its being slowed down has been logged.
        self._counted: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._logged: set[str] = set()

    def wait_s(self, address: str) -> float:
        """How long until the address may try a token again; 0 where it may now."""
        return max(0.0, (self._level(address) - _MAX_GUESSES + 1) * _SECONDS_A_GUESS)

    def count(self, address: str) -> None:
        self._counted[address] = self._level(address) + 1, self._clock()
        self._counted.move_to_end(address)
        self._logged.discard(address)
        while len(self._counted) > _MAX_ADDRESSES:
            forgotten, _ = self._counted.popitem(last=False)
            self._logged.discard(forgotten)

    def is_first_refusal(self, address: str) -> bool:
        """Since its last guess: the others are no news."""
        is_first = address not in self._logged
        self._logged.add(address)
        return is_first

    def _level(self, address: str) -> float:
        level, since = self._counted.get(address, (0.0, 0.0))
        return max(0.0, level - (self._clock() - since) / _SECONDS_A_GUESS)


class Tokens:
    """The tokens of a server. `read` opens everything but publishing, `publish` everything; None: there is none."""

    def __init__(self, read: str | None, publish: str | None) -> None:
        self.read, self.publish = read, publish
        # Headers have no encoding of their own: what is not ASCII comes as UTF-8 or as Latin-1, whatever the client.
        self._accepted = [
            (form, kind)
            for token, kind in ((publish, "publish"), (read, "read"))
            if token is not None
            for form in _forms(token)
        ]
        self._guesses = Guesses()

    def kind(self, scope: Scope) -> Kind | None:
        """Of the token that the request carries; None where it carries none. Raises ProblemError (429)."""
        if "zoo.token" not in scope:
            scope["zoo.token"] = self._kind(scope)
        found: Kind | None = scope["zoo.token"]
        return found

    def _kind(self, scope: Scope) -> Kind | None:
        scheme, _, given = header(scope, b"authorization").partition(b" ")
        if scheme.lower() != b"bearer" or not given:
            return None
        address = network_of(address_of(scope))
        seconds = self._guesses.wait_s(address)
        if seconds > 0:  # also of the right one: a guesser must not learn from how it is answered
            if self._guesses.is_first_refusal(address):
                _refuse(scope, "too many unknown tokens: slowed down", "unknown token")
            detail = f"too many unknown tokens came from this address: try again in {math.ceil(seconds)} s"
            raise ProblemError(429, "too-many-guesses", detail, {"Retry-After": str(math.ceil(seconds))})
        matching = [kind for form, kind in self._accepted if hmac.compare_digest(given, form)]
        if matching:
            return matching[0]  # type: ignore[return-value]
        self._guesses.count(address)
        _refuse(scope, "unknown token", "unknown token")
        return "unknown"

    def require_reader(self, scope: Scope) -> None:
        """Raises ProblemError."""
        kind = self.kind(scope)
        if kind not in ("read", "publish"):
            detail = "this server needs the header 'Authorization: Bearer <token>'" + (
                ", and the token given is another one" if kind else ""
            )
            raise ProblemError(401, "unauthorized", detail, {"WWW-Authenticate": "Bearer"})

    def require_publisher(self, scope: Scope) -> None:
        """Raises ProblemError. Also on loopback, where reading is open."""
        if self.publish is None:
            detail = "this server takes no checkpoints: start it with ZOO_PUBLISH_TOKEN set"
            raise ProblemError(403, "publishing-is-off", detail)
        kind = self.kind(scope)
        if kind == "publish":
            return
        if kind == "read":
            _refuse(scope, "this token may read only", "read token")
            raise ProblemError(403, "forbidden", "this token may read; publishing needs the one of ZOO_PUBLISH_TOKEN")
        detail = "publishing needs the header 'Authorization: Bearer <token>' with the token of ZOO_PUBLISH_TOKEN"
        raise ProblemError(401, "unauthorized", detail, {"WWW-Authenticate": "Bearer"})


def _forms(token: str) -> set[bytes]:
    forms = {token.encode()}
    with suppress(UnicodeEncodeError):
        forms.add(token.encode("latin-1"))
    return forms


def _refuse(scope: Scope, reason: str, who: str) -> None:
    audit.refuse(reason, who, address_of(scope), request=f"{scope['method']} {ascii(scope['path'])[1:-1][:200]}")


def address_of(scope: Scope) -> str:
    """The client's; behind a proxy that uvicorn was told to trust (FORWARDED_ALLOW_IPS) what the proxy says it is."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def network_of(address: str) -> str:
    """Whoever has one IPv6 address has 2⁶⁴ of them."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if found.version == 4:
        return address
    return str(found.ipv4_mapped or ipaddress.ip_network((found.packed[:8] + bytes(8), 64)))


class PublisherRoute(APIRoute):
    """For publishers only, in whose name its endpoint acts."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def answer_publisher(request: Request) -> Response:
            request.app.state.service.tokens.require_publisher(request.scope)
            with audit.acting("publish token", address_of(request.scope)):
                return await answer(request)

        return answer_publisher


class Authorization:
    """Asks for the token of `ZOO_TOKEN`, and on a `PublisherRoute` for that of publishing, before a body is read."""

    def __init__(self, tokens: Tokens, routes: Sequence[BaseRoute]) -> None:
        self._tokens = tokens
        self._routes = [route for route in routes if isinstance(route, PublisherRoute)]
        # A route's pattern is matched only where it may fit: most requests that have a body are predictions.
        self._prefixes = tuple({route.path.partition("{")[0] for route in self._routes})

    def check(self, scope: Scope) -> None:
        """Raises ProblemError."""
        if self._tokens.read is not None and not is_open(scope["path"]):
            self._tokens.require_reader(scope)
        if scope["method"] not in ("GET", "HEAD") and self._is_publishing(scope):
            self._tokens.require_publisher(scope)

    def _is_publishing(self, scope: Scope) -> bool:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        may_match = path.startswith(self._prefixes)
        return may_match and any(route.matches(scope)[0] is Match.FULL for route in self._routes)
