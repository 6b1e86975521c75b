from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from zoo.store.directory import Directory


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


def test_serving_loads_no_torch() -> None:
    code = "import app.main, app.__main__, zoo.cli, sys; print([m for m in sys.modules if m.startswith('torch')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def edited(data: bytes, old: bytes, new: bytes) -> bytes:
    """The file with other words of the same length in its header."""
    assert len(old) == len(new)
    assert old in data
    return data.replace(old, new)


def store(root: Path, data: bytes) -> str:
    return Directory(root).put(data)


def test_a_file_that_is_not_what_it_says_harms_no_other(
    client_of: Callable[..., httpx.Client], zoo_root: Path, tmp_path: Path
) -> None:
    files = [path.read_bytes() for _, path in sorted(Directory(zoo_root).paths())]
    good = store(tmp_path, files[0])
    store(tmp_path, edited(files[1], b'hidden_features\\":20', b'hidden_features\\":10'))
    store(tmp_path, edited(files[1], b'input_height\\":8', b'input_height\\":9'))
    client = client_of(tmp_path, rescan_seconds=0.05)
    items = client.get("/models").json()["items"]
    assert good in [item["id"] for item in items]
    assert all(item["params"] for item in items)
    store(tmp_path, files[2])
    wait_for_count(client, len(items) + 1)


def test_damaged_weights_are_noticed_and_another_checkpoint_answers(
    client_of: Callable[..., httpx.Client], zoo_root: Path, tmp_path: Path, digit_files: list[bytes]
) -> None:
    for _, path in Directory(zoo_root).paths():
        shutil.copy(path, tmp_path)
    client = client_of(tmp_path, rescan_seconds=0)
    smallest = client.get("/models/smallest").json()["id"]
    damaged = bytearray((tmp_path / f"{smallest}.safetensors").read_bytes())
    damaged[-10] ^= 1
    (tmp_path / f"{smallest}.safetensors").write_bytes(damaged)
    response = client.get(f"/models/{smallest}/file")
    assert response.status_code == 503
    assert "changed or damaged" in response.json()["detail"]
    assert client.get("/models").json()["count"] == 4
    answer = client.post("/predict", content=digit_files[0], headers={"Content-Type": "image/png"})
    assert answer.status_code == 200
    assert answer.json()["model"]["id"] != smallest


@pytest.mark.parametrize("content", [b"no database" * 1000, b""])
def test_while_a_damaged_catalog_is_made_again_nothing_is_said_to_be_gone(
    client_of: Callable[..., httpx.Client], zoo_root: Path, tmp_path: Path, content: bytes
) -> None:
    for _, path in Directory(zoo_root).paths():
        shutil.copy(path, tmp_path)
    client = client_of(tmp_path, rescan_seconds=0.05)
    count, statuses = client.get("/models").json()["count"], set()
    (tmp_path / "catalog.sqlite").write_bytes(content)
    end = time.monotonic() + 20
    while time.monotonic() < end and not (tmp_path / "catalog.sqlite.damaged").exists():
        statuses.add(client.get("/models", params={"max_params": 10**6 + len(statuses)}).status_code)
    for number in range(200):
        answer = client.get("/models", params={"max_params": 10**7 + number})
        statuses.add(answer.status_code)
        if answer.status_code == 200:
            break
    assert (tmp_path / "catalog.sqlite.damaged").exists()
    assert statuses <= {200, 503}
    assert client.get("/models").json()["count"] == count
