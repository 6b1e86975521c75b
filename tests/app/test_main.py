from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from zoo.storage import Directory


def wait_for_count(client: httpx.Client, count: int) -> None:
    deadline = time.monotonic() + 10
    while client.get("/models").json()["count"] != count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_files_that_come_and_go_are_followed(
    client_of: Callable[..., httpx.Client], zoo_root: Path, tmp_path: Path
) -> None:
    client = client_of(tmp_path, rescan_seconds=0.05)
    assert client.get("/models").json()["count"] == 0
    for _, path in Directory(zoo_root).paths():
        shutil.copy(path, tmp_path)
    wait_for_count(client, 5)
    smallest = client.get("/models/smallest").json()["id"]
    (tmp_path / f"{smallest}.safetensors").unlink()
    wait_for_count(client, 4)
    assert client.get(f"/models/{smallest}").status_code == 404


def test_several_directories_are_one_zoo(
    client_of: Callable[..., httpx.Client], zoo_root: Path, tmp_path: Path
) -> None:
    digest, path = min(Directory(zoo_root).paths())
    shutil.copy(path, tmp_path)
    client = client_of(tmp_path, zoo_root)
    assert client.get("/models").json()["count"] == 5
    assert client.get(f"/models/{digest}/file").content == path.read_bytes()


def test_openapi_describes_routes_with_examples(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        "/models",
        "/models/pareto",
        "/models/file",
        "/models/{reference}",
        "/models/{reference}/file",
        "/predict",
        "/livez",
        "/readyz",
        "/metrics",
    }
    parameters = {item["name"]: item["schema"] for item in paths["/models"]["get"]["parameters"]}
    assert "examples" in str(parameters["min_acc"])
    assert set(paths["/predict"]["post"]["requestBody"]["content"]) == {
        "multipart/form-data",
        "image/png",
        "image/jpeg",
        "image/webp",
        "application/json",
    }


def test_serving_loads_no_torch() -> None:
    code = "import app.main, app.__main__, zoo.cli, sys; print([m for m in sys.modules if m.startswith('torch')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
