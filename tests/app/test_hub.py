"""The stock huggingface_hub against a real server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import huggingface_hub
import numpy as np
import onnxruntime
import pytest
from huggingface_hub import HfApi, ModelCard, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors.numpy import load_file

from zoo.catalog.model_card import model_card
from zoo.checkpoint.file import Checkpoint, digest_of, load
from zoo.store.directory import Directory

REPOSITORY = "zoo/digits"


@pytest.fixture
def endpoint(client: httpx.Client) -> str:
    return str(client.base_url).rstrip("/")


@contextmanager
def breaking_off(endpoint: str, num_bytes: int) -> Iterator[tuple[str, list[bytes]]]:
    """A wire to the server that breaks once, so many bytes into a GET's answer; and the requests that went over it."""
    host, port = endpoint.removeprefix("http://").split(":")
    requests: list[bytes] = []
    broken = threading.Event()

    def carry(near: socket.socket) -> None:
        with near, socket.create_connection((host, int(port))) as far:
            while request := near.recv(65536):
                requests.append(request)
                # One exchange on each connection: the end of the answer is the end of the stream.
                far.sendall(request.replace(b"keep-alive", b"close"))
                left = num_bytes if request.startswith(b"GET") and not broken.is_set() else None
                while answer := far.recv(4096):
                    near.sendall(answer)
                    if left is not None and (left := left - len(answer)) < 0:
                        broken.set()
                        return
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    near, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=carry, args=(near,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    "revision",
    [None, "main", "best", "smallest", "digest", "name", "min_acc=0.01&max_params=99999", "max_params=99999"],
)
def test_a_file_at_any_revision(
    endpoint: str, client: httpx.Client, zoo_root: Path, tmp_path: Path, revision: str | None
) -> None:
    smallest = client.get("/models/smallest").json()
    best = client.get("/models/best").json()
    digest = smallest["id"] if revision in ("smallest", "min_acc=0.01&max_params=99999") else best["id"]
    revision = {"digest": digest, "name": best["name"]}.get(str(revision), revision)

    path = hf_hub_download(REPOSITORY, "model.safetensors", revision=revision, endpoint=endpoint, cache_dir=tmp_path)

    assert Path(path).read_bytes() == Directory(zoo_root).path(digest).read_bytes()
    assert load_file(path).keys() == load(Directory(zoo_root).path(digest)).tensors.keys()


def test_the_other_files_of_a_checkpoint(endpoint: str, checkpoints: dict[str, Checkpoint], tmp_path: Path) -> None:
    digest, checkpoint = next(iter(checkpoints.items()))
    config, onnx = (
        hf_hub_download(REPOSITORY, name, revision=digest, endpoint=endpoint, cache_dir=tmp_path)
        for name in ("config.json", "model.onnx")
    )
    card = ModelCard.load(
        hf_hub_download(REPOSITORY, "README.md", revision=digest, endpoint=endpoint, cache_dir=tmp_path)
    )
    assert card.content == model_card(checkpoint.descriptor, digest)
    assert card.data.pipeline_tag == "image-classification"
    assert json.loads(Path(config).read_text()) == checkpoint.descriptor.model_dump(mode="json")
    [scores] = onnxruntime.InferenceSession(onnx).run(["probabilities"], {"images": np.zeros((1, 8, 8, 1), np.uint8)})
    assert scores.shape == (1, 10)


def test_what_is_in_the_cache_is_not_sent_again(endpoint: str, client: httpx.Client, tmp_path: Path) -> None:
    commit = client.get("/models/best").json()["id"][:40]
    with breaking_off(endpoint, 10**9) as (wire, requests):
        first = hf_hub_download(REPOSITORY, "model.safetensors", endpoint=wire, cache_dir=tmp_path)
        assert [request.split()[0] for request in requests] == [b"HEAD", b"GET"]
        assert commit in first
        assert hf_hub_download(REPOSITORY, "model.safetensors", endpoint=wire, cache_dir=tmp_path) == first
        assert [request.split()[0] for request in requests] == [b"HEAD", b"GET", b"HEAD"]
        again = hf_hub_download(REPOSITORY, "model.safetensors", revision=commit, endpoint=wire, cache_dir=tmp_path)
        assert again == first
        assert len(requests) == 3, "a commit never changes: nothing is asked"


