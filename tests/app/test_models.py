from __future__ import annotations

import base64
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from zoo.checkpoint.file import Checkpoint
from zoo.choosing.budget import wilson_interval
from zoo.network.cost import num_macs, num_params
from zoo.store.directory import Directory

from .conftest import png


def size(checkpoint: Checkpoint) -> int:
    return num_params(checkpoint.descriptor.architecture.graph())


def accuracy(checkpoint: Checkpoint) -> float:
    assert checkpoint.descriptor.metrics.test is not None
    return checkpoint.descriptor.metrics.test.accuracy


def by_size(checkpoints: dict[str, Checkpoint]) -> list[str]:
    return sorted(checkpoints, key=lambda digest: (size(checkpoints[digest]), -accuracy(checkpoints[digest]), digest))


def by_accuracy(checkpoints: dict[str, Checkpoint]) -> list[str]:
    return sorted(
        checkpoints, key=lambda digest: (-round(accuracy(checkpoints[digest]), 4), size(checkpoints[digest]), digest)
    )


def test_lists_every_checkpoint_the_most_accurate_first(
    client: httpx.Client, checkpoints: dict[str, Checkpoint]
) -> None:
    body = client.get("/models").json()
    assert [item["id"] for item in body["items"]] == by_accuracy(checkpoints)
    assert body["selected"] == body["items"][0]
    assert body["because"] == "most accurate"
    assert body["count"] == len(checkpoints) == 5
    assert body["dataset"] == "digits"


def test_selects_the_smallest_that_is_accurate_enough(client: httpx.Client, checkpoints: dict[str, Checkpoint]) -> None:
    for wanted in {accuracy(checkpoint) for checkpoint in checkpoints.values()}:
        eligible = [digest for digest in by_size(checkpoints) if accuracy(checkpoints[digest]) >= wanted]
        body = client.get("/models", params={"min_acc": wanted}).json()
        assert body["selected"]["id"] == eligible[0]
        assert [item["id"] for item in body["items"]] == eligible
        assert body["count"] == len(eligible)
        assert body["because"] == f"smallest with accuracy of at least {wanted}"


def test_within_bounds_the_most_accurate_is_selected(client: httpx.Client, checkpoints: dict[str, Checkpoint]) -> None:
    for bound in map(size, checkpoints.values()):
        eligible = [digest for digest in by_accuracy(checkpoints) if size(checkpoints[digest]) <= bound]
        body = client.get("/models", params={"max_params": bound}).json()
        assert [item["id"] for item in body["items"]] == eligible
        assert (body["selected"]["id"], body["because"]) == (
            eligible[0],
            f"most accurate with at most {bound:,} parameters",
        )


@pytest.mark.parametrize(
    ("prefer", "key", "because"),
    [
        ("params", "params", "smallest"),
        ("macs", "macs", "fewest multiply-accumulates"),
        ("bytes", "bytes", "smallest file"),
        ("ram", "ram_bytes", "least memory"),
        ("latency_ms", "params", "fastest"),  # nothing was measured: the tie decides
    ],
)
def test_what_is_preferred_comes_first(client: httpx.Client, prefer: str, key: str, because: str) -> None:
    pages = []
    response = client.get("/models", params={"prefer": prefer, "min_acc": 0, "limit": 2})
    while True:
        pages.append(response.json())
        if "next" not in response.links:
            break
        response = client.get(response.links["next"]["url"])
    items = [item for page in pages for item in page["items"]]
    assert len(items) == 5
    assert items == sorted(items, key=lambda item: (item[key], item["params"], -item["accuracy"], item["id"]))
    assert all(page["selected"] == items[0] for page in pages)
    assert {page["because"] for page in pages} == {f"{because} with accuracy of at least 0"}


def test_bytes_are_those_of_the_format_asked_for(client: httpx.Client) -> None:
    everything = client.get("/models").json()["items"]
    for item in everything:
        found = client.get("/models", params={"max_bytes": item["onnx_bytes"], "format": "onnx"}).json()["items"]
        assert found == [other for other in everything if other["onnx_bytes"] <= item["onnx_bytes"]]
        file = client.get("/models/file", params={"max_bytes": item["onnx_bytes"], "format": "onnx"})
        assert file.headers["x-checkpoint-id"] == found[0]["id"]
        assert len(file.content) == found[0]["onnx_bytes"] <= item["onnx_bytes"]
        words = f"most accurate with at most {item['onnx_bytes']:,} bytes as ONNX"
        assert file.headers["x-checkpoint-because"] == words


