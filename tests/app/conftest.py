"""A zoo grown for these tests on scikit-learn's digits, and the service over it."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from app.main import create_app
from app.process.listen import bind
from app.process.server import Server, config
from app.settings import Settings
from trainer.data import datasets as data
from trainer.grow import grow
from trainer.recipes import runs
from trainer.recipes.rules import GainRule
from zoo.checkpoint.file import Checkpoint, load
from zoo.store.directory import Directory
from zoo.store.store import Store

ZOO_SERVE = Path(sys.executable).parent / "zoo-serve"


@pytest.fixture(scope="session")
def digits() -> data.Data:
    return data.load("digits", limit_train=400)


@pytest.fixture(scope="session")
def zoo_root(tmp_path_factory: pytest.TempPathFactory, digits: data.Data) -> Path:
    """Four expansions in ten epochs: five checkpoints."""
    root = tmp_path_factory.mktemp("grown")
    torch.set_num_threads(1)  # two threads on so small a network stall each other when a core is busy
    base = runs.digits()
    rule = GainRule(threshold=0.0, standard_errors=0.0)
    config = replace(base, epochs=10, recipe=replace(base.recipe, rule=rule, cooldown_epochs=2))
    grow(config, digits, root, torch.device("cpu"), resume=False, observe=lambda _: None)
    return root


@pytest.fixture(scope="session")
def checkpoints(zoo_root: Path) -> dict[str, Checkpoint]:
    """By digest, as read from the files."""
    return {digest: load(path) for digest, path in Directory(zoo_root).paths()}


@contextmanager
def serving(settings: Settings, store: Store | None = None) -> Iterator[httpx.Client]:
    """A real server on a free port, and a client of it."""
    listener = bind("127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    server = Server(config(create_app(settings, store)), listener)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.005)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def served() -> Callable[[Settings], AbstractContextManager[httpx.Client]]:
    """For fixtures of a wider scope than `client_of`."""
    return serving


@pytest.fixture
def client_of() -> Iterator[Callable[..., httpx.Client]]:
    """Starts servers with the given settings; all are shut down at the end."""
    with ExitStack() as stack:
        yield lambda *roots, store=None, **settings: stack.enter_context(
            serving(Settings(zoo=roots, **settings), store)
        )


@pytest.fixture(scope="session")
def client(zoo_root: Path) -> Iterator[httpx.Client]:
    with serving(Settings(zoo=(zoo_root,))) as client:
        yield client


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def digit_files(digits: data.Data) -> list[bytes]:
    """The first 40 test images as PNG files."""
    return [png(image[0].numpy()) for image in digits.test.images[:40]]


class ServerProcess:
    """zoo-serve on a port that the system chose."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log
        self.url = self.wait_for(r"http://127\.0\.0\.1:\d+")

    def wait_for(self, pattern: str, count: int = 1) -> str:
        """The last of `count` matches in the log."""
        deadline = time.monotonic() + 30
        while len(found := re.findall(pattern, self.log.read_text())) < count:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        return found[count - 1]

    def workers(self) -> list[int]:
        return [int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", self.log.read_text())]


@pytest.fixture
def serve(zoo_root: Path, tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    servers: list[ServerProcess] = []

    def start(
        *options: object, program: tuple[object, ...] = (ZOO_SERVE,), pass_fds: tuple[int, ...] = (), **environment: str
    ) -> ServerProcess:
        log = tmp_path / f"log-{len(servers)}"
        command = [*program, "--zoo", zoo_root, "--port", "0", *map(str, options)]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        with log.open("w") as stderr:
            process = subprocess.Popen(command, stderr=stderr, env=variables, pass_fds=pass_fds)
        servers.append(ServerProcess(process, log))
        return servers[-1]

    yield start
    for server in servers:
        server.process.terminate()
        server.process.wait(timeout=30)
