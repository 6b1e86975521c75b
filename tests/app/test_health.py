from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families


def wait_until_ready(client: httpx.Client) -> None:
    deadline = time.monotonic() + 10
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < deadline, client.get("/readyz").text
        time.sleep(0.01)


def samples(client: httpx.Client, name: str) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        tuple(sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


def test_alive_at_once_and_ready_soon(client_of: Callable[..., httpx.Client], zoo_root: Path) -> None:
    client = client_of(zoo_root)
    assert client.get("/livez").json() == {"status": "alive"}
    wait_until_ready(client)
    assert client.get("/readyz").json() == {"status": "ready"}


def test_an_empty_zoo_is_not_ready(client_of: Callable[..., httpx.Client], tmp_path: Path) -> None:
    response = client_of(tmp_path).get("/readyz")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert "no checkpoint yet" in response.json()["detail"]


def test_not_ready_says_what_there_is(client_of: Callable[..., httpx.Client], zoo_root: Path) -> None:
    response = client_of(zoo_root, default_dataset="mnist").get("/readyz")
    assert response.status_code == 503
    assert response.json()["detail"] == "the zoo holds no checkpoint of data set mnist: there is digits"


def test_metrics_count_what_happened(
    client_of: Callable[..., httpx.Client], zoo_root: Path, digit_files: list[bytes]
) -> None:
    client = client_of(zoo_root)
    files = [("file", ("a.png", data)) for data in digit_files[:3]]
    answer = client.post("/predict", files=files).json()
    client.get("/models/none")
    assert samples(client, "zoo_predicted_images_total") == {(answer["model"]["id"][:12],): 3}
    requests = samples(client, "zoo_requests_total")
    assert requests["POST", "/predict", "200"] == 1
    assert requests["GET", "/models/{reference}", "404"] == 1
    assert samples(client, "zoo_checkpoints") == {(): 5}
    assert samples(client, "zoo_predictions_waiting") == {(): 0}


def test_one_worker_s_metrics_are_those_of_several(client: httpx.Client) -> None:
    """Which have no times of creation."""
    client.get("/models")
    assert "_created" not in client.get("/metrics").text