def test_an_accuracy_that_was_shown_selects_its_checkpoint(client: httpx.Client) -> None:
    for item in client.get("/models").json()["items"]:
        assert item["accuracy"] == round(item["accuracy"], 4)
        found = client.get("/models", params={"min_acc": item["accuracy"], "max_params": item["params"]}).json()
        assert item["id"] in [one["id"] for one in found["items"]]


@pytest.mark.parametrize("name", ["params", "macs", "bytes"])
def test_costs_are_bounded_inclusively(client: httpx.Client, name: str) -> None:
    everything = client.get("/models").json()["items"]
    bound = sorted(item[name] for item in everything)[2]
    items = client.get("/models", params={f"max_{name}": bound}).json()["items"]
    assert items == [item for item in everything if item[name] <= bound]
    assert len(items) >= 3


def test_confidence_asks_for_the_lower_end_of_the_interval(client: httpx.Client) -> None:
    everything = client.get("/models").json()["items"]
    best = max(everything, key=lambda item: item["accuracy"])
    lower, _ = wilson_interval(best["accuracy"], best["accuracy_n"], 0.9)
    sure = client.get("/models", params={"min_acc": lower - 1e-6, "confidence": 0.9})
    assert best["id"] in [item["id"] for item in sure.json()["items"]]
    too_much = client.get("/models", params={"min_acc": lower + 1e-6, "confidence": 0.9})
    assert too_much.status_code == 404


def test_a_checkpoint_says_what_the_contract_fixes(client: httpx.Client, checkpoints: dict[str, Checkpoint]) -> None:
    for item in client.get("/models").json()["items"]:
        checkpoint = checkpoints[item["id"]]
        descriptor = checkpoint.descriptor
        assert item["name"] == f"digits-digits-s0-{size(checkpoint)}"
        assert item["params"] == size(checkpoint)
        assert item["macs"] == num_macs(descriptor.architecture.graph())
        assert item["accuracy"] == round(accuracy(checkpoint), 4)
        assert item["accuracy_n"] == 359
        assert item["accuracy_ci95"] == pytest.approx(wilson_interval(accuracy(checkpoint), 359), abs=2e-4)
        assert item["val_accuracy"] == round(descriptor.metrics.validation.accuracy, 4)
        assert item["classes"] == [str(digit) for digit in range(10)]
        assert item["created_at"].endswith("Z")
        assert item["parent"] == descriptor.lineage.parent
        assert item["family"] == "secnn"
        assert item["latency_ms"] is None
        assert item["deprecated"] is False
        assert client.get(item["links"]["self"]).json()["id"] == item["id"]


def test_pages_put_together_are_the_list(client: httpx.Client, checkpoints: dict[str, Checkpoint]) -> None:
    response = client.get("/models", params={"limit": 2})
    found = [item["id"] for item in response.json()["items"]]
    assert len(found) == 2
    while "next" in response.links:
        response = client.get(response.links["next"]["url"])
        found += [item["id"] for item in response.json()["items"]]
    assert found == by_accuracy(checkpoints)


def test_pages_keep_the_filters_and_outlive_what_changes(
    client_of: Callable[..., httpx.Client], zoo_root: Path, tmp_path: Path
) -> None:
    for _, path in Directory(zoo_root).paths():
        shutil.copy(path, tmp_path)
    client = client_of(tmp_path, publish_token="a-token-for-publishing", rescan_seconds=0)
    client.headers["Authorization"] = "Bearer a-token-for-publishing"
    everything = [item["id"] for item in client.get("/models?min_acc=0").json()["items"]]
    page = client.get("/models", params={"limit": 2, "dataset": "*", "min_acc": 0})
    for deleted in (everything[1], everything[3]):  # the row that the cursor stands on, and one to come
        assert client.delete(f"/models/{deleted}").status_code == 204
    following = client.get(page.links["next"]["url"])
    assert [item["id"] for item in following.json()["items"]] == [everything[2], everything[4]]
    assert following.json()["count"] == 3
    assert following.request.url.params["min_acc"] == "0"
    assert following.request.url.params["dataset"] == "*"
    assert "next" not in following.links


