from __future__ import annotations

import io
import logging
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.data import datasets as data
from trainer.data.datasets import Data
from trainer.data.decoded import Decoded, decoded_once

WriteImages = Callable[..., Path]


def pack(directory: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(directory, arcname=".")
    return archive


def assert_same(found: Data, expected: Data) -> None:
    assert (found.name, found.classes, found.preprocessing) == (expected.name, expected.classes, expected.preprocessing)
    assert found.checksum() == expected.checksum()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "checkpoint-zoo" / "decoded"


@pytest.fixture
def archive(tmp_path: Path, write_images: WriteImages) -> Path:
    return pack(write_images(tmp_path / "bars", {"train": 8, "test": 3}, mode="RGB"), tmp_path / "bars.tar.gz")


def same(one: Decoded, other: Decoded) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(Decoded)]
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


@pytest.fixture
def decoded() -> Decoded:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (5, 3, 4, 4), dtype=np.uint8)
    return Decoded(
        np.array(["a", "bé", "日本"]), images, np.arange(5), images[:1], np.arange(1), images[:2], np.arange(2)
    )


def test_an_archive_is_the_same_data_the_second_time(cache: Path, archive: Path) -> None:
    first = data.load(str(archive))
    [file] = cache.iterdir()
    assert file.suffix == ".npz"
    assert_same(data.load(str(archive)), first)


def test_the_second_time_nothing_is_decoded(cache: Path, archive: Path) -> None:
    """What the cache says is believed: here, that every image is black."""
    data.load(str(archive))
    [file] = cache.iterdir()
    with np.load(file) as arrays:
        changed = dict(arrays) | {"test_images": np.zeros_like(arrays["test_images"])}
    np.savez(file, allow_pickle=False, **changed)
    assert data.load(str(archive)).test.images.count_nonzero() == 0


def test_a_renamed_archive_has_its_new_name_and_the_old_pixels(cache: Path, archive: Path, tmp_path: Path) -> None:
    first = data.load(str(archive))
    renamed = data.load(str(archive.rename(tmp_path / "Balken.tgz")))
    assert renamed.name == "balken"
    assert torch.equal(renamed.test.images, first.test.images)
    assert len(list(cache.iterdir())) == 1


def test_another_archive_under_the_same_name_is_decoded(
    cache: Path, archive: Path, tmp_path: Path, write_images: WriteImages
) -> None:
    data.load(str(archive))
    other = write_images(tmp_path / "other", {"train": 8, "test": 3}, mode="RGB", seed=1)
    pack(other, archive)
    found = data.load(str(archive))
    assert found.checksum() == data.load(str(other)).checksum()
    assert len(list(cache.iterdir())) == 2


def test_each_size_is_kept_by_itself(cache: Path, archive: Path) -> None:
    assert data.load(str(archive)).image_shape == (3, 8, 8)
    assert data.load(str(archive), image_size=10).image_shape == (3, 10, 10)
    assert data.load(str(archive)).image_shape == (3, 8, 8)
    assert len(list(cache.iterdir())) == 2


def test_directories_are_not_kept(cache: Path, images: Path) -> None:
    data.load(str(images))
    assert not cache.exists()


def test_damage_is_noticed_and_repaired(
    cache: Path, tmp_path: Path, decoded: Decoded, caplog: pytest.LogCaptureFixture
) -> None:
    """Cut off or with flipped bits, wherever they are, it is what was decoded that comes back."""
    archive = tmp_path / "archive"
    archive.touch()
    assert same(decoded_once(archive, None, lambda: decoded), decoded)
    [file] = cache.iterdir()
    whole = file.read_bytes()
    flipped = [whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in range(0, len(whole), 9)]
    cut = [whole[:length] for length in range(0, len(whole), 99)]
    for damaged in [b"words", *cut, *flipped]:
        file.write_bytes(damaged)
        assert same(decoded_once(archive, None, lambda: decoded), decoded)
    assert same(decoded_once(archive, None, lambda: replace(decoded, classes=np.array(["z"]))), decoded)
    assert f"{file} is damaged" in caplog.text


def test_damage_does_not_stop_a_load(cache: Path, archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = data.load(str(archive))
    [file] = cache.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        assert_same(data.load(str(archive)), first)
    assert f"{file} is damaged" in caplog.text
    caplog.clear()
    assert_same(data.load(str(archive)), first)
    assert not caplog.text


def test_pickles_are_not_read(cache: Path, archive: Path, tmp_path: Path) -> None:
    first = data.load(str(archive))
    [file] = cache.iterdir()
    buffer = io.BytesIO()
    np.savez(buffer, **{field.name: np.array([{}], dtype=object) for field in fields(Decoded)})
    file.write_bytes(buffer.getvalue())
    assert_same(data.load(str(archive)), first)


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(data.load(str(archive)).test) == 9
    assert "decoded images are not kept" in caplog.text


@pytest.mark.parametrize("configured", [None, "", "relative/place"])
def test_without_a_configured_place_it_is_below_the_home(tmp_path: Path, archive: Path, configured: str | None) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home)} | ({} if configured is None else {"XDG_CACHE_HOME": configured})
    program = f"from trainer.data import datasets; datasets.load({str(archive)!r})"
    words = [sys.executable, "-c", program]
    result = subprocess.run(words, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.returncode == 0, result.stderr
    assert len(list((home / ".cache" / "checkpoint-zoo" / "decoded").glob("*.npz"))) == 1
