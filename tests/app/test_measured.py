"""A claim is not a measurement: what `--eval-data` and staging do for whoever chooses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from PIL import Image

from app.settings import Settings
from zoo.checkpoint.file import Checkpoint, digest_of, encode
from zoo.store.directory import Directory

TOKEN = "a-token-for-publishing"
AS_PUBLISHER = {"Authorization": f"Bearer {TOKEN}"}
Serve = Callable[..., httpx.Client]
Make = Callable[..., Checkpoint]


def claiming(checkpoint: Checkpoint, accuracy: float, *, run: str = "impostor", seed: int = 0) -> bytes:
    """The same network, of which the file says another accuracy."""
    descriptor = checkpoint.descriptor
    assert descriptor.metrics.test is not None
    test = descriptor.metrics.test.model_copy(update={"accuracy": accuracy})
    lineage = descriptor.lineage.model_copy(update={"run": run, "seed": seed})
    metrics = descriptor.metrics.model_copy(update={"test": test, "confusion": None})
    return encode(
        replace(checkpoint, descriptor=descriptor.model_copy(update={"metrics": metrics, "lineage": lineage}))
    )


def publish(client: httpx.Client, data: bytes, **options: bool) -> httpx.Response:
    digest = digest_of(data)
    assert client.put(f"/blobs/sha256:{digest}", content=data).status_code == 201
    return client.post("/models", json={"digest": digest, **options}, timeout=60)


@pytest.fixture(scope="module")
def best(checkpoints: dict[str, Checkpoint]) -> Checkpoint:
    def accuracy(checkpoint: Checkpoint) -> float:
        test = checkpoint.descriptor.metrics.test
        return test.accuracy if test else 0.0

    return max(checkpoints.values(), key=accuracy)


@pytest.fixture(scope="module")
def measuring(
    served: Callable[[Settings], AbstractContextManager[httpx.Client]],
    tmp_path_factory: pytest.TempPathFactory,
    best: Checkpoint,
) -> Iterator[httpx.Client]:
    """A server with one checkpoint of digits, which lay there before, and test images of digits."""
    root = tmp_path_factory.mktemp("measuring")
    Directory(root).put(claiming(best, 1.0, run="found"))
    with served(Settings(zoo=(root,), publish_token=TOKEN, eval_data=("digits",), rescan_seconds=0)) as client:
        client.headers.update(AS_PUBLISHER)
        yield client


def test_what_lay_there_before_is_measured_in_the_background(measuring: httpx.Client, best: Checkpoint) -> None:
    deadline = time.monotonic() + 60
    while (found := measuring.get("/models/best").json())["accuracy_source"] != "measured":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert best.descriptor.metrics.test is not None
    assert found["accuracy"] == pytest.approx(best.descriptor.metrics.test.accuracy, abs=0.01)
    assert found["descriptor"]["metrics"]["test"]["accuracy"] == 1.0, "the file says what it says"


def test_the_measured_accuracy_decides(measuring: httpx.Client, best: Checkpoint) -> None:
    for tensor in (tensors := {name: tensor.copy() for name, tensor in best.tensors.items()}).values():
        tensor[:] = 0
    tensors = {name: tensor + 1 if name.endswith("running_var") else tensor for name, tensor in tensors.items()}
    answer = publish(measuring, claiming(Checkpoint(best.descriptor, tensors), 1.0))
    assert answer.status_code == 201, answer.text
    assert answer.json()["accuracy_source"] == "measured"
    assert answer.json()["accuracy"] < 0.2
    assert measuring.get("/models/best").json()["id"] != answer.json()["id"]
    assert measuring.get("/models?min_acc=0.99").status_code == 404


def test_other_classes_than_those_of_the_images_are_refused(measuring: httpx.Client, best: Checkpoint) -> None:
    descriptor = best.descriptor.model_copy(update={"classes": tuple(f"wrong {i}" for i in range(10))})
    answer = publish(measuring, claiming(Checkpoint(descriptor, best.tensors), 1.0, seed=2))
    assert answer.status_code == 422
    assert "has others than its test images: 10 from 'wrong 0' on, not 10 from '0' on" in answer.json()["detail"]


def test_what_cannot_be_measured_is_staged_and_not_promoted(measuring: httpx.Client, make_checkpoint: Make) -> None:
    answer = publish(measuring, encode(make_checkpoint(accuracy=1.0, dataset="unheard-of")))
    assert answer.status_code == 201
    shown = answer.json()
    assert (shown["staged"], shown["accuracy_source"]) == (True, "claimed")
    assert measuring.get(f"/models/{shown['id']}").json()["staged"] is True
    for path in (f"/models/{shown['name']}", "/models/best?dataset=unheard-of"):
        assert measuring.get(path).status_code == 404
    assert measuring.get("/models/best?dataset=*").json()["dataset"] == "digits"
    refused = measuring.patch(f"/models/{shown['id']}", json={"staged": False})
    assert refused.status_code == 409
    assert "--eval-data" in refused.json()["detail"]


def test_a_damaged_test_image_is_nothing_that_a_publisher_did(
    client_of: Serve, tmp_path: Path, make_checkpoint: Make
) -> None:
    checkpoint = make_checkpoint(dataset="photos")
    for label in checkpoint.descriptor.classes:
        folder = tmp_path / "photos" / "test" / label
        folder.mkdir(parents=True)
        Image.effect_noise((32, 32), 80).save(folder / "noise.png")
    damaged = folder / "noise.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    (tmp_path / "zoo").mkdir()
    client = client_of(tmp_path / "zoo", publish_token=TOKEN, eval_data=(str(tmp_path / "photos"),))
    client.headers.update(AS_PUBLISHER)
    answer = publish(client, encode(checkpoint))
    assert answer.status_code == 503, answer.text
    assert "the test images of data set photos cannot be read" in answer.json()["detail"]


def test_staged_checkpoints_are_tried_before_they_are_chosen(
    client_of: Serve, tmp_path: Path, make_checkpoint: Make
) -> None:
    client = client_of(tmp_path, publish_token=TOKEN)
    client.headers.update(AS_PUBLISHER)
    plain = publish(client, encode(make_checkpoint(accuracy=0.5))).json()
    staged = publish(client, encode(make_checkpoint(accuracy=0.9, seed=1)), stage=True).json()
    assert (plain["staged"], staged["staged"]) == (False, True)
    for path in ("/models/best", "/models/latest", "/models/smallest", "/models/file?min_acc=0.4"):
        answer = client.get(path)
        assert answer.headers.get("x-checkpoint-id", plain["id"]) == plain["id"]
    assert [item["id"] for item in client.get("/models").json()["items"]] == [plain["id"]]
    assert client.get("/models?min_acc=0.8").status_code == 404
    assert client.get(f"/models/{staged['name']}").status_code == 404
    assert client.get(f"/models/{staged['id']}/file").status_code == 200
    assert publish(client, encode(make_checkpoint(accuracy=0.9, seed=1))).json()["staged"] is True, "not by the way"
    assert client.patch(f"/models/{staged['id']}", json={"staged": False}).json()["staged"] is False
    assert client.get("/models/best").json()["id"] == staged["id"]
    assert client_of(tmp_path).get("/models?min_acc=0.8").json()["selected"]["accuracy_source"] == "claimed"