def test_nothing_good_enough_names_the_nearest(client: httpx.Client) -> None:
    everything = client.get("/models").json()["items"]
    response = client.get("/models", params={"min_acc": 1})
    problem = response.json()
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["type"] == "no-model-meets-constraints"
    assert problem["best_available"] == max(everything, key=lambda item: item["accuracy"])
    assert "min_acc=1" in problem["detail"]


def test_nothing_small_enough_names_the_smallest(client: httpx.Client) -> None:
    response = client.get("/models", params={"max_params": 10})
    assert response.status_code == 404
    assert response.json()["best_available"]["id"] == client.get("/models?prefer=params").json()["items"][0]["id"]


def test_an_unknown_latency_meets_no_bound(client: httpx.Client) -> None:
    assert client.get("/models", params={"max_latency_ms": 1e6}).status_code == 404


@pytest.mark.parametrize(
    ("params", "detail"),
    [
        ({"min_acc": 80}, "accuracy is a fraction: 0.8, not 80"),
        ({"min_acc": -1}, "accuracy is a fraction from 0 to 1, not -1"),
        ({"max_params": "few"}, "max_params: Input should be a valid integer"),
        ({"min_accuracy": 0.8}, "min_accuracy: not a parameter of this route"),
        ({"dataset": ""}, "dataset: String should have at least 1 character"),
        ({"prefer": "size"}, "prefer: Input should be 'params', 'macs', 'bytes', 'latency_ms', 'ram' or 'accuracy'"),
        ({"limit": 201}, "limit: Input should be less than or equal to 200 (got '201')"),
        ([("min_acc", 0.8), ("min_acc", 0.7)], "min_acc: given 2 times: give it once"),
        ({"cursor": "nonsense"}, "cursor 'nonsense' is not one that a page of this list gave out"),
        ({"cursor": base64.urlsafe_b64encode(b'[Infinity, 1, "a"]').decode()}, "is not one that a page"),
        ({"cursor": base64.urlsafe_b64encode(b'[1180591620717411303424, 1, "a"]').decode()}, "is not one that a page"),
    ],
)
def test_bad_parameters_say_what_to_change(client: httpx.Client, params: dict[str, str], detail: str) -> None:
    response = client.get("/models", params=params)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert detail in response.json()["detail"]


def test_other_data_sets_are_asked_for_by_name(client: httpx.Client) -> None:
    assert client.get("/models", params={"dataset": "*"}).json()["count"] == 5
    for path in ("/models", "/models/pareto", "/models/file"):
        response = client.get(path, params={"dataset": "cifar10"})
        assert response.status_code == 404
        assert response.json()["best_available"] is None


@pytest.mark.parametrize("x", ["params", "macs", "bytes"])
def test_the_front_is_what_none_beats(client: httpx.Client, x: str) -> None:
    everything = client.get("/models").json()["items"]
    front = client.get("/models/pareto", params={"x": x}).json()
    wanted = [
        item
        for item in everything
        if not any(
            other[x] <= item[x]
            and other["accuracy"] >= item["accuracy"]
            and (other[x], other["accuracy"]) != (item[x], item["accuracy"])
            for other in everything
        )
    ]
    ids = [item["id"] for item in sorted(wanted, key=lambda item: item[x])]
    assert [item["id"] for item in front["items"]] == ids
    assert front["count"] == len(wanted)
    assert front["x"] == x


def test_one_checkpoint_by_digest_prefix_name_or_alias(
    client: httpx.Client, checkpoints: dict[str, Checkpoint]
) -> None:
    everything = client.get("/models?prefer=params").json()["items"]
    for item in everything:
        for reference in (item["id"], item["id"][:8], item["name"]):
            assert client.get(f"/models/{reference}").json()["id"] == item["id"]
    assert client.get("/models/smallest").json()["id"] == everything[0]["id"]
    assert client.get("/models/best").json()["accuracy"] == max(item["accuracy"] for item in everything)
    newest = max(everything, key=lambda item: item["created_at"])
    assert client.get("/models/latest").json()["id"] == newest["id"]
    assert "latest" in newest["aliases"]


