"""What is measured counts wherever the directory is served, and outlives every catalog."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from zoo.choosing.cascade import Calibration, Cascade, Stage
from zoo.errors import NotFoundError
from zoo.library.local import LocalZoo
from zoo.library.upkeep.device import device_name
from zoo.library.upkeep.garbage import garbage
from zoo.store.annotations import Annotations
from zoo.store.directories import Directories
from zoo.store.entries import Latency

Put = Callable[..., str]
Opened = Callable[..., LocalZoo]


def latency(digest: str, median_ms: float, measured_at: str = "2026-11-21T02:00:00+00:00") -> Latency:
    return Latency(
        digest=digest, device=device_name(), median_ms=median_ms, p95_ms=9, num_runs=3, measured_at=measured_at
    )


def calibration(digest: str, macs: float = 100.0) -> Calibration:
    stages = (Stage(digest=digest, threshold=None),)
    return Calibration(dataset="shapes", num_images=9, cascades=(Cascade(stages=stages, accuracy=0.5, macs=macs),))


def catalog_of(root: Path) -> Path:
    return root / "catalog.sqlite"


def test_what_is_measured_in_one_directory_counts_where_it_is_served_with_others(
    tmp_path: Path, put: Put, opened: Opened
) -> None:
    first, second = put(tmp_path / "a"), put(tmp_path / "b", seed=1)
    alone = opened(tmp_path / "b")
    alone.annotations.record_latencies([latency(second, 3.0)])
    alone.annotations.record_calibration(calibration(second))
    assert alone.sync()
    for roots in ((tmp_path / "a", tmp_path / "b"), (tmp_path / "b", tmp_path / "a")):
        both = opened(*roots)
        assert both.smallest(max_latency_ms=3).id == second
        assert both.chooser.cascade(0.5).cascade == calibration(second).cascades[0]
    both.annotations.record_latencies([latency(first, 2.0)])
    assert alone.sync() is False, "that of the other directory's checkpoint is nothing to this one"
    assert opened(tmp_path / "b", tmp_path / "a").smallest(max_latency_ms=2).id == first


def test_of_two_directories_the_later_measurement_counts(tmp_path: Path, put: Put, opened: Opened) -> None:
    digest = put(tmp_path / "a")
    put(tmp_path / "b")
    times = {"a": (5.0, "2026-11-21T02:00:00+00:00"), "b": (4.0, "2026-11-22T02:00:00+00:00")}
    for name, (median_ms, measured_at) in times.items():
        Annotations(Directories([tmp_path / name])).record_latencies([latency(digest, median_ms, measured_at)])
    for names in (("a", "b"), ("b", "a")):
        zoo = opened(*(tmp_path / name for name in names))
        assert zoo.chooser.view(zoo.chooser.find(digest)).latency_ms == 4.0


def test_a_torn_last_line_costs_that_line_only(
    tmp_path: Path, put: Put, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    """As a power cut or a full disk leaves it."""
    digest = put(tmp_path)
    Annotations(Directories([tmp_path])).record_latencies([latency(digest, 3.0)])
    path = tmp_path / "annotations.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    zoo = opened(tmp_path)
    assert zoo.chooser.view(zoo.chooser.find(digest)).latency_ms == 3.0
    assert caplog.messages == []
    zoo.annotations.record_latencies([latency(digest, 2.0)])
    zoo.annotations.record_calibration(calibration(digest))
    for _ in range(3):
        zoo.sync()
    assert zoo.chooser.view(zoo.chooser.find(digest)).latency_ms == 2.0
    assert zoo.chooser.cascade(0.5).rows[0].digest == digest
    assert caplog.messages == [f"{path}: line 2 is no annotation, and left out"]


def test_kinds_of_later_versions_are_left_alone(
    tmp_path: Path, put: Put, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    digest = put(tmp_path)
    (tmp_path / "annotations.jsonl").write_text('{"kind": "energy", "digest": "…", "joules": 3}\n')
    zoo = opened(tmp_path)
    zoo.annotations.record_latencies([latency(digest, 2.0)])
    zoo.sync()
    assert zoo.chooser.view(zoo.chooser.find(digest)).latency_ms == 2.0
    assert caplog.messages == []
    assert (tmp_path / "annotations.jsonl").read_text().startswith('{"kind": "energy"')


def test_who_only_asks_what_gc_would_delete_writes_nothing(tmp_path: Path, put: Put) -> None:
    put(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert list(garbage(Directories([tmp_path]), [tmp_path])) == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("damage", ["header", "middle"])
def test_a_damaged_catalog_loses_nothing(
    tmp_path: Path, put: Put, opened: Opened, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """Neither to who opens it nor to who has it open; and the log says what happened."""
    digests = [put(tmp_path, seed=seed, accuracy=0.5 + seed / 100) for seed in range(40)]
    zoo, other = opened(tmp_path), opened(tmp_path)
    zoo.annotations.record_latencies([latency(digests[0], 3.0)])
    zoo.annotations.record_calibration(calibration(digests[0]))
    zoo.sync()
    zoo.close()
    path = catalog_of(tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(path.read_bytes())
    for start in range(0 if damage == "header" else 4096, 16 if damage == "header" else len(data), 4096):
        data[start : start + 16] = b"x" * 16
    with path.open("r+b") as file:
        file.write(data)
    again = opened(tmp_path)
    assert again.catalog.digests() == set(digests)
    assert again.smallest(max_latency_ms=3).id == digests[0]
    assert again.chooser.cascade(0.5).rows[0].digest == digests[0]
    assert any("is damaged (" in message and "set aside as" in message for message in caplog.messages)
    other.sync()
    assert other.catalog.digests() == set(digests)
    added = put(tmp_path, seed=99)
    again.sync()
    assert added in other.catalog.digests(), "both use one file"


def test_a_new_zoo_has_no_measurements(tmp_path: Path, opened: Opened) -> None:
    zoo = opened(tmp_path)
    assert zoo.annotations.latencies(device_name()) == {}
    with pytest.raises(NotFoundError):
        zoo.chooser.cascade(0.5)
    assert not (tmp_path / "annotations.jsonl").exists()
