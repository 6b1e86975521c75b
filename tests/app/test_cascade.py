from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from zoo.choosing.cascade import Calibration, Cascade, Stage
from zoo.client import ZooClient
from zoo.library.local import LocalZoo
from zoo.library.upkeep.calibrate import measure_latencies

ClientOf = Callable[..., httpx.Client]


@pytest.fixture
def root(zoo_root: Path, tmp_path: Path) -> Path:
    """A zoo of its own for each test: a calibration is kept in its catalog."""
    return Path(shutil.copytree(zoo_root, tmp_path / "zoo"))


def ask(client: httpx.Client, images: list[bytes], **params: Any) -> httpx.Response:
    return client.post("/predict", params=params, files=[("file", (f"{i}.png", data)) for i, data in enumerate(images)])


def margins(predictions: list[list[dict[str, Any]]]) -> list[float]:
    return [row[0]["score"] - row[1]["score"] for row in predictions]


def by_size(client: httpx.Client) -> list[dict[str, Any]]:
    return client.get("/models").json()["items"]


def record(root: Path, *cascades: Cascade) -> None:
    """As `zoo calibrate` does, beside the server."""
    zoo = LocalZoo([root])
    zoo.annotations.record_calibration(Calibration(dataset="digits", num_images=40, cascades=cascades))
    zoo.close()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_each_image_goes_as_far_as_it_must(client_of: ClientOf, root: Path, digit_files: list[bytes]) -> None:
    client = client_of(root, rescan_seconds=0.05)
    small, middle, *_, large = by_size(client)
    alone = {
        view["id"]: ask(client, digit_files, model=view["id"], top_k=3).json()["predictions"]
        for view in (small, middle, large)
    }
    # A third of the images is enough for the first stage, half of the others for the second.
    first = float(np.quantile(margins(alone[small["id"]]), 2 / 3))
    left = [index for index, margin in enumerate(margins(alone[small["id"]])) if margin < first]
    second = float(np.median([margins(alone[middle["id"]])[index] for index in left]))
    stages = ((small, first), (middle, second), (large, None))
    cascade = Cascade(
        stages=tuple(Stage(digest=view["id"], threshold=threshold) for view, threshold in stages),
        accuracy=0.5,
        macs=1234.5,
    )
    record(root, cascade)
    eventually(lambda: ask(client, digit_files[:1], policy="cascade", min_acc=0.5).status_code == 200)

    answer = ask(client, digit_files, policy="cascade", min_acc=0.5, top_k=3).json()
    used = answer["cascade"]
    wanted = []
    for index in range(len(digit_files)):
        sure = [margins(alone[view["id"]])[index] >= (threshold or 0.0) for view, threshold in stages]
        wanted.append(stages[sure.index(True)][0])
    assert {view["id"] for view in wanted} == {small["id"], middle["id"], large["id"]}
    assert [by["id"] for by in used["answered_by"]] == [view["id"] for view in wanted]
    assert [by["params"] for by in used["answered_by"]] == [view["params"] for view in wanted]
    for index, view in enumerate(wanted):
        own = alone[view["id"]][index]
        assert [item["label"] for item in answer["predictions"][index]] == [item["label"] for item in own]
        assert answer["predictions"][index][0]["score"] == pytest.approx(own[0]["score"], abs=1e-5)
        assert used["answered_by"][index]["margin"] == pytest.approx(own[0]["score"] - own[1]["score"], abs=1e-5)
    spent = {small["id"]: small["macs"], middle["id"]: small["macs"] + middle["macs"]}
    spent[large["id"]] = spent[middle["id"]] + large["macs"]
    assert used["mean_macs"] == pytest.approx(np.mean([spent[view["id"]] for view in wanted]))
    assert (used["accuracy"], used["expected_macs"]) == (0.5, 1234.5)
    assert [(stage["id"], stage["threshold"]) for stage in used["stages"]] == [(v["id"], t) for v, t in stages]
    assert [stage["macs"] for stage in used["stages"]] == [view["macs"] for view, _ in stages]
    assert answer["model"] == {key: large[key] for key in ("id", "name", "params", "accuracy")}
    assert len(answer["predictions"][0]) == 3

    with ZooClient(str(client.base_url)) as zoo:
        labels = [first.label for first, *_ in zoo.predict(digit_files, min_acc=0.5, policy="cascade")]
    assert labels == [first["label"] for first, *_ in answer["predictions"]]

    sure_image = next(index for index, view in enumerate(wanted) if view is small)
    one = ask(client, [digit_files[sure_image]], policy="cascade", min_acc=0.5, top_k=1).json()
    assert one["model"]["id"] == small["id"]
    assert one["cascade"]["mean_macs"] == small["macs"]
    assert one["predictions"] == [answer["predictions"][sure_image][:1]]


