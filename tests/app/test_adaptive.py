"""policy=adaptive over HTTP, from programs and on the command line."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from zoo.client import ZooClient
from zoo.errors import RemoteError, ZooError
from zoo.library.local import LocalZoo
from zoo.network.families import secnn

from .conftest import ServerProcess, png
from .test_cascade import eventually

LAX = {"policy": "adaptive", "deadline_ms": 20_000}


def ask(client: httpx.Client, images: list[bytes], **params: Any) -> httpx.Response:
    return client.post("/predict", params=params, files=[("file", (f"{i}.png", data)) for i, data in enumerate(images)])


def front(client: httpx.Client, **bounds: Any) -> list[dict[str, Any]]:
    return client.get("/models/pareto", params={"x": "macs", **bounds}).json()["items"]


def model_of(view: dict[str, Any]) -> dict[str, Any]:
    return {key: view[key] for key in ("id", "name", "params", "accuracy")}


def test_with_time_the_most_accurate_answers_and_without_the_smallest(
    client: httpx.Client, digit_files: list[bytes]
) -> None:
    levels = front(client)
    assert len(levels) > 2
    most_accurate = client.get("/models?prefer=accuracy").json()["selected"]
    answer = ask(client, digit_files, **LAX, top_k=3).json()
    assert answer["model"] == model_of(most_accurate)
    assert answer["adaptive"]["reason"] == "best"
    assert 0 < answer["adaptive"]["took_ms"] < answer["adaptive"]["deadline_ms"] == 20_000
    assert answer["because"] == "most accurate, for a deadline of 20000 ms: no eligible one is more accurate"
    alone = ask(client, digit_files, model=most_accurate["id"], top_k=3).json()
    for mine, theirs in zip(answer["predictions"], alone["predictions"], strict=True):
        assert [item["label"] for item in mine] == [item["label"] for item in theirs]
        assert mine[0]["score"] == pytest.approx(theirs[0]["score"], abs=1e-5)

    hopeless = ask(client, digit_files[:2], policy="adaptive", deadline_ms=0.001)
    assert hopeless.status_code == 200
    assert hopeless.json()["model"] == model_of(levels[0])
    assert hopeless.json()["adaptive"]["reason"] == "late"
    assert hopeless.json()["because"] == "smallest, for a deadline of 0.001 ms: none is expected within it"


@pytest.mark.parametrize("bounds", [{"min_acc": 0.5}, {"max_params": 3000}, {"min_acc": 0.3, "max_macs": 60_000}])
def test_no_answer_leaves_the_budget(client: httpx.Client, digit_files: list[bytes], bounds: dict[str, Any]) -> None:
    eligible = client.get("/models", params={**bounds, "limit": 200}).json()["items"]
    best = max(eligible, key=lambda view: (view["accuracy"], -view["macs"]))
    cheapest = min(eligible, key=lambda view: (view["macs"], -view["accuracy"]))
    assert ask(client, digit_files[:1], **LAX, **bounds).json()["model"] == model_of(best)
    late = ask(client, digit_files[:1], policy="adaptive", deadline_ms=0.001, **bounds).json()
    assert late["model"] == model_of(cheapest)


def test_the_body_may_say_so_in_a_form_and_in_json(client: httpx.Client, digit_files: list[bytes]) -> None:
    wanted = ask(client, digit_files[:2], **LAX, min_acc=0.5).json()
    files = [("file", (f"{i}.png", data)) for i, data in enumerate(digit_files[:2])]
    form = client.post("/predict", data={**LAX, "min_acc": 0.5}, files=files)
    encoded = [base64.b64encode(data).decode() for data in digit_files[:2]]
    as_json = client.post("/predict", json={"inputs": encoded, "parameters": {**LAX, "min_acc": 0.5}})
    mixed = client.post("/predict?policy=adaptive", json={"inputs": encoded, "parameters": {"deadline_ms": 20_000}})
    for response in (form, as_json, mixed):
        assert response.status_code == 200, response.text
        assert response.json()["model"] == wanted["model"]
        assert response.json()["predictions"] == wanted["predictions"]
        assert response.json()["adaptive"]["reason"] == "best"
    other = client.post("/predict", json={"inputs": encoded, "parameters": {"max_params": 10}})
    assert other.status_code == 404


@pytest.mark.parametrize(
    ("params", "detail"),
    [
        ({"deadline_ms": 20}, "deadline_ms is for policy=adaptive, the policy is single: give both or neither"),
        ({"deadline_ms": 20, "policy": "cascade"}, "the policy is cascade"),
        ({"policy": "adaptive"}, "policy=adaptive takes deadline_ms, in how many milliseconds to answer"),
        ({"policy": "adaptive", "deadline_ms": 0}, "deadline_ms: Input should be greater than 0"),
        ({"policy": "adaptive", "deadline_ms": 60_001}, "deadline_ms: Input should be less than or equal to 60000"),
        ({"policy": "adaptive", "deadline_ms": "soon"}, "deadline_ms: Input should be a valid number"),
        ({"policy": "adaptive", "deadline_ms": "nan"}, "deadline_ms: Input should be"),
        ({**LAX, "model": "best"}, "policy=adaptive chooses, and model names one checkpoint: give one of them"),
        ({**LAX, "prefer": "macs"}, "leave prefer out"),
        ({**LAX, "dataset": "*"}, "policy=adaptive answers with the classes of one data set"),
        ({**LAX, "min_acc": 80}, "accuracy is a fraction: 0.8, not 80"),
    ],
)
def test_what_does_not_go_together_is_said(
    client: httpx.Client, digit_files: list[bytes], params: dict[str, Any], detail: str
) -> None:
    files = {"file": ("0.png", digit_files[0])}
    for response in (
        client.post("/predict", params=params, files=files),
        client.post("/predict", data=params, files=files),
    ):
        assert response.status_code == 422
        assert response.headers["content-type"] == "application/problem+json"
        assert detail in response.json()["detail"]


def test_nothing_that_is_good_enough_is_404(client: httpx.Client, digit_files: list[bytes]) -> None:
    response = ask(client, digit_files[:1], **LAX, min_acc=1)
    assert response.status_code == 404
    assert response.json()["best_available"] is not None


def test_a_bad_image_is_named(client: httpx.Client, digit_files: list[bytes]) -> None:
    response = ask(client, [digit_files[0], b"no image"], **LAX)
    assert response.status_code == 400
    assert "image 2 of 2" in response.json()["detail"]


def test_answers_are_counted_by_size_and_reason(
    client_of: Callable[..., httpx.Client], zoo_root: Path, digit_files: list[bytes]
) -> None:
    client = client_of(zoo_root)
    levels = front(client)
    asked = ({"policy": "adaptive", "deadline_ms": deadline_ms} for deadline_ms in (20_000, 20_000, 0.001))
    answers = [ask(client, digit_files[:1], **one).json() for one in asked]
    lines = client.get("/metrics").text.splitlines()
    counts = dict(line.rsplit(" ", 1) for line in lines if line.startswith("zoo_adaptive"))
    assert counts[f'zoo_adaptive_answers_total{{params="{levels[-1]["params"]}",reason="best"}}'] == "2.0"
    assert counts[f'zoo_adaptive_answers_total{{params="{levels[0]["params"]}",reason="late"}}'] == "1.0"
    assert counts["zoo_adaptive_late_total"] == "1.0"
    stages = dict(line.rsplit(" ", 1) for line in lines if line.startswith("zoo_predict_stage_seconds"))
    told = sum(answer["timing_ms"]["decode"] for answer in answers) / 1000
    assert float(stages['zoo_predict_stage_seconds_sum{stage="decode"}']) == pytest.approx(told) and told > 0


def test_pressure_leads_down_and_a_quiet_second_up_again(
    serve: Callable[..., ServerProcess], put: Callable[..., str], tmp_path: Path
) -> None:
    """Sixty at a time, of which the large network could answer a few in time."""
    architecture = partial(secnn.start, input_shape=(3, 64, 64), num_classes=5)
    put(tmp_path, architecture(channels=4), accuracy=0.8)
    large = put(tmp_path, architecture(channels=48), accuracy=0.9)
    image = png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    with httpx.Client(base_url=serve("--zoo", tmp_path).url, timeout=60) as client:
        forward_ms = min(ask(client, [image], model=large).json()["timing_ms"]["forward"] for _ in range(5))
        deadline: dict[str, Any] = {
            "dataset": "shapes",
            "policy": "adaptive",
            "deadline_ms": min(20 * forward_ms, 60_000),
        }

        def is_large() -> bool:
            time.sleep(1.1)
            return ask(client, [image], **deadline).json()["model"]["id"] == large

        eventually(is_large)

        async def flood() -> tuple[list[dict[str, Any]], dict[str, Any]]:
            """All answers, and that of one who comes when the first was answered by the small network."""
            async with httpx.AsyncClient(base_url=client.base_url, timeout=60) as many:

                async def one() -> dict[str, Any]:
                    return (await many.post("/predict", params=deadline, files={"file": image})).json()

                asked, answers, after = [asyncio.create_task(one()) for _ in range(60)], [], None
                for each in asyncio.as_completed(asked):
                    answers.append(await each)
                    if after is None and answers[-1]["model"]["id"] != large:
                        after = asyncio.create_task(one())
                assert after is not None
                return answers, await after

        answers, after = asyncio.run(flood())
        reasons = {answer["adaptive"]["reason"] for answer in answers}
        assert "best" in reasons, "at first nothing waited"
        assert reasons & {"pressure", "late"}
        assert after["model"]["id"] != large
        assert after["adaptive"]["reason"] in ("held", "pressure", "late")
        eventually(is_large)


def test_programs_and_the_command_line_ask_near_and_far(
    client: httpx.Client, zoo_root: Path, digit_files: list[bytes], tmp_path: Path, command: Callable[..., Any]
) -> None:
    by_most_accurate = ask(client, digit_files[:3], prefer="accuracy").json()
    most_accurate = by_most_accurate["model"]
    wanted = [row[0]["label"] for row in by_most_accurate["predictions"]]
    smallest = [row[0]["label"] for row in ask(client, digit_files, model=front(client)[0]["id"]).json()["predictions"]]
    with LocalZoo([zoo_root]) as local, ZooClient(str(client.base_url)) as remote:
        local.sync()
        for zoo in (local, remote):
            found = zoo.predict(digit_files[:3], policy="adaptive", deadline_ms=20_000)
            assert [row[0].label for row in found] == wanted
            found = zoo.predict(digit_files, policy="adaptive", deadline_ms=0.001)
            assert [row[0].label for row in found] == smallest
            with pytest.raises((ZooError, RemoteError), match="deadline_ms is for policy=adaptive"):
                zoo.predict(digit_files[0], deadline_ms=5)
            with pytest.raises((ZooError, RemoteError), match="model names one checkpoint"):
                zoo.predict(digit_files[0], "best", policy="adaptive", deadline_ms=5)
    image = tmp_path / "digit.png"
    image.write_bytes(digit_files[0])
    for where in (("--zoo", zoo_root), ("--url", client.base_url)):
        words = ("zoo", "predict", image, "--top-k", 1, "--policy", "adaptive", *where)
        done = command(*words, "--deadline-ms", 20_000, "--min-acc", 0.5, "--json")
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert (answer["policy"], answer["deadline_ms"]) == ("adaptive", 20_000)
        assert answer["predictions"][0][0]["label"] == wanted[0]
        [who] = answer["answered_by"]
        because = "for a deadline of 20000 ms: no eligible one is more accurate"
        assert (who["id"], who["because"]) == (
            most_accurate["id"],
            f"most accurate with accuracy of at least 0.5, {because}",
        )
        plain = command(*words, "--deadline-ms", 20_000)
        assert plain.stderr == (
            f"{who['name']}: {who['params']:,} parameters, accuracy {who['accuracy']:.4f}\n"
            f"chosen: most accurate, {because}\n"
        )
    refused = command("zoo", "predict", image, "--policy", "adaptive", "--zoo", zoo_root)
    assert refused.returncode == 1
    assert refused.stderr.startswith("zoo: policy=adaptive takes deadline_ms")
