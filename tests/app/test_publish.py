"""Publishing over HTTP. What is refused must leave nothing behind: `leftovers` looks."""

from __future__ import annotations

import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from zoo.checkpoint.file import Checkpoint, digest_of, encode
from zoo.client import ZooClient
from zoo.errors import GoneError, RemoteError
from zoo.network.families.secnn import SecnnArchitecture
from zoo.store.directory import Directory

TOKEN = "a-token-for-publishing"
READING = "a-token-for-reading"
Make = Callable[..., Checkpoint]


@pytest.fixture
def publisher(client_of: Callable[..., httpx.Client], tmp_path: Path) -> httpx.Client:
    """Of an empty zoo in tmp_path, which is looked through only when it is started."""
    client = client_of(tmp_path, publish_token=TOKEN, rescan_seconds=0)
    client.headers["Authorization"] = f"Bearer {TOKEN}"
    return client


def put(client: httpx.Client, data: bytes) -> str:
    digest = digest_of(data)
    assert client.put(f"/blobs/sha256:{digest}", content=data).status_code == 201
    return digest


def publish(client: httpx.Client, checkpoint: Checkpoint) -> str:
    digest = put(client, encode(checkpoint))
    assert client.post("/models", json={"digest": digest}).status_code == 201
    return digest


def leftovers(root: Path) -> list[Path]:
    others = ("catalog.sqlite", "annotations.jsonl")
    return [path for path in root.rglob("*") if path.is_file() and not path.name.startswith(others)]


def test_a_published_checkpoint_is_there_at_once(
    publisher: httpx.Client, tmp_path: Path, make_checkpoint: Make
) -> None:
    data = encode(make_checkpoint())
    digest = put(publisher, data)
    assert publisher.get("/models").json()["count"] == 0
    response = publisher.post("/models", json={"digest": f"sha256:{digest}"})
    assert response.status_code == 201
    assert publisher.get(response.url.join(response.headers["location"])).json()["id"] == digest
    shown = publisher.get("/models/best").json()
    apart = ("descriptor", "stages", "links")  # links are relative to the address
    assert {**response.json(), "links": None} == {**{n: v for n, v in shown.items() if n not in apart}, "links": None}
    assert publisher.get("/models/best/file").content == data
    assert leftovers(tmp_path) == [Directory(tmp_path).path(digest)]


def test_the_same_twice_is_the_same(publisher: httpx.Client, tmp_path: Path, make_checkpoint: Make) -> None:
    digest = publish(publisher, make_checkpoint())
    for _ in range(2):
        again = publisher.post("/models", json={"digest": digest})
        assert (again.status_code, again.json()["id"]) == (200, digest)
        put(publisher, encode(make_checkpoint()))
    publisher.post("/models", json={"digest": digest})
    assert publisher.get("/models").json()["count"] == 1
    assert leftovers(tmp_path) == [Directory(tmp_path).path(digest)]


def test_many_publish_the_same_at_once(publisher: httpx.Client, tmp_path: Path, make_checkpoint: Make) -> None:
    digest = put(publisher, encode(make_checkpoint()))
    statuses: list[int] = []

    def post() -> None:
        statuses.append(publisher.post("/models", json={"digest": digest}).status_code)

    threads = [threading.Thread(target=post) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] * 7 + [201]
    assert leftovers(tmp_path) == [Directory(tmp_path).path(digest)]


def test_other_bytes_than_those_of_the_digest_are_refused(publisher: httpx.Client, tmp_path: Path) -> None:
    response = publisher.put(f"/blobs/sha256:{'a' * 64}", content=b"some bytes")
    assert response.status_code == 422
    assert re.search("the bytes have SHA-256 [0-9a-f]{64}, not aaaa", response.json()["detail"])
    assert leftovers(tmp_path) == []


