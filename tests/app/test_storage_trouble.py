"""A server whose directories and catalog are in trouble goes on serving, says what it cannot do, and heals."""

from __future__ import annotations

import resource
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from zoo.store.directory import Directory

TOKEN = "a-token-for-publishing"


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_directory_that_is_away_while_it_is_served(
    client_of: Callable[..., httpx.Client], zoo_root: Path, tmp_path: Path, digit_files: list[bytes]
) -> None:
    root = tmp_path / "zoo"
    shutil.copytree(zoo_root, root, ignore=shutil.ignore_patterns("catalog*"))
    client = client_of(root, rescan_seconds=0.05)
    listed = client.get("/models").json()
    smallest, largest = listed["items"][0]["id"], listed["items"][-1]["id"]
    png = {"content": digit_files[0], "headers": {"Content-Type": "image/png"}}
    answer = client.post("/predict", params={"model": smallest}, **png).json()["predictions"]
    root.rename(tmp_path / "away")
    time.sleep(0.5)
    assert client.get("/models").json() == listed
    assert client.post("/predict", params={"model": smallest}, **png).json()["predictions"] == answer
    unread = client.get(f"/models/{largest}/file")
    assert unread.status_code == 503
    assert "retry-after" in unread.headers
    assert "its directory is away" in unread.json()["detail"]
    (tmp_path / "away").rename(root)
    assert client.get(f"/models/{largest}/file").status_code == 200
    assert client.get("/models").json() == listed


@pytest.mark.parametrize("damage", ["removed", "noise", "locked"])
def test_a_catalog_in_trouble_while_it_is_served(
    client_of: Callable[..., httpx.Client],
    zoo_root: Path,
    tmp_path: Path,
    damage: str,
) -> None:
    root = tmp_path / "zoo"
    shutil.copytree(zoo_root, root, ignore=shutil.ignore_patterns("catalog*"))
    late = max(Directory(root).paths())[1]
    held_back = late.rename(tmp_path / late.name)
    client = client_of(root, rescan_seconds=0.05)
    num_checkpoints = client.get("/models").json()["count"]
    catalog = root / "catalog.sqlite"
    with closing(sqlite3.connect(catalog, isolation_level=None)) as other:
        if damage == "removed":
            for path in root.glob("catalog.sqlite*"):
                path.unlink()
        elif damage == "noise":
            with catalog.open("r+b") as file:
                file.write(b"noise" * 20_000)
        else:
            other.execute("BEGIN IMMEDIATE")
        held_back.rename(late)
        wait_for(lambda: client.get("/models").json().get("count") == num_checkpoints + 1)
        assert client.get(f"/models/{late.stem}").status_code == 200


def test_a_catalog_that_is_found_damaged_by_the_first_question(
    client_of: Callable[..., httpx.Client], zoo_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "zoo"
    shutil.copytree(zoo_root, root, ignore=shutil.ignore_patterns("catalog*"))
    first = client_of(root)
    wait_for(lambda: first.get("/readyz").status_code == 200)
    copy = tmp_path / "copy"
    shutil.copytree(zoo_root, copy, ignore=shutil.ignore_patterns("catalog*"))
    with (
        closing(sqlite3.connect(root / "catalog.sqlite")) as catalog,
        closing(sqlite3.connect(copy / "catalog.sqlite")) as other,
    ):
        catalog.backup(other)
        other.execute("PRAGMA journal_mode = DELETE")
        tables = other.execute("SELECT rootpage FROM sqlite_master WHERE type = 'table' AND name LIKE 'front%'")
        places = [(page - 1) * other.execute("PRAGMA page_size").fetchone()[0] for (page,) in tables]
    with (copy / "catalog.sqlite").open("r+b") as file:
        for place in places:
            file.seek(place)
            file.write(b"noise" * 100)
    client = client_of(copy, rescan_seconds=0.05)
    wait_for(lambda: client.get("/readyz").status_code == 200)
    assert client.get("/models").json()["items"] == first.get("/models").json()["items"]


def test_a_change_that_the_disk_has_no_room_for(
    client_of: Callable[..., httpx.Client], zoo_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "zoo"
    shutil.copytree(zoo_root, root, ignore=shutil.ignore_patterns("catalog*"))
    client = client_of(root, publish_token=TOKEN)
    client.headers["Authorization"] = f"Bearer {TOKEN}"
    before = client.get("/models/best").json()
    url = f"/models/{before['id']}"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        refused = [client.delete(url), client.patch(url, json={"aliases": ["full"]})]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [answer.status_code for answer in refused] == [507, 507]
    assert client.get("/models/best").json() == before
    assert client.delete(url).status_code == 204


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(mounted)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield mounted
    subprocess.run(["umount", "-l", mounted], check=True)


def test_on_a_disk_without_one_free_byte_checkpoints_are_deleted(
    client_of: Callable[..., httpx.Client], small_disk: Path, put: Callable[..., str], command: Callable[..., Any]
) -> None:
    """Of a zoo of which nothing was ever said, so that there is no annotations.jsonl yet."""
    digest, kept = put(small_disk, accuracy=0.7), put(small_disk, accuracy=0.8)
    client = client_of(small_disk, publish_token=TOKEN)
    client.headers["Authorization"] = f"Bearer {TOKEN}"
    wait_for((small_disk / "annotations.jsonl").exists)
    wait_for(lambda: client.get("/readyz").status_code == 200)
    with suppress(OSError), (small_disk / "fill").open("wb", buffering=0) as file:
        while file.write(b"full"):
            pass
    blob = f"/blobs/sha256:{sha256(b'bytes').hexdigest()}"
    assert client.put(blob, content=b"bytes").status_code == 507
    assert client.delete(f"/models/{digest}").status_code == 204
    assert client.get(f"/models/{digest}").status_code == 410
    assert client.get("/models").json()["count"] == 1
    collected = command("zoo", "gc", "--zoo", small_disk)
    assert collected.returncode == 0, collected.stderr
    assert [found for found, _ in Directory(small_disk).paths()] == [kept]
    assert client.put(blob, content=b"bytes").status_code == 201
