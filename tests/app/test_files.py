from __future__ import annotations

import base64
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import pytest

from app.settings import Settings
from zoo.store.directory import Directory


@pytest.fixture(scope="module", params=[64 * 1024 * 1024, 0], ids=["from memory", "streamed from disk"])
def client(
    request: pytest.FixtureRequest, zoo_root: Path, served: Callable[[Settings], AbstractContextManager[httpx.Client]]
) -> Iterator[httpx.Client]:
    with served(Settings(zoo=(zoo_root,), max_file_cache_bytes=request.param)) as client:
        yield client


@pytest.fixture(scope="module")
def file(zoo_root: Path) -> tuple[str, bytes]:
    digest, path = min(Directory(zoo_root).paths())
    return digest, path.read_bytes()


def test_the_file_is_the_one_on_disk(client: httpx.Client, file: tuple[str, bytes]) -> None:
    digest, data = file
    response = client.get(f"/models/{digest}/file")
    assert response.content == data
    assert hashlib.sha256(response.content).hexdigest() == digest
    assert response.headers["etag"] == f'"{digest}"'
    assert response.headers["repr-digest"] == f"sha-256=:{base64.b64encode(bytes.fromhex(digest)).decode()}:"
    assert response.headers["accept-ranges"] == "bytes"
    assert "content-encoding" not in response.headers


def test_the_budget_chooses_the_file(client: httpx.Client) -> None:
    front = client.get("/models/pareto").json()["items"]
    for item in front:
        response = client.get("/models/file", params={"min_acc": item["accuracy"]})
        assert hashlib.sha256(response.content).hexdigest() == item["id"]
        assert response.headers["x-checkpoint-id"] == item["id"]
        assert item["name"] in response.headers["content-disposition"]
    assert client.get("/models/file", params={"min_acc": 1}).json()["type"] == "no-model-meets-constraints"


def test_head_is_get_without_the_body(client: httpx.Client, file: tuple[str, bytes]) -> None:
    for path in (f"/models/{file[0]}/file", "/models/best/file", "/models/file?max_params=100000"):
        head, get = client.head(path), client.get(path)
        assert head.content == b""
        same = [name for name in get.headers if name not in ("date", "x-request-id")]
        assert {name: head.headers[name] for name in same} == {name: get.headers[name] for name in same}


def test_only_what_never_changes_may_be_kept(client: httpx.Client, file: tuple[str, bytes]) -> None:
    assert "immutable" in client.get(f"/models/{file[0]}/file").headers["cache-control"]
    for path in ("/models/best/file", f"/models/{file[0][:8]}/file", "/models/file"):
        assert "no-cache" in client.get(path).headers["cache-control"]


@pytest.mark.parametrize("tag", ['"{}"', 'W/"{}"', '"other", "{}"', "*"])
def test_a_client_that_has_the_file_is_told_so(client: httpx.Client, file: tuple[str, bytes], tag: str) -> None:
    digest, _ = file
    response = client.get(f"/models/{digest}/file", headers={"If-None-Match": tag.format(digest)})
    assert response.status_code == 304
    assert response.content == b""
    assert response.headers["etag"] == f'"{digest}"'


def test_a_client_that_wants_another_file_is_told_so(client: httpx.Client, file: tuple[str, bytes]) -> None:
    digest, data = file
    url = f"/models/{digest}/file"
    for tag in (f'"{digest}"', f'"other", "{digest}"', "*"):
        answer = client.get(url, headers={"If-Match": tag, "Range": "bytes=0-9"})
        assert (answer.status_code, answer.content) == (206, data[:10])
    for tag in ('"other"', f'W/"{digest}"'):
        answer = client.get(url, headers={"If-Match": tag, "Range": "bytes=0-9"})
        assert answer.status_code == 412
        assert digest in answer.json()["detail"]
    several = [("If-None-Match", '"other"'), ("If-None-Match", f'"{digest}"')]
    assert client.get(url, headers=several).status_code == 304


def test_another_tag_gets_the_file(client: httpx.Client, file: tuple[str, bytes]) -> None:
    response = client.get(f"/models/{file[0]}/file", headers={"If-None-Match": '"other"'})
    assert response.content == file[1]


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("Bytes=10-99", slice(10, 100)),
        ("bytes=100-", slice(100, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=5-99999999", slice(5, None)),
        ("bytes=-99999999", slice(0, None)),
    ],
)
def test_one_range(client: httpx.Client, file: tuple[str, bytes], asked: str, wanted: slice) -> None:
    digest, data = file
    response = client.get(f"/models/{digest}/file", headers={"Range": asked})
    assert response.status_code == 206
    assert response.content == data[wanted]
    start, stop, _ = wanted.indices(len(data))
    assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(data)}"