def test_the_command_line_asks_cascades_near_and_far(
    client_of: ClientOf, root: Path, digit_files: list[bytes], tmp_path: Path, command: Callable[..., Any]
) -> None:
    client = client_of(root)
    small, *_, large = by_size(client)
    alone = ask(client, digit_files, model=small["id"]).json()["predictions"]
    median = float(np.median(margins(alone)))
    stages = (Stage(digest=small["id"], threshold=median), Stage(digest=large["id"], threshold=None))
    record(root, Cascade(stages=stages, accuracy=0.5, macs=1234.5))
    client = client_of(root)
    images = [tmp_path / f"{index}.png" for index in range(len(digit_files))]
    for path, data in zip(images, digit_files, strict=True):
        path.write_bytes(data)
    served = ask(client, digit_files, policy="cascade", min_acc=0.5, top_k=1).json()
    assert len({by["id"] for by in served["cascade"]["answered_by"]}) == 2

    for where in (("--zoo", root), ("--url", client.base_url)):
        policy = ("--policy", "cascade", *where)
        done = command("zoo", "predict", *images, "--min-acc", 0.5, "--top-k", 1, "--json", *policy)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert answer["policy"] == "cascade"
        for [mine], [theirs] in zip(answer["predictions"], served["predictions"], strict=True):
            assert mine["label"] == theirs["label"]
            assert mine["score"] == pytest.approx(theirs["score"], abs=1e-5)
        plain = command("zoo", "predict", images[0], "--min-acc", 0.5, "--top-k", 1, *policy)
        assert plain.stdout.split()[1] == served["predictions"][0][0]["label"]
        assert plain.stderr == "a cascade with accuracy 0.5 or more\n"
        for options in ((), ("--model", "best"), ("--min-acc", 0.5, "--max-params", 9000)):
            refused = command("zoo", "predict", images[0], *options, *policy)
            assert refused.returncode == 1
            assert refused.stderr.startswith("zoo: policy=cascade takes min_acc, and the name of a data set if")
        too_much = command("zoo", "predict", images[0], "--min-acc", 0.9, *policy)
        assert "no cascade of data set digits reaches accuracy 0.9" in too_much.stderr


def test_without_the_policy_nothing_changes(client: httpx.Client, digit_files: list[bytes]) -> None:
    plain, smallest = ask(client, digit_files[:2]).json(), ask(client, digit_files[:2], policy="smallest").json()
    assert set(plain) == set(smallest) == {"model", "because", "predictions", "timing_ms"}
    assert plain["predictions"] == smallest["predictions"]


def test_no_calibration_says_how_to_get_one(client: httpx.Client, digit_files: list[bytes]) -> None:
    response = ask(client, digit_files[:1], policy="cascade", min_acc=0.1)
    assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")
    assert "data set digits has no cascades: `zoo calibrate --zoo DIR --data PATH`" in response.json()["detail"]


def test_more_accuracy_than_any_cascade_has(client_of: ClientOf, root: Path, digit_files: list[bytes]) -> None:
    client = client_of(root)
    view = by_size(client)[0]
    record(root, Cascade(stages=(Stage(digest=view["id"], threshold=None),), accuracy=0.4, macs=view["macs"]))
    client = client_of(root)
    problem = ask(client, digit_files[:1], policy="cascade", min_acc=0.9).json()
    assert (problem["status"], problem["type"]) == (404, "no-model-meets-constraints")
    assert problem["best_available"] == view
    assert "no cascade of data set digits reaches accuracy 0.9; the best one promises 0.4000" in problem["detail"]
    assert ask(client, digit_files[:1], policy="cascade", min_acc=0.4).status_code == 200


@pytest.mark.parametrize(
    ("params", "detail"),
    [
        ({}, "policy=cascade takes min_acc, and the name of a data set if it is not the default one"),
        ({"min_acc": 0.5, "max_params": 5000}, "the default one; it does not take max_params"),
        ({"min_acc": 0.5, "model": "best"}, "it does not take model"),
        ({"min_acc": 0.5, "dataset": "*"}, "takes min_acc, and the name of a data set"),
        ({"min_acc": 50}, "accuracy is a fraction: 0.5, not 50"),
    ],
)
def test_what_a_cascade_does_not_take(
    client: httpx.Client, digit_files: list[bytes], params: dict[str, Any], detail: str
) -> None:
    response = ask(client, digit_files[:1], policy="cascade", **params)
    assert response.status_code == 422
    assert detail in response.json()["detail"]


def test_an_image_that_is_none_is_named(client_of: ClientOf, root: Path, digit_files: list[bytes]) -> None:
    view = by_size(client_of(root))[0]
    record(root, Cascade(stages=(Stage(digest=view["id"], threshold=None),), accuracy=0.4, macs=view["macs"]))
    response = ask(client_of(root), [digit_files[0], b"no image"], policy="cascade", min_acc=0.4)
    assert response.status_code == 400
    assert "image 2 of 2" in response.json()["detail"]


def test_latencies_measured_beside_a_running_server_select_in_it(
    client_of: ClientOf, root: Path, digit_files: list[bytes]
) -> None:
    client = client_of(root, rescan_seconds=0.05)
    views = by_size(client)
    assert client.get("/models", params={"max_latency_ms": 1e6}).status_code == 404
    zoo = LocalZoo([root])
    zoo.sync()
    latencies = measure_latencies(zoo, [view["id"] for view in views[1:]], num_rounds=2)
    zoo.close()
    eventually(lambda: client.get("/models", params={"max_latency_ms": 1e6}).status_code == 200)
    items = client.get("/models", params={"max_latency_ms": 1e6}).json()["items"]
    assert {item["id"]: item["latency_ms"] for item in items} == {one.digest: one.median_ms for one in latencies}
    selected = client.get("/models", params={"max_latency_ms": 1e6}).json()["selected"]["id"]
    assert selected == views[1]["id"], "the smallest was not measured"
    budget = {"max_latency_ms": 1e6}
    assert client.head("/models/file", params=budget).headers["x-checkpoint-id"] == selected
    assert ask(client, digit_files[:1], **budget).json()["model"]["id"] == selected
    assert client.get("/models/pareto", params={"x": "latency_ms"}).json()["count"] >= 1
