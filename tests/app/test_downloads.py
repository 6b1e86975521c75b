"""What is kept in memory, and what is not. That answers are right is tested over HTTP, in test_files.py."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.routing import Route

from app.http.downloads import Download, Downloads
from app.http.file_response import File, file_response
from app.http.response_cache import ResponseCache
from zoo.errors import CheckpointError
from zoo.library.local import LocalZoo
from zoo.network.families.secnn import SecnnArchitecture

Put = Callable[..., str]


@pytest.fixture
def zoo(tmp_path: Path) -> Iterator[LocalZoo]:
    zoo = LocalZoo([tmp_path])
    yield zoo
    zoo.close()


def request(digest: str, headers: dict[str, str] | None = None) -> Request:
    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    path = f"/models/{digest}/file"
    route = Route(path, endpoint=lambda: None)
    return Request({"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": raw, "route": route})


@given(st.integers(1, 40), st.none() | st.integers(0, 50), st.none() | st.integers(0, 50))
def test_every_range_is_the_slice_that_it_names(size: int, first: int | None, last: int | None) -> None:
    data = bytes(range(size))
    texts = ["" if end is None else str(end) for end in (first, last)]
    asked = request("a" * 64, {"range": f"bytes={texts[0]}-{texts[1]}"})
    response = file_response(asked, File("a" * 64, size, data), {})
    if first is None:
        wanted = data[max(0, size - last) :] if last is not None else data
    else:
        wanted = data[first:] if last is None else data[first : last + 1]
    ignored = (first is None and last is None) or (first is not None and last is not None and last < first)
    if ignored:
        assert (response.status_code, bytes(response.body)) == (200, data)
    elif wanted:
        assert (response.status_code, bytes(response.body)) == (206, wanted)
        assert response.headers["content-length"] == str(len(wanted))
    else:
        assert response.status_code == 416


def test_the_files_in_memory_are_the_last_ones_asked_for(tmp_path: Path, put: Put, zoo: LocalZoo) -> None:
    digests = [put(tmp_path, seed=seed) for seed in range(10)]
    zoo.sync()
    size = zoo.store.path(digests[0]).stat().st_size
    cache = ResponseCache()
    downloads = Downloads(zoo, 8 * size + 7, cache)
    for digest in digests:
        asked = request(digest)
        assert cache.answer(asked.scope) is None
        downloads.send(asked, Download(digest, "safetensors", {}))
    kept = [digest for digest in digests if cache.answer(request(digest).scope) is not None]
    assert kept == digests[2:]


def test_a_large_file_is_never_in_memory_whole(
    tmp_path: Path, put: Put, tiny: SecnnArchitecture, zoo: LocalZoo
) -> None:
    digest = put(tmp_path, tiny.widened(0, 400).widened(1, 400))
    zoo.sync()
    size = zoo.store.path(digest).stat().st_size
    assert size > 4_000_000
    downloads = Downloads(zoo, size, ResponseCache())
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
    zoo.files.verify(digest)
    path = zoo.store.path(digest)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="the file was changed or damaged"):
        zoo.files.verify(digest)
