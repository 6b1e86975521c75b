"""A real server that misbehaves when told to."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from app.main import create_app
from app.settings import Settings
from zoo.library.local import LocalZoo
from zoo.network.families.secnn import SecnnArchitecture


@dataclass(frozen=True)
class Fault:
    """What happens to one answer: `status` in its place, or its body cut after so many bytes or with a bit flipped."""

    status: int | None = None
    retry_after: str = "0"
    break_after: int | None = None
    stall_after: int | None = None
    flip_at: int | None = None
    ignore_range: bool = False


@dataclass
class FaultyServer:
    """An ASGI app in front of the service. Faults are used up one by one, by requests with `on` in their path."""

    app: Any
    on: str = "/models"
    faults: deque[Fault] = field(default_factory=deque)
    requests: list[httpx.Request] = field(default_factory=list)
    url: str = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.requests.append(httpx.Request(scope["method"], scope["path"], headers=scope["headers"]))
        if not self.faults or self.on not in scope["path"] or scope["method"] == "HEAD":
            await self.app(scope, receive, send)
            return
        fault = self.faults.popleft()
        if fault.status:
            headers = [(b"retry-after", fault.retry_after.encode()), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": fault.status, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        if fault.ignore_range:
            scope = {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != b"range"]}

        async def faulty_send(message: Any) -> None:
            body = bytearray(message.get("body", b""))
            if body and fault.flip_at is not None:
                body[fault.flip_at % len(body)] ^= 1
            cut = fault.break_after if fault.stall_after is None else fault.stall_after
            if body and cut is not None:
                await send({**message, "body": bytes(body[:cut]), "more_body": True})
                if fault.stall_after is not None:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                raise ConnectionAbortedError("broken off, as the test wants it")
            await send({**message, "body": bytes(body)} if body else message)

        await self.app(scope, receive, faulty_send)

    def ranges(self) -> list[tuple[str | None, str | None]]:
        """Range and If-Range of each request for a file's bytes."""
        return [
            (request.headers.get("range"), request.headers.get("if-range"))
            for request in self.requests
            if request.method == "GET" and request.url.path.endswith("/file")
        ]


@contextmanager
def _running(server: FaultyServer) -> Iterator[FaultyServer]:
    process = uvicorn.Server(uvicorn.Config(server, port=0, log_level="critical"))
    thread = threading.Thread(target=process.run)
    thread.start()
    try:
        while not process.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.005)
        server.url = f"http://127.0.0.1:{process.servers[0].sockets[0].getsockname()[1]}"
        yield server
    finally:
        process.should_exit = True
        thread.join()


@pytest.fixture
def opened() -> Iterator[Callable[..., LocalZoo]]:
    """`opened(*directories)` is a synced zoo, closed after the test."""
    zoos: list[LocalZoo] = []

    def open_zoo(*roots: Path) -> LocalZoo:
        zoos.append(LocalZoo(roots))
        zoos[-1].sync()
        return zoos[-1]

    yield open_zoo
    for zoo in zoos:
        zoo.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., FaultyServer]]:
    """`serve(directory)` runs the service over it, on a free port, until the test ends."""
    with ExitStack() as stack:
        yield lambda *roots, **settings: stack.enter_context(
            _running(FaultyServer(create_app(Settings(zoo=roots, **settings))))
        )


@pytest.fixture(scope="session")
def small_zoo(tmp_path_factory: pytest.TempPathFactory, put: Callable[..., str], tiny: SecnnArchitecture) -> Path:
    """Four checkpoints: 164 parameters and more, the larger the better, but for one that is beaten."""
    root = tmp_path_factory.mktemp("small")
    for channels, accuracy in ((1, 0.8), (2, 0.85), (3, 0.82)):
        put(root, tiny.widened(0, channels), accuracy=accuracy, seed=channels)
    put(root, accuracy=0.7)
    return root


@pytest.fixture(scope="session")
def _small_server(small_zoo: Path) -> Iterator[FaultyServer]:
    with _running(FaultyServer(create_app(Settings(zoo=(small_zoo,))))) as server:
        yield server


@pytest.fixture
def server(_small_server: FaultyServer) -> FaultyServer:
    """The small zoo, served; no faults yet and nothing asked."""
    _small_server.faults.clear()
    _small_server.requests.clear()
    _small_server.on = "/models"
    return _small_server


@pytest.fixture
def fault() -> type[Fault]:
    return Fault