def damaged(checkpoint: Checkpoint, how: str) -> bytes:
    data = encode(checkpoint)
    match how:
        case "no safetensors file":
            return b"not a file of ours"
        case "huge header":
            return (5 * 1024 * 1024).to_bytes(8, "little") + b" " * (5 * 1024 * 1024)
        case "cut off":
            return data[:-4]
        case "no descriptor":
            return data.replace(b'"descriptor"', b'"descripter"')
        case "impossible architecture":
            return data.replace(b'input_height\\":8', b'input_height\\":0')
        case "another architecture":
            return data.replace(b'hidden_features\\":4', b'hidden_features\\":5')
        case "not finite":
            return data[:-4] + np.float32("nan").tobytes()
    raise AssertionError(how)


@pytest.mark.parametrize(
    ("how", "detail"),
    [
        ("no safetensors file", "not a whole safetensors file"),
        ("huge header", "the header has 5242880 bytes, at most 4194304 are read"),
        ("cut off", "bytes, the file has"),
        ("no descriptor", "a safetensors file without a descriptor in its metadata"),
        ("impossible architecture", "architecture.input_height"),
        ("another architecture", "should be float32"),
        ("not finite", "holds numbers that are not finite"),
    ],
)
def test_what_is_no_checkpoint_is_refused(
    publisher: httpx.Client, tmp_path: Path, make_checkpoint: Make, how: str, detail: str
) -> None:
    data = damaged(make_checkpoint(), how)
    assert data != encode(make_checkpoint())
    response = publisher.post("/models", json={"digest": put(publisher, data)})
    assert response.status_code == 422
    assert response.json()["type"] == "not-a-checkpoint"
    assert detail in response.json()["detail"]
    assert leftovers(tmp_path) == []
    assert publisher.get("/models").json()["count"] == 0


def test_parameters_are_counted_again(publisher: httpx.Client, tmp_path: Path, example: Checkpoint) -> None:
    lineage = example.descriptor.lineage
    step = lineage.expansions[0].model_copy(update={"params_after": 165})
    descriptor = example.descriptor.model_copy(update={"lineage": lineage.model_copy(update={"expansions": (step,)})})
    digest = put(publisher, encode(replace(example, descriptor=descriptor)))
    response = publisher.post("/models", json={"digest": digest})
    assert response.status_code == 422
    assert response.json()["detail"] == "the network has 164 parameters, its last expansion says 165"
    assert leftovers(tmp_path) == []
    publish(publisher, example)


def test_bytes_that_were_not_uploaded(publisher: httpx.Client) -> None:
    response = publisher.post("/models", json={"digest": "a" * 64})
    assert response.status_code == 404
    assert "PUT them to /blobs/sha256:aaa" in response.json()["detail"]
    for digest in ("abc", "md5:" + "a" * 32, "A" * 64):
        assert publisher.post("/models", json={"digest": digest}).status_code == 422
        assert publisher.put(f"/blobs/sha256:{digest}", content=b"").status_code == 422


def test_what_is_no_parameter_is_said_when_publishing(publisher: httpx.Client) -> None:
    digest = digest_of(b"")
    for response in (
        publisher.put(f"/blobs/sha256:{digest}?dry_run=1", content=b""),
        publisher.post("/models?dry_run=1", json={"digest": digest}),
    ):
        assert response.status_code == 422
        assert response.json()["detail"] == "dry_run: not a parameter of this route"