def test_an_interrupted_download_is_resumed(
    endpoint: str, client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The library resumes after the last whole chunk; its chunks of 10 MB are larger than this file.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    best = client.get("/models/best").json()
    with breaking_off(endpoint, best["bytes"] // 2) as (wire, requests):
        path = hf_hub_download(REPOSITORY, "model.safetensors", endpoint=wire, cache_dir=tmp_path)
    assert digest_of(Path(path).read_bytes()) == best["id"]
    first, second = (request for request in requests if request.startswith(b"GET"))
    assert b"range: bytes=" not in first.lower()
    assert b"range: bytes=" in second.lower()


def test_a_snapshot_is_every_file(endpoint: str, client: httpx.Client, tmp_path: Path) -> None:
    folder = snapshot_download(REPOSITORY, revision="smallest", endpoint=endpoint, cache_dir=tmp_path)
    assert {path.name for path in Path(folder).iterdir()} == {
        "model.safetensors",
        "model.onnx",
        "config.json",
        "README.md",
    }
    digest = client.get("/models/smallest").json()["id"]
    assert digest_of((Path(folder) / "model.safetensors").read_bytes()) == digest


def test_the_info_of_a_repository(endpoint: str, client: httpx.Client) -> None:
    smallest = client.get("/models/smallest").json()
    info = HfApi(endpoint=endpoint).model_info(REPOSITORY, revision="smallest", files_metadata=True)
    assert (info.id, info.sha, info.pipeline_tag) == (REPOSITORY, smallest["id"][:40], "image-classification")
    assert info.created_at is not None
    assert info.created_at.isoformat() == smallest["created_at"].replace("Z", "+00:00")
    assert info.safetensors is not None
    assert info.safetensors.total == smallest["params"]
    assert info.siblings is not None
    assert {file.rfilename: file.size for file in info.siblings}["model.safetensors"] == smallest["bytes"]


def test_what_is_not_there_is_said_in_the_librarys_own_errors(endpoint: str, tmp_path: Path) -> None:
    def download(repository: str, filename: str, revision: str = "main") -> None:
        hf_hub_download(repository, filename, revision=revision, endpoint=endpoint, cache_dir=tmp_path)

    with pytest.raises(RepositoryNotFoundError):
        download("zoo/imagenet", "model.safetensors")
    with pytest.raises(RepositoryNotFoundError):
        download("someone/digits", "model.safetensors")
    with pytest.raises(RepositoryNotFoundError):
        download("digits", "model.safetensors")
    with pytest.raises(RepositoryNotFoundError):
        HfApi(endpoint=endpoint).model_info("digits")
    with pytest.raises(RemoteEntryNotFoundError):
        download(REPOSITORY, "pytorch_model.bin")
    for revision in ("nothing", "f" * 64, "min_acc=1"):
        with pytest.raises(RevisionNotFoundError):
            download(REPOSITORY, "model.safetensors", revision)


@pytest.mark.parametrize(
    ("revision", "reason"),
    [
        ("min_acc=80", "min_acc: accuracy is a fraction: 0.8, not 80"),
        ("foo=1", "foo: not a parameter of this route"),
        ("min_acc=0.8&min_acc=0.7", "min_acc: given 2 times: give it once"),
        ("min_acc=1", "no checkpoint of data set digits meets min_acc=1.0; the nearest has"),
        ("nöthing", "no checkpoint 'n?thing'"),
    ],
)
def test_the_library_shows_why(endpoint: str, tmp_path: Path, revision: str, reason: str) -> None:
    for ask in (
        lambda: hf_hub_download(REPOSITORY, "config.json", revision=revision, endpoint=endpoint, cache_dir=tmp_path),
        lambda: snapshot_download(REPOSITORY, revision=revision, endpoint=endpoint, cache_dir=tmp_path),
        lambda: HfApi(endpoint=endpoint).model_info(REPOSITORY, revision=revision),
    ):
        with pytest.raises(RevisionNotFoundError) as caught:
            ask()
        assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        (
            "/zoo/imagenet/resolve/main/model.safetensors",
            404,
            "no repository zoo/imagenet: they are named zoo/<data set>",
        ),
        ("/zoo/digits/resolve/main/model.bin", 404, "no file 'model.bin': there are model.safetensors, model.onnx"),
        ("/zoo/digits/resolve/other/model.onnx", 404, "no checkpoint 'other': expected a digest"),
        ("/zoo/digits/resolve/min_acc=1/model.onnx", 404, "no checkpoint of data set digits meets min_acc=1.0"),
        ("/zoo/digits/resolve/min_acc=80/model.onnx", 422, "accuracy is a fraction: 0.8, not 80"),
    ],
)
def test_a_person_is_told_too(client: httpx.Client, path: str, status: int, detail: str) -> None:
    response = client.get(path)
    assert response.status_code == status
    assert detail in response.json()["detail"]


def test_a_token_is_the_librarys_token(client_of: Callable[..., httpx.Client], zoo_root: Path, tmp_path: Path) -> None:
    token = "a-token-of-some-length"
    endpoint = str(client_of(zoo_root, token=token).base_url).rstrip("/")
    path = hf_hub_download(REPOSITORY, "config.json", endpoint=endpoint, cache_dir=tmp_path, token=token)
    assert json.loads(Path(path).read_text())["dataset"]["name"] == "digits"
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="401"):
        hf_hub_download(REPOSITORY, "config.json", endpoint=endpoint, cache_dir=tmp_path / "other")


def test_what_can_be_read_has_a_head(client: httpx.Client) -> None:
    for path in ("/api/models/zoo/digits", "/api/models/zoo/digits/revision/main", "/api/models/zoo/digits/tree/main"):
        assert client.head(path).status_code == client.get(path).status_code == 200
