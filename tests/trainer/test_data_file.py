from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.data.datasets import Data, Split, load
from trainer.journal import data_file


def noise(num_classes: int, side: int, each: int, channels: int = 3) -> Data:
    """As many of each class in each split."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(num_classes * each) % num_classes
    images = torch.randint(0, 256, (len(labels), channels, side, side), dtype=torch.uint8, generator=random)
    split = Split(images, labels)
    classes = tuple(f"class {index} {'长' * 60}" for index in range(num_classes))
    known = load("digits", limit_train=100)
    return Data("noise", classes, known.preprocessing, split, split, split, known.validation_indices)


def written(directory: Path, data: Data) -> tuple[dict[str, Any], Image.Image]:
    data_file.write(directory, data)
    content = json.loads((directory / data_file.NAME).read_bytes())
    return content, Image.open(io.BytesIO(base64.b64decode(content["sheet"]["webp"])))


@pytest.mark.parametrize(("num_classes", "side", "each"), [(2, 8, 1), (10, 32, 20), (100, 32, 9), (1500, 16, 1)])
def test_it_is_small_whatever_the_images_are(tmp_path: Path, num_classes: int, side: int, each: int) -> None:
    """Noise takes the most bytes there are."""
    content, image = written(tmp_path, noise(num_classes, side, each))
    sheet = content["sheet"]
    assert len(base64.b64decode(sheet["webp"])) <= 128 * 1024
    assert (tmp_path / "data.json").stat().st_size < 2**19
    assert image.size == (sheet["columns"] * sheet["width"], sheet["rows"] * sheet["height"])
    assert sheet["rows"] == min(num_classes, 100)
    assert len(content["classes"]) == min(num_classes, 1000)
    assert content["num_classes"] == num_classes


def test_images_are_of_their_class_and_the_rest_of_a_row_is_empty(tmp_path: Path) -> None:
    labels = torch.tensor([0, 0, 0, 1])
    images = torch.stack([torch.full((1, 4, 6), value, dtype=torch.uint8) for value in (40, 50, 60, 200)])
    split = Split(images, labels)
    known = load("digits", limit_train=100)
    data = Data("bars", ("dark", "bright"), known.preprocessing, split, split, split, known.validation_indices)
    content, image = written(tmp_path, data)
    assert content["classes"][0] == {"name": "dark", "train": 3, "validation": 3, "test": 3}
    pixels = np.asarray(image.convert("L"))
    assert pixels[:4, ::6].tolist() == [[40, 50, 60]] * 4
    assert pixels[4:, ::6].tolist() == [[200, 0, 0]] * 4


def test_large_photos_are_made_smaller(tmp_path: Path) -> None:
    content, _ = written(tmp_path, noise(3, 200, 2))
    assert (content["sheet"]["height"], content["sheet"]["width"]) == (64, 64)
    assert content["image"] == {"channels": 3, "height": 200, "width": 200}


def test_names_of_files_that_are_no_utf8_are_told_as_far_as_they_can_be(tmp_path: Path) -> None:
    data = noise(2, 4, 1)
    odd = Data(**{**vars(data), "findings": ("cannot be read: a\udce4.png",)})
    assert written(tmp_path, odd)[0]["findings"] == ["cannot be read: a?.png"]
