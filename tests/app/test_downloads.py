"""What is kept in memory, and what is not. That answers are right is tested over HTTP, in test_files.py."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.routing import Route

from app.downloads import Download, Downloads
from zoo.errors import CheckpointError
from zoo.families.secnn import SecnnArchitecture
from zoo.local import LocalZoo

Put = Callable[..., str]


@pytest.fixture
def zoo(tmp_path: Path) -> Iterator[LocalZoo]:
    zoo = LocalZoo([tmp_path])
    yield zoo
    zoo.close()


def request(digest: str) -> Request:
    path = f"/models/{digest}/file"
    route = Route(path, endpoint=lambda: None)
    return Request({"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [], "route": route})


def test_the_files_in_memory_are_the_last_ones_asked_for(tmp_path: Path, put: Put, zoo: LocalZoo) -> None:
    digests = [put(tmp_path, seed=seed) for seed in range(10)]
    zoo.sync()
    size = zoo.path(digests[0]).stat().st_size
    downloads = Downloads(zoo, max_bytes=8 * size + 7)
    for digest in digests:
        downloads.send(request(digest), Download(digest, "safetensors", {}))
    kept = [digest for digest in digests if downloads.send_again(request(digest).scope) is not None]
    assert kept == digests[2:]


def test_a_large_file_is_never_in_memory_whole(
    tmp_path: Path, put: Put, tiny: SecnnArchitecture, zoo: LocalZoo
) -> None:
    digest = put(tmp_path, tiny.widened(0, 400).widened(1, 400))
    zoo.sync()
    size = zoo.path(digest).stat().st_size
    assert size > 4_000_000
    downloads = Downloads(zoo, max_bytes=size)
    tracemalloc.start()
    try:
        response = downloads.send(request(digest), Download(digest, "safetensors", {}))
        assert response.headers["content-length"] == str(size)
        assert tracemalloc.get_traced_memory()[1] < size / 4
    finally:
        tracemalloc.stop()


def test_a_large_file_is_read_again_only_if_it_changed(
    tmp_path: Path, put: Put, tiny: SecnnArchitecture, zoo: LocalZoo
) -> None:
    digest = put(tmp_path)
    zoo.sync()
    path = zoo.verified_path(digest)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="the file was changed or damaged"):
        zoo.verified_path(digest)