def test_one_checkpoint_shows_its_whole_descriptor(client: httpx.Client, checkpoints: dict[str, Checkpoint]) -> None:
    for digest, checkpoint in checkpoints.items():
        shown = client.get(f"/models/{digest}").json()["descriptor"]
        assert type(checkpoint.descriptor).model_validate(shown) == checkpoint.descriptor


def test_what_is_no_parameter_is_said_everywhere(client: httpx.Client) -> None:
    assert client.get("/models/pareto?prefer=macs").json()["detail"] == "prefer: not a parameter of this route"
    run = client.get("/runs").json()["items"][0]["name"]
    for path in ("/models/best", "/models/best/file", "/runs", f"/runs/{run}", f"/runs/{run}/events"):
        response = client.get(path, params={"foo": 1})
        assert response.status_code == 422, path
        assert response.json()["detail"] == "foo: not a parameter of this route"
    twice = client.get("/models/best?dataset=digits&dataset=cifar10")
    assert (twice.status_code, twice.json()["detail"]) == (422, "dataset: given 2 times: give it once")


def test_an_error_names_its_parameter_or_none(client: httpx.Client) -> None:
    assert client.get("/models?min_acc=80").json()["errors"][0]["parameter"] == "min_acc"
    [error] = client.post("/predict?deadline_ms=5").json()["errors"]
    assert error == {"message": "deadline_ms is for policy=adaptive, the policy is single: give both or neither"}


def test_confidence_alone_asks_for_any_known_accuracy(client: httpx.Client) -> None:
    sure, plain = client.get("/models?confidence=0.95").json(), client.get("/models").json()
    assert sure["items"] == plain["items"]
    assert sure["because"] == "most accurate with accuracy of at least 0 (with 95 % confidence)"


def test_names_beside_a_data_set(
    client_of: Callable[..., httpx.Client], put: Callable[..., str], tmp_path: Path
) -> None:
    shape, digit = put(tmp_path, accuracy=0.9), put(tmp_path, accuracy=0.5, dataset="digits")
    client = client_of(tmp_path, default_dataset="shapes", publish_token="a-token-for-publishing")
    image = png(np.zeros((8, 8), np.uint8))

    def predicted(model: str, dataset: str) -> httpx.Response:
        headers = {"Content-Type": "image/png"}
        return client.post("/predict", params={"model": model, "dataset": dataset}, content=image, headers=headers)

    for alias in ("best", "smallest", "latest"):
        assert client.get(f"/models/{alias}").json()["id"] == shape
        assert client.get(f"/models/{alias}?dataset=digits").json()["id"] == digit
        assert client.get(f"/models/{alias}/file?dataset=digits").headers["x-checkpoint-id"] == digit
        assert predicted(alias, "digits").json()["model"]["id"] == digit
    authorized = {"Authorization": "Bearer a-token-for-publishing"}
    others = (
        client.get(f"/models/{shape}?dataset=digits"),
        client.get(f"/models/{shape}/file?dataset=digits"),
        predicted(shape, "digits"),
        client.patch(f"/models/{shape}?dataset=digits", json={"deprecated": True}, headers=authorized),
        client.delete(f"/models/{shape}?dataset=digits", headers=authorized),
    )
    for response in others:
        assert response.status_code == 404
        assert response.json()["detail"] == "checkpoint shapes-test-s0-164 is of data set shapes, not of digits"
    assert client.delete(f"/models/{digit}?dataset=digits", headers=authorized).status_code == 204
    assert client.get(f"/models/{digit}").status_code == 410


@pytest.mark.parametrize("reference", ["nothing", "0" * 64, "abc", "00000000"])
def test_unknown_checkpoints_are_404(client: httpx.Client, reference: str) -> None:
    response = client.get(f"/models/{reference}")
    assert response.status_code == 404
    assert response.json()["type"] == "not-found"
    assert reference in response.json()["detail"]
