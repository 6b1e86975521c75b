from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from zoo.catalog.rows import SCHEMA_VERSION

TOKEN = "a-token-of-some-length"


def test_every_answer_has_a_request_id(client: httpx.Client) -> None:
    for path in ("/models", "/models?min_acc=80", "/nowhere", "/livez", "/models/best/file"):
        assert client.get(path).headers["x-request-id"]
    first, second = (client.get("/models").headers["x-request-id"] for _ in range(2))
    assert first != second


def test_the_clients_own_request_id_is_kept_if_it_is_one(client: httpx.Client) -> None:
    assert client.get("/models", headers={"X-Request-Id": "my-id.1"}).headers["x-request-id"] == "my-id.1"
    assert client.get("/models", headers={"X-Request-Id": "bad id\tx"}).headers["x-request-id"] != "bad id\tx"


def test_a_failure_of_the_server_is_a_problem_too(client_of: Callable[..., httpx.Client], tmp_path: Path) -> None:
    client = client_of(tmp_path, rescan_seconds=0)  # the next look would mend it
    with sqlite3.connect(tmp_path / "catalog.sqlite") as catalog:
        catalog.execute(f"DROP TABLE checkpoint_{SCHEMA_VERSION}")
    response = client.get("/models")
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"] in response.json()["detail"]


def test_with_a_token_only_probes_go_without(client_of: Callable[..., httpx.Client], zoo_root: Path) -> None:
    client = client_of(zoo_root, token=TOKEN)
    for path in ("/livez", "/readyz", "/metrics"):
        assert client.get(path).status_code in (200, 503)
    for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": f"Basic {TOKEN}"}):
        response = client.get("/models", headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert "Authorization: Bearer" in response.json()["detail"]
    assert client.get("/models", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize(("path", "status"), [("/nowhere", 404), ("/predict", 405)])
def test_the_frameworks_own_refusals_are_problems(client: httpx.Client, path: str, status: int) -> None:
    response = client.get(path)
    assert response.status_code == response.json()["status"] == status
    assert response.headers["content-type"] == "application/problem+json"
    assert path in response.json()["detail"]