# More digits than Python turns into a number.
TOO_FAR = f"bytes={'9' * 5000}-"


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "lines=1-2", "bytes=-", "bytes=9-3", "bytes=a-b", TOO_FAR])
def test_what_is_no_single_range_gets_the_whole_file(client: httpx.Client, file: tuple[str, bytes], asked: str) -> None:
    response = client.get(f"/models/{file[0]}/file", headers={"Range": asked})
    assert response.status_code == 200
    assert response.content == file[1]


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=-0"])
def test_a_range_past_the_end_is_416(client: httpx.Client, file: tuple[str, bytes], asked: str) -> None:
    response = client.get(f"/models/{file[0]}/file", headers={"Range": asked})
    assert response.status_code == 416
    assert response.headers["content-range"] == f"bytes */{len(file[1])}"
    assert response.headers["content-type"] == "application/problem+json"


def test_a_download_resumes_only_into_the_same_file(client: httpx.Client, file: tuple[str, bytes]) -> None:
    digest, data = file
    same = client.get(f"/models/{digest}/file", headers={"Range": "bytes=100-", "If-Range": f'"{digest}"'})
    assert (same.status_code, data[:100] + same.content) == (206, data)
    other = client.get(f"/models/{digest}/file", headers={"Range": "bytes=100-", "If-Range": '"other"'})
    assert (other.status_code, other.content) == (200, data)


def test_onnx_runs_as_it_is(client: httpx.Client, digit_files: list[bytes]) -> None:
    response = client.get("/models/best/file", params={"format": "onnx"})
    assert hashlib.sha256(response.content).hexdigest() == response.headers["etag"].strip('"')
    session = onnxruntime.InferenceSession(response.content)
    [probabilities] = session.run(["probabilities"], {"images": np.zeros((3, 8, 8, 1), np.uint8)})
    assert probabilities.shape == (3, 10)
    part = client.get("/models/best/file", params={"format": "onnx"}, headers={"Range": "bytes=0-99"})
    assert part.content == response.content[:100]


def test_unknown_formats_are_refused(client: httpx.Client) -> None:
    response = client.get("/models/best/file", params={"format": "pickle"})
    assert response.status_code == 422
    assert "'safetensors' or 'onnx'" in response.json()["detail"]


def test_the_second_answer_of_a_moment_is_the_first(client: httpx.Client, file: tuple[str, bytes]) -> None:
    digest, data = file
    wanted = [
        ({}, 200, data),
        ({"Range": "bytes=5-9"}, 206, data[5:10]),
        ({"If-None-Match": f'"{digest}"'}, 304, b""),
        ({"Range": "bytes=-0"}, 416, None),
    ]
    for length, (headers, status, content) in enumerate(wanted, start=50):  # URLs that no other test asks for
        answers = [client.get(f"/models/{digest[:length]}/file", headers=headers | {"X-Request-Id": "x"}) for _ in "12"]
        assert [answer.status_code for answer in answers] == [status, status]
        assert answers[0].content == answers[1].content
        assert content is None or answers[0].content == content
        assert {name for name, value in answers[0].headers.items() ^ answers[1].headers.items()} <= {"date"}


def test_what_a_url_stands_for_follows_the_zoo(
    client_of: Callable[..., httpx.Client], zoo_root: Path, tmp_path: Path
) -> None:
    for _, path in Directory(zoo_root).paths():
        shutil.copy(path, tmp_path)
    client = client_of(tmp_path, rescan_seconds=0.05)
    smallest = client.get("/models/smallest/file").headers["x-checkpoint-id"]
    (tmp_path / f"{smallest}.safetensors").unlink()
    deadline = time.monotonic() + 10
    while client.get("/models/smallest/file").headers["x-checkpoint-id"] == smallest:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert client.get(f"/models/{smallest}/file").status_code == 404


def test_with_a_token_only_the_client_itself_may_keep_a_file(
    client_of: Callable[..., httpx.Client], zoo_root: Path, file: tuple[str, bytes]
) -> None:
    client = client_of(zoo_root, token="a-token-of-some-length")
    response = client.get(f"/models/{file[0]}/file", headers={"Authorization": "Bearer a-token-of-some-length"})
    assert response.headers["cache-control"].startswith("private, ")
    assert client.get(f"/models/{file[0]}/file").status_code == 401