def test_broken_json_is_named_as_the_body(publisher: httpx.Client) -> None:
    response = publisher.post("/models", content=b"{", headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert response.json()["detail"].startswith("body: JSON was expected: ")
    assert response.json()["errors"][0]["parameter"] == "body"


def test_publishing_needs_its_own_token(
    client_of: Callable[..., httpx.Client], tmp_path: Path, make_checkpoint: Make
) -> None:
    digest = "a" * 64
    requests = [
        ("PUT", f"/blobs/sha256:{digest}"),
        ("POST", "/models"),
        ("PATCH", "/models/best"),
        ("DELETE", "/models/best"),
    ]

    def answers(client: httpx.Client, token: str | None) -> set[tuple[int, str]]:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        responses = [
            client.request(method, path, json={"digest": digest} if method == "POST" else {}, headers=headers)
            for method, path in requests
        ]
        return {(response.status_code, response.json()["type"]) for response in responses}

    closed = client_of(tmp_path)
    assert answers(closed, None) == answers(closed, TOKEN) == {(403, "publishing-is-off")}
    both = client_of(tmp_path, token=READING, publish_token=TOKEN)
    assert answers(both, READING) == {(403, "forbidden")}
    assert answers(both, None) == answers(both, "something-else") == {(401, "unauthorized")}
    on_loopback = client_of(tmp_path, publish_token=TOKEN)
    assert answers(on_loopback, None) == {(401, "unauthorized")}
    assert on_loopback.get("/models").status_code == 200
    both.headers["Authorization"] = f"Bearer {TOKEN}"
    publish(both, make_checkpoint())
    assert both.get("/models").json()["count"] == 1, "who may publish may read"
    assert leftovers(tmp_path) == [path for _, path in Directory(tmp_path).paths()]


def test_aliases_name_a_checkpoint_until_they_are_taken_away(
    publisher: httpx.Client, tmp_path: Path, make_checkpoint: Make, client_of: Callable[..., httpx.Client]
) -> None:
    first, second = (publish(publisher, make_checkpoint(seed=seed, accuracy=0.5 + seed / 10)) for seed in range(2))
    changed = publisher.patch(f"/models/{first}", json={"aliases": ["stable", "v1"]})
    assert changed.status_code == 200
    assert set(changed.json()["aliases"]) == {"stable", "v1"}
    assert publisher.get("/models/stable").json()["id"] == first
    assert publisher.get("/models/stable/file").headers["cache-control"].startswith("no-cache")
    assert publisher.get("/zoo/shapes/resolve/stable/model.safetensors").headers["x-repo-commit"] == first[:40]

    taken = publisher.patch(f"/models/{second}", json={"aliases": ["stable"]})
    assert taken.status_code == 409
    assert f"alias stable is that of checkpoint {first}" in taken.json()["detail"]
    publisher.patch("/models/stable", json={"aliases": ["v1"]})
    assert publisher.get("/models/stable").status_code == 404
    publisher.patch(f"/models/{second}", json={"aliases": ["stable"]})
    assert publisher.get("/models/stable/file").headers["x-checkpoint-id"] == second
    assert publisher.patch("/models/stable", json={}).json()["aliases"].count("stable") == 1

    (tmp_path / "catalog.sqlite").unlink()
    assert client_of(tmp_path).get("/models/stable").json()["id"] == second, "files say it, not the catalog"


@pytest.mark.parametrize(
    ("alias", "status", "detail"),
    [
        ("best", 409, "alias best has a meaning of its own"),
        ("file", 409, "alias file has a meaning of its own"),
        ("shapes-test-s0-164", 409, "alias shapes-test-s0-164 is the name of checkpoint"),
        ("deadbeef", 422, "an alias must not look like the first digits of a digest"),
        ("With Spaces", 422, "String should match pattern"),
        ("a/b", 422, "String should match pattern"),
    ],
)
def test_not_every_word_is_an_alias(
    publisher: httpx.Client, make_checkpoint: Make, alias: str, status: int, detail: str
) -> None:
    digest = publish(publisher, make_checkpoint())
    response = publisher.patch(f"/models/{digest}", json={"aliases": [alias]})
    assert response.status_code == status
    assert detail in response.json()["detail"]


def test_the_deprecated_are_found_and_not_chosen(
    publisher: httpx.Client, make_checkpoint: Make, tiny: SecnnArchitecture
) -> None:
    small = publish(publisher, make_checkpoint(accuracy=0.9))
    large = publish(publisher, make_checkpoint(tiny.widened(0, 1), accuracy=0.8))
    assert publisher.patch(f"/models/{small}", json={"deprecated": True}).json()["deprecated"] is True
    for path in ("/models/smallest", "/models/best", "/models/latest"):
        assert publisher.get(path).json()["id"] == large
    assert publisher.get("/models", params={"min_acc": 0.5}).json()["selected"]["id"] == large
    assert [item["id"] for item in publisher.get("/models/pareto").json()["items"]] == [large]
    assert publisher.get("/models/file").headers["x-checkpoint-id"] == large
    assert publisher.get(f"/models/{small}").json()["deprecated"] is True
    assert publisher.get(f"/models/{small}/file").status_code == 200
    publisher.patch(f"/models/{small}", json={"deprecated": False})
    assert publisher.get("/models/smallest").json()["id"] == small
    assert len(publisher.get("/models").json()["items"]) == 2


def test_a_deleted_checkpoint_is_gone_until_it_is_published_again(
    publisher: httpx.Client, tmp_path: Path, make_checkpoint: Make, client_of: Callable[..., httpx.Client]
) -> None:
    digest = publish(publisher, make_checkpoint())
    publisher.patch(f"/models/{digest}", json={"aliases": ["stable"]})
    assert publisher.get(f"/models/{digest}/file").status_code == 200
    for name in ("stable", "best", "shapes-test-s0-164", digest[:12]):
        refused = publisher.delete(f"/models/{name}")
        assert refused.status_code == 422
        assert f"{name} is {digest}" in refused.json()["detail"]
    assert publisher.delete(f"/models/{digest}").status_code == 204
    for path in (f"/models/{digest}", f"/models/{digest[:8]}", f"/models/{digest}/file", f"/v2/models/{digest}"):
        assert publisher.get(path).status_code == 410
    assert publisher.get(f"/models/{digest}").json()["detail"] == f"checkpoint {digest} was deleted"
    assert publisher.delete(f"/models/{digest}").status_code == 410
    with ZooClient(str(publisher.base_url)) as zoo, pytest.raises(GoneError, match=f"checkpoint {digest} was deleted"):
        zoo.show(digest)
    assert publisher.get("/models/stable").status_code == 404
    assert client_of(tmp_path).get(f"/models/{digest}").status_code == 410, "also after a restart"

    assert publisher.post("/models", json={"digest": digest}).status_code == 201, "its file is still there"
    assert publisher.get(f"/models/{digest}/file").status_code == 200
    assert publisher.get("/models/stable").status_code == 404


def test_another_worker_follows(
    publisher: httpx.Client, tmp_path: Path, make_checkpoint: Make, client_of: Callable[..., httpx.Client]
) -> None:
    other = client_of(tmp_path, rescan_seconds=2)
    digest = publish(publisher, make_checkpoint())
    assert other.get(f"/models/{digest}/file").status_code == 200
    publisher.patch(f"/models/{digest}", json={"aliases": ["stable"]})
    assert other.get("/models/stable").status_code == 200
    publisher.delete(f"/models/{digest}")
    wait_for(lambda: other.get(f"/models/{digest}/file").status_code == 410)


def test_an_alias_moves_in_one_step(publisher: httpx.Client, make_checkpoint: Make) -> None:
    first, second = (publish(publisher, make_checkpoint(seed=seed)) for seed in range(2))
    publisher.patch(f"/models/{first}", json={"aliases": ["stable", "v1"]})
    refused = publisher.patch(f"/models/{second}", json={"aliases": ["stable"]})
    assert refused.status_code == 409
    moved = publisher.patch(f"/models/{second}", json={"aliases": ["stable"], "move": True})
    assert "stable" in moved.json()["aliases"]
    assert publisher.get("/models/stable").json()["id"] == second
    assert publisher.get("/models/v1").json()["id"] == first, "its other aliases stay"
    for _ in range(2):  # again and again
        assert "v1" in publisher.put(f"/models/{second}/aliases/v1").json()["aliases"]
        assert publisher.get("/models/stable").json()["id"] == publisher.get("/models/v1").json()["id"] == second
    assert publisher.delete(f"/models/{first}/aliases/v1").status_code == 404, "it is another's by now"
    assert publisher.delete(f"/models/{second}/aliases/v1").status_code == 204
    assert publisher.get("/models/v1").status_code == 404
    assert publisher.get("/models/stable").json()["id"] == second
    assert publisher.put(f"/models/{second}/aliases/best").status_code == 409
    assert publisher.put(f"/models/{second}/aliases/deadbeef").status_code == 422


def test_each_data_set_has_aliases_of_its_own(
    publisher: httpx.Client, make_checkpoint: Make, tmp_path: Path, client_of: Callable[..., httpx.Client]
) -> None:
    shapes = publish(publisher, make_checkpoint())
    cifar = publish(publisher, make_checkpoint(dataset="cifar10"))
    for digest in (shapes, cifar):
        assert publisher.patch(f"/models/{digest}", json={"aliases": ["stable"]}).status_code == 200
    assert publisher.get("/models/stable").json()["id"] == cifar, "of the default data set"
    for dataset, digest in (("cifar10", cifar), ("shapes", shapes)):
        assert publisher.get(f"/models/stable?dataset={dataset}").json()["id"] == digest
    assert publisher.get("/zoo/shapes/resolve/stable/model.safetensors").headers["x-repo-commit"] == shapes[:40]
    publisher.put(f"/models/{shapes}/aliases/only-here")
    missing = publisher.get("/models/only-here")
    assert missing.status_code == 404
    assert "name it with dataset=shapes" in missing.json()["detail"]
    assert publisher.get("/models/only-here?dataset=*").json()["id"] == shapes
    assert client_of(tmp_path).get("/models/stable?dataset=shapes").json()["id"] == shapes, "also after a restart"


def test_a_change_can_ask_for_what_it_has_seen(publisher: httpx.Client, make_checkpoint: Make) -> None:
    digest = publish(publisher, make_checkpoint())
    seen = publisher.get(f"/models/{digest}").headers["etag"]
    changed = publisher.patch(f"/models/{digest}", json={"aliases": ["stable"]}, headers={"If-Match": seen})
    assert changed.status_code == 200
    assert changed.headers["etag"] == publisher.get("/models/stable").headers["etag"] != seen
    stale = publisher.patch(f"/models/{digest}", json={"deprecated": True}, headers={"If-Match": seen})
    assert stale.status_code == 412
    assert changed.headers["etag"] in stale.json()["detail"]
    assert publisher.get("/models/stable").json()["deprecated"] is False
    both = f'"something-else", {changed.headers["etag"]}'
    for tags in (both, "*"):
        again = publisher.patch(f"/models/{digest}", json={"deprecated": True}, headers={"If-Match": tags})
        assert again.status_code == 200
    lines = [("If-Match", '"something-else"'), ("If-Match", changed.headers["etag"])]
    back = publisher.patch(f"/models/{digest}", json={"deprecated": False}, headers=[*lines, ("If-Match", '"x"')])
    assert back.status_code == 412, "it is deprecated now"
    assert publisher.patch(f"/models/{digest}", json={"deprecated": False}).headers["etag"] == changed.headers["etag"]
    for method, path in (
        ("PUT", f"/models/{digest}/aliases/v1"),
        ("DELETE", f"/models/{digest}/aliases/stable"),
        ("DELETE", f"/models/{digest}"),
    ):
        assert publisher.request(method, path, headers={"If-Match": seen}).status_code == 412
        assert publisher.get("/models/stable").json()["aliases"].count("stable") == 1
    now = publisher.put(f"/models/{digest}/aliases/v1", headers=lines).headers["etag"]
    assert publisher.delete(f"/models/{digest}", headers={"If-Match": now}).status_code == 204


def test_a_checkpoint_has_at_most_32_aliases(publisher: httpx.Client, make_checkpoint: Make) -> None:
    digest = publish(publisher, make_checkpoint())
    names = [f"v{number}" for number in range(32)]
    assert publisher.patch(f"/models/{digest}", json={"aliases": names}).status_code == 200
    more = publisher.put(f"/models/{digest}/aliases/v32")
    assert (more.status_code, more.json()["type"]) == (409, "conflict")
    assert "has 32 aliases, at most 32 are kept" in more.json()["detail"]
    assert publisher.put(f"/models/{digest}/aliases/v31").status_code == 200


def test_annotations_that_cannot_be_read_are_no_failure_of_the_server(
    publisher: httpx.Client, tmp_path: Path, make_checkpoint: Make
) -> None:
    digest = publish(publisher, make_checkpoint())
    annotations, aside = tmp_path / "annotations.jsonl", tmp_path / "aside.jsonl"
    annotations.rename(aside)
    annotations.mkdir()
    refused = [
        publisher.delete(f"/models/{digest}"),
        publisher.patch(f"/models/{digest}", json={"deprecated": True}),
        publisher.post("/models", json={"digest": put(publisher, encode(make_checkpoint(seed=1)))}),
    ]
    for answer in refused:
        assert (answer.status_code, answer.json()["type"]) == (503, "annotations-damaged")
        assert int(answer.headers["retry-after"]) > 0
        assert "annotations.jsonl" in answer.json()["detail"]
    assert publisher.get(f"/models/{digest}/file").status_code == 200
    annotations.rmdir()
    aside.rename(annotations)
    assert publisher.post("/models", json={"digest": digest_of(encode(make_checkpoint(seed=1)))}).status_code == 201


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60  # a server may start slowly beside other work
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_upload_that_breaks_off_leaves_nothing(publisher: httpx.Client, tmp_path: Path) -> None:
    url = publisher.base_url
    lines = [f"PUT /blobs/sha256:{'a' * 64} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {TOKEN}"]
    head = "\r\n".join([*lines, "Content-Length: 1000000", "", ""])
    with socket.create_connection((url.host, url.port or 80)) as wire:
        wire.sendall(head.encode() + b"x" * 100_000)
        wait_for(lambda: bool(leftovers(tmp_path)))
    wait_for(lambda: not leftovers(tmp_path))


def test_a_body_over_the_limit_is_refused(
    client_of: Callable[..., httpx.Client], tmp_path: Path, make_checkpoint: Make
) -> None:
    client = client_of(tmp_path, publish_token=TOKEN, max_body_bytes=1000)
    client.headers["Authorization"] = f"Bearer {TOKEN}"

    def chunks() -> Iterator[bytes]:
        yield from [b"x" * 600] * 2

    for content in (b"x" * 1001, chunks()):
        assert client.put(f"/blobs/sha256:{'a' * 64}", content=content).status_code == 413
    as_json = {"Content-Type": "application/json"}
    assert client.post("/models", content=chunks(), headers=as_json).status_code == 413
    assert leftovers(tmp_path) == []


def test_without_space_nothing_is_left(tmp_path: Path, make_checkpoint: Make) -> None:
    """A limit on the size of files stands for the full disk: both fail while writing."""
    log = (tmp_path / "log").open("w+")
    root = tmp_path / "zoo"
    root.mkdir()
    server = subprocess.Popen(
        [sys.executable, "-m", "app", "--zoo", root, "--port", "0"],
        stderr=log,
        env={"ZOO_PUBLISH_TOKEN": TOKEN, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
    )
    try:
        wait_for(lambda: "http://127.0.0.1" in Path(log.name).read_text())
        url = re.findall(r"http://127\.0\.0\.1:\d+", Path(log.name).read_text())[0]
        with ZooClient(url, TOKEN) as client:
            with pytest.raises(
                RemoteError, match="no space for the checkpoint: File too large; nothing of it was kept"
            ):
                client.publish(b"x" * 1_000_001)
            assert leftovers(root) == []
            view = client.publish(encode(make_checkpoint()))
            assert client.smallest().id == view.id
    finally:
        server.terminate()
        server.wait()
        log.close()


def test_a_client_publishes(publisher: httpx.Client, make_checkpoint: Make) -> None:
    with ZooClient(str(publisher.base_url), TOKEN) as client:
        data = encode(make_checkpoint())
        assert client.publish(data).id == client.publish(data).id == digest_of(data)
        with pytest.raises(RemoteError, match="not a whole safetensors file"):
            client.publish(b"something else")
