"""`zoo-train check`: what is wrong with a folder, before anything is trained on it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from trainer.commands.main import app

WriteImages = Callable[..., Path]


def check(*words: object) -> tuple[int, Any]:
    result = CliRunner().invoke(app, ["check", *map(str, words), "--json"])
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def photos(tmp_path: Path, write_images: WriteImages) -> Path:
    return write_images(tmp_path / "photos", {"train": 20, "valid": 4, "test": 6}, size=(40, 30), mode="RGB")


def test_a_folder_with_which_nothing_is_wrong(photos: Path) -> None:
    code, report = check(photos)
    assert (code, report["problems"], report["remarks"], report["damaged"]) == (0, [], [], [])
    assert report["counts"]["left"] == {"train": 20, "validation": 4, "test": 6}
    assert report["sizes"] == "images of 30×40 stay as they are"
    assert check(photos, "--image-size", 16)[1]["sizes"].startswith("images of 30×40 are resized to 16×16, the middle")
    shown = CliRunner().invoke(app, ["check", str(photos)])
    assert shown.exit_code == 0
    assert "nothing is wrong" in shown.stdout
    [left] = [line for line in shown.stdout.splitlines() if "left" in line]
    assert [word for word in left.split() if word.isdigit()] == ["20", "4", "6"]


def test_everything_that_is_wrong_is_said_at_once(photos: Path) -> None:
    for number in range(25):
        (photos / "train" / "left" / f"bad{number}.png").write_bytes(b"<html></html>")
    (photos / "train" / "left" / "raw.dng").write_bytes(b"")
    shutil.copy(photos / "train" / "left" / "0000.png", photos / "test" / "left" / "copy.png")
    with Image.open(photos / "train" / "middle" / "0001.png") as image:
        image.resize((90, 120)).save(photos / "test" / "middle" / "again.jpg", quality=80)
    shutil.copy(photos / "train" / "left" / "0003.png", photos / "train" / "right" / "mixed.png")
    shutil.rmtree(photos / "test" / "right")
    code, report = check(photos)
    assert code == 1
    assert len(report["damaged"]) == 25
    assert {tuple(group) for group in report["equal"]} == {
        ("train/left/0000.png", "test/left/copy.png"),
        ("train/left/0003.png", "train/right/mixed.png"),
    }
    assert report["near"] == [["train/middle/0001.png", "test/middle/again.jpg"]]
    assert report["left_out"] == [{"what": ".dng", "count": 1, "first": "train/left/raw.dng"}]
    damage, missing, leaked = report["problems"]
    assert damage.startswith("25 files cannot be read: train/left/bad0.png: 13 bytes that are no PNG")
    assert missing == "1 of 3 classes have no test image: right"
    assert leaked.startswith("2 of 14 test images are training images too (test/left/copy.png is train/left/0000.png)")
    assert any("in two classes" in remark for remark in report["remarks"])
    assert report["counts"]["left"] == {"train": 20, "validation": 4, "test": 7}


def test_classes_that_are_not_in_each_split(photos: Path) -> None:
    """All of them are counted, and whatever else is wrong is said too."""
    shutil.rmtree(photos / "train" / "right")
    (photos / "train" / "raw").mkdir()
    (photos / "train" / "raw" / "1.dng").write_bytes(b"")
    (photos / "train" / "left" / "bad.png").write_bytes(b"<html></html>")
    code, report = check(photos)
    assert code == 1
    assert report["counts"]["right"] == {"train": 0, "validation": 4, "test": 6}
    lost, classes, damage, missing = report["problems"]
    assert "no file is an image that is read here (train/raw: 1 .dng" in lost
    assert "found classes ['left', 'middle'], and not for training ['right']" in classes
    assert damage.startswith("1 file cannot be read: train/left/bad.png")
    assert missing == "1 of 3 classes have no training image: right"
    shown = CliRunner().invoke(app, ["check", str(photos)])
    assert [line for line in shown.stdout.splitlines() if "right" in line and " 6 " in line]


def test_classes_of_very_different_sizes(tmp_path: Path, write_images: WriteImages) -> None:
    root = write_images(tmp_path / "photos", {"train": 30, "test": 2}, classes=("a", "b"))
    for file in sorted((root / "train" / "b").iterdir())[5:]:
        file.unlink()
    code, report = check(root)
    assert code == 0
    assert report["counts"]["a"]["train"] + report["counts"]["a"]["validation"] == 30
    [said] = report["remarks"]
    assert said.startswith("a has ")
    assert "times as many training images as b" in said


def test_nothing_that_can_be_read(tmp_path: Path) -> None:
    code, report = check(tmp_path)
    assert code == 1
    assert "found classes []" in report["problems"][0]
    shown = CliRunner().invoke(app, ["check", str(tmp_path / "nowhere")])
    assert shown.exit_code == 1
    assert shown.stderr.count("\n") == 1


def test_output_that_cannot_be_written_is_one_line(tmp_path: Path, write_images: WriteImages) -> None:
    folder = write_images(tmp_path / "bars", {"train": 10, "test": 4})
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "trainer", "check", str(folder)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "zoo-train: [Errno 28] No space left on device\n")
