from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from typer.testing import CliRunner

from trainer.commands.main import app
from trainer.data import datasets as data
from trainer.data.datasets import Data, Split
from zoo.checkpoint.descriptor import Dataset
from zoo.errors import DataError
from zoo.images.check import check

WriteImages = Callable[..., Path]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pack(directory: Path, archive: Path) -> Path:
    """Last file first, which is an order like any other in an archive."""
    with tarfile.open(archive, "w:gz") as tar:
        for file in sorted(directory.rglob("*"), reverse=True):
            if file.is_file():
                tar.add(file, arcname=f"some/prefix/{file.relative_to(directory)}")
    return archive


def assert_same(found: Data, expected: Data) -> None:
    assert (found.name, found.classes, found.preprocessing) == (expected.name, expected.classes, expected.preprocessing)
    for one, other in [
        (found.train, expected.train),
        (found.validation, expected.validation),
        (found.test, expected.test),
    ]:
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    assert found.checksum() == expected.checksum()


def rows(split: Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images}


# --- directories and archives ---------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "channels", "color"), [("L", 1, "gray"), ("RGB", 3, "rgb")])
def test_a_directory_and_its_archive_are_the_same_data(
    tmp_path: Path, write_images: WriteImages, mode: str, channels: int, color: str
) -> None:
    # "a-b" sorts before "a/…" as text, after it as a path.
    root = write_images(tmp_path / "bars", {"train": 12, "test": 4}, classes=("a", "a-b", "c"), size=(9, 12), mode=mode)
    found = data.load(str(root))
    assert found.name == "bars"
    assert found.classes == ("a", "a-b", "c")
    assert found.image_shape == (channels, 9, 12)
    assert found.preprocessing.color == color
    assert found.record() == Dataset(name="bars", num_train=32, num_validation=4, num_test=12, content=found.content)
    assert_same(data.load(str(pack(root, tmp_path / "bars.tar.gz"))), found)


def test_pixels_and_labels_are_those_of_the_files(tmp_path: Path, write_images: WriteImages) -> None:
    root = write_images(tmp_path / "bars", {"train": 10, "test": 3}, size=(8, 10), mode="RGB")
    found = data.load(str(root))
    expected = {
        (np.asarray(Image.open(file)).transpose(2, 0, 1).tobytes(), file.parent.name)
        for file in root.glob("test/*/*.png")
    }
    labels = [found.classes[label] for label in found.test.labels]
    assert {
        (image.numpy().tobytes(), label) for image, label in zip(found.test.images, labels, strict=True)
    } == expected


def test_preprocessing_is_that_of_the_training_images(tmp_path: Path, write_images: WriteImages) -> None:
    root = write_images(tmp_path / "bars", {"train": 20, "test": 3}, mode="RGB")
    found = data.load(str(root))
    pixels = found.train.images.double() / 255
    assert found.preprocessing.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert found.preprocessing.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=1e-6)


def test_one_gray_image_among_coloured_ones_is_read_as_colour(tmp_path: Path, write_images: WriteImages) -> None:
    root = write_images(tmp_path / "bars", {"train": 5, "test": 2}, mode="RGB")
    Image.new("L", (8, 8), 77).save(root / "test" / "left" / "0000.png")
    found = data.load(str(root))
    assert found.image_shape == (3, 8, 8)
    assert (found.test.images == 77).flatten(1).all(1).sum() == 1


def test_a_channel_without_content_is_no_obstacle(tmp_path: Path, write_images: WriteImages) -> None:
    root = write_images(tmp_path / "bars", {"train": 5, "test": 2}, mode="RGB")
    for file in root.rglob("*.png"):
        pixels = np.asarray(Image.open(file)).copy()
        pixels[:, :, 2] = 0
        Image.fromarray(pixels).save(file)
    found = data.load(str(root))
    assert found.preprocessing.mean[2] == 0
    assert found.preprocessing.std[2] == 1


def test_mixed_sizes_become_squares_of_the_median_side(tmp_path: Path, write_images: WriteImages) -> None:
    root = write_images(tmp_path / "bars", {"train": 4, "test": 2}, classes=("a", "b"), size=(20, 30))
    for label in ("c", "d", "e"):
        write_images(tmp_path / label, {"train": 4, "test": 2}, classes=(label,), size=(14, 12))
        for split in ("train", "test"):
            (tmp_path / label / split / label).rename(root / split / label)
    assert data.load(str(root)).image_shape == (1, 12, 12)


def test_large_mixed_sizes_are_limited(tmp_path: Path, write_images: WriteImages) -> None:
    root = write_images(tmp_path / "bars", {"train": 4, "test": 2}, classes=("a", "b"), size=(130, 120))
    Image.effect_noise((200, 150), 50).save(root / "train" / "a" / "0000.png")
    assert data.load(str(root)).image_shape == (1, 96, 96)


def test_photos_of_one_phone_are_limited_too(tmp_path: Path, write_images: WriteImages) -> None:
    root = write_images(tmp_path / "bars", {"train": 2, "test": 1}, size=(120, 160))
    found = data.load(str(root))
    assert found.image_shape == (1, 96, 96)
    assert found.about[1] == (
        "images of 160×120 are resized to 96×96, the middle of each cut out (--image-size: to another size)"
    )
    assert data.load(str(root), image_size=120).image_shape == (1, 120, 120)
    [few] = found.findings
    assert few.startswith("only 1 validation image, ")


def test_what_is_resized_is_said(tmp_path: Path, write_images: WriteImages) -> None:
    root = write_images(tmp_path / "bars", {"train": 4, "test": 2}, size=(20, 30))
    Image.effect_noise((12, 50), 50).save(root / "train" / "left" / "0000.png")
    found = data.load(str(root), fit="squeeze")
    assert found.about == (
        "12 training and 6 test images of 3 classes, 6 of each",
        "images of 2 sizes, 30×20 to 12×50, are resized to 20×20, squeezed (--image-size: to another size)",
    )
    assert found.preprocessing.fit is None
    assert data.load(str(root)).preprocessing.fit == "crop"


def test_a_photo_of_24_megapixels_is_an_image_like_any_other(tmp_path: Path, write_images: WriteImages) -> None:
    root = write_images(tmp_path / "bars", {"train": 2, "test": 1}, mode="RGB")
    Image.new("RGB", (5712, 4284), "red").save(root / "train" / "left" / "0000.jpg")
    found = data.load(str(root))
    pictures = torch.cat([found.train.images, found.validation.images]).flatten(2).float().mean(2)
    assert ((pictures - torch.tensor([254.0, 0.0, 0.0])).abs() < 2).all(1).sum() == 1


def test_formats_that_only_ones_own_files_are_read_in(tmp_path: Path, write_images: WriteImages) -> None:
    root = write_images(tmp_path / "bars", {"train": 5, "test": 2}, mode="RGB")
    expected = data.load(str(root))
    for number, file in enumerate(sorted(root.rglob("*.png"))):
        file.rename(file.with_suffix((".PNG", ".bmp", ".TIF", ".png")[number % 4]))
        if number % 4 in (1, 2):
            Image.open(file.with_suffix((".bmp", ".TIF")[number % 4 - 1])).save(
                file.with_suffix((".bmp", ".TIF")[number % 4 - 1])
            )
    assert_same(data.load(str(root)), expected)


def test_every_bad_file_is_named_and_can_be_left_out(tmp_path: Path, write_images: WriteImages) -> None:
    root = write_images(tmp_path / "bars", {"train": 20, "test": 8}, classes=("a", "b"))
    bad = [
        root / split / "a" / f"{number:04}.png"
        for split, count in (("train", 15), ("test", 7))
        for number in range(count)
    ]
    whole = bad[0].read_bytes()
    for number, file in enumerate(bad):
        file.write_bytes((b"", whole[:-30], b"<html></html>", whole[:40])[number % 4])
    for source in (root, pack(root, tmp_path / "bars.tar.gz")):
        for _ in range(2):
            with pytest.raises(DataError, match=r"22 files cannot be read: train/a/0000\.png: 0 bytes") as error:
                data.load(str(source))
            assert str(error.value).count(".png:") == 20
            assert str(error.value).endswith("; and 2 more (--skip-bad goes on without them)")
            assert "a web page" in str(error.value)
            found = data.load(str(source), skip_bad=True)
            assert len(found.train) + len(found.validation) == 25
            assert Counter(found.test.labels.tolist()) == {0: 1, 1: 8}
            assert found.findings[-1].startswith("left out, as they cannot be read: 22 files: train/a/0000.png")


def test_a_picture_that_is_saved_again_is_the_same_picture(tmp_path: Path, write_images: WriteImages) -> None:
    root = write_images(tmp_path / "bars", {"train": 8, "test": 4}, mode="RGB")
    for number in range(3):
        with Image.open(root / "train" / "left" / f"{number:04}.png") as image:
            image.save(root / "test" / "left" / f"again-{number}.bmp")
    with Image.open(root / "train" / "left" / "0007.png") as image:
        image.save(root / "train" / "right" / "also.png", dpi=(72, 72))
    for source in (root, pack(root, tmp_path / "bars.tar.gz")):
        assert data.load(str(source)).findings[1:] == (
            "3 of 15 test images are training images too (test/left/again-0.bmp is train/left/0000.png): "
            "the test accuracy is too good to be true",
            "1 of the images are in two classes or more (train/left/0007.png is train/right/also.png)",
        )


def test_with_its_last_file_a_class_would_be_lost(tmp_path: Path, write_images: WriteImages) -> None:
    root = write_images(tmp_path / "bars", {"train": 5, "test": 2})
    for file in root.glob("train/left/*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match="without the files that cannot be read nothing is left of left"):
        data.load(str(root), skip_bad=True)
    for file in root.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match="21 files cannot be read"):
        data.load(str(root))


def test_a_class_that_the_split_leaves_nothing_to_learn_of_is_an_error(
    tmp_path: Path, write_images: WriteImages
) -> None:
    classes = tuple(f"c{number:02}" for number in range(20))
    root = write_images(tmp_path / "bars", {"train": 1, "test": 1}, classes=classes)
    with pytest.raises(DataError, match=r"no training image is left of 2 of 20 classes \(c\d\d, c\d\d\) once"):
        data.load(str(root))


def test_classes_that_are_one_group_of_near_duplicates_each_leave_no_test_image(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for label in ("left", "right"):
        folder = tmp_path / "bursts" / label
        folder.mkdir(parents=True)
        pixels = random.integers(0, 255, (8, 8, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
        for number in range(8):
            pixels[number, 0] ^= 1
            Image.fromarray(pixels).save(folder / f"{number}.png")
    with pytest.raises(DataError, match=r"bursts leaves no test image, .* each class is a single group of them"):
        data.load(str(tmp_path / "bursts"))


def test_validation_images_of_its_own(tmp_path: Path, write_images: WriteImages) -> None:
    """Beside test/ they validate, in its place they are what is tested on, as in ImageNet's layout."""
    root = write_images(tmp_path / "bars", {"train": 12, "valid": 5, "test": 4})
    found = data.load(str(root))
    assert [len(split) for split in (found.train, found.validation, found.test)] == [36, 15, 12]
    assert found.about[0].startswith("36 training, 15 validation and 12 test images of 3 classes, 21 of each")
    assert found.content.split == hashlib.sha256(b"").hexdigest()
    files = {np.asarray(Image.open(file)).tobytes() for file in root.glob("valid/*/*.png")}
    assert rows(found.validation) == files
    assert_same(data.load(str(pack(root, tmp_path / "bars.tar.gz"))), found)
    assert_same(data.load(str(tmp_path / "bars.tar.gz")), found)
    shutil.rmtree(root / "test")
    found = data.load(str(root))
    assert [len(split) for split in (found.train, found.validation, found.test)] == [32, 4, 15]
    assert rows(found.test) == files
    assert found.about[0].endswith("there is no test/, so its validation images are the test images")


def test_folders_of_classes_alone(tmp_path: Path, write_images: WriteImages) -> None:
    root = write_images(tmp_path / "bars", {"all": 40})
    found = data.load(str(root), test_share=0.25)
    assert (found.name, found.classes) == ("bars", ("left", "middle", "right"))
    assert Counter(found.test.labels.tolist()) == {0: 10, 1: 10, 2: 10}
    assert [len(found.train), len(found.validation)] == [81, 9]
    assert "25 % of each class are set aside as test images" in found.about[0]
    (root / "all" / "left").rename(root / "all" / "a")
    assert rows(data.load(str(root), test_share=0.25).test) == rows(found.test)
    assert_same(data.load(str(root / "all"), test_share=0.25, name="bars"), data.load(str(root), test_share=0.25))
    with pytest.raises(DataError, match=r"test-share is a fraction between 0 and 1, not 20.0"):
        data.load(str(root), test_share=20.0)
    split = write_images(tmp_path / "split", {"train": 5, "test": 2})
    with pytest.raises(DataError, match="has test images of its own; test-share is for a folder without"):
        data.load(str(split), test_share=0.2)


def test_image_size_resizes(tmp_path: Path, write_images: WriteImages) -> None:
    root = write_images(tmp_path / "bars", {"train": 5, "test": 2}, size=(20, 30))
    found = data.load(str(root), image_size=16)
    assert found.image_shape == (1, 16, 16)
    assert found.test.images.shape == (6, 1, 16, 16)


# --- splits ---------------------------------------------------------------------------------------------


def uneven(tmp_path: Path, write_images: WriteImages) -> str:
    root = write_images(tmp_path / "bars", {"train": 20, "test": 2}, classes=("a", "b"))
    write_images(tmp_path / "more", {"train": 60, "test": 2}, classes=("c",), seed=1)
    for split in ("train", "test"):
        (tmp_path / "more" / split / "c").rename(root / split / "c")
    return str(root)


def test_validation_is_a_fair_share_of_each_class(tmp_path: Path, write_images: WriteImages) -> None:
    found = data.load(uneven(tmp_path, write_images))
    assert Counter(found.validation.labels.tolist()) == {0: 2, 1: 2, 2: 6}
    assert Counter(found.train.labels.tolist()) == {0: 18, 1: 18, 2: 54}


def test_validation_and_training_images_are_disjoint_and_complete(tmp_path: Path, write_images: WriteImages) -> None:
    source = uneven(tmp_path, write_images)
    found = data.load(source)
    files = Path(source).glob("train/*/*.png")
    assert not rows(found.train) & rows(found.validation)
    assert rows(found.train) | rows(found.validation) == {np.asarray(Image.open(file)).tobytes() for file in files}


def test_the_split_is_the_same_every_time(tmp_path: Path, write_images: WriteImages) -> None:
    source = uneven(tmp_path, write_images)
    first = data.load(source)
    torch.manual_seed(99)
    np.random.seed(99)
    assert_same(data.load(source), first)


@pytest.mark.parametrize("limit", [10, 31, 60, 100, 1000])
def test_limit_train_takes_equally_of_each_class(tmp_path: Path, write_images: WriteImages, limit: int) -> None:
    found = data.load(uneven(tmp_path, write_images), limit_train=limit)
    kept = Counter(torch.cat([found.train.labels, found.validation.labels]).tolist())
    assert kept.total() == min(limit, 100)
    share = min(1, limit / 100)
    assert all(abs(kept[label] - share * total) <= 1 for label, total in [(0, 20), (1, 20), (2, 60)])
    assert len(found.test) == 6


# --- what cannot be used --------------------------------------------------------------------------------


def test_an_archive_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "bars.tar.gz").write_text("words")
    with pytest.raises(DataError, match=r"bars\.tar\.gz is neither a directory nor a readable \.tar\.gz or \.zip: ."):
        data.load(str(tmp_path / "bars.tar.gz"))


def test_a_missing_path_names_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such directory or archive, and no data set .*digits, cifar10"):
        data.load(str(tmp_path / "nowhere"))


def test_without_a_test_folder_some_training_images_are_set_aside(tmp_path: Path, write_images: WriteImages) -> None:
    found = data.load(str(write_images(tmp_path / "bars", {"train": 10})))
    assert [len(split) for split in (found.train, found.validation, found.test)] == [22, 2, 6]


def test_two_classes_are_needed(tmp_path: Path, write_images: WriteImages) -> None:
    root = write_images(tmp_path / "bars", {"train": 5, "test": 2}, classes=("only",))
    with pytest.raises(DataError, match=r"two classes or more and the same .*found classes \['only'\]"):
        data.load(str(root))


def test_an_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"should hold .*found classes \[\]"):
        data.load(str(tmp_path))


def test_classes_of_the_test_split_must_be_known(tmp_path: Path, write_images: WriteImages) -> None:
    root = write_images(tmp_path / "bars", {"train": 5, "test": 2})
    (root / "test" / "left").rename(root / "test" / "links")
    with pytest.raises(DataError, match=r"not for training \['links'\]"):
        data.load(str(root))


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_image_is_named(tmp_path: Path, write_images: WriteImages, split: str, packed: bool) -> None:
    root = write_images(tmp_path / "bars", {"train": 5, "test": 2})
    damaged = root / split / "middle" / "0001.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    source = pack(root, tmp_path / "bars.tar.gz") if packed else root
    with pytest.raises(DataError, match=rf"{split}/middle/0001\.png: the image is truncated or damaged"):
        data.load(str(source))
    damaged.write_text("no image at all")
    source = pack(root, tmp_path / "bars.tar.gz") if packed else root
    with pytest.raises(DataError, match=rf"{split}/middle/0001\.png: 15 bytes that are no PNG, JPEG, WebP"):
        data.load(str(source))


def test_images_of_one_colour_teach_nothing(tmp_path: Path, write_images: WriteImages) -> None:
    root = write_images(tmp_path / "bars", {"train": 5, "test": 2})
    for file in root.rglob("*.png"):
        Image.new("L", (8, 8), 9).save(file)
    with pytest.raises(DataError, match="all training images are of one even colour"):
        data.load(str(root))


def test_a_handful_of_images_is_too_few(tmp_path: Path, write_images: WriteImages) -> None:
    root = write_images(tmp_path / "bars", {"train": 1, "test": 1})
    with pytest.raises(DataError, match="leaves 3 training images; at least 4 are needed"):
        data.load(str(root))


def test_named_data_sets_have_their_own_size() -> None:
    with pytest.raises(DataError, match="digits has images of fixed size"):
        data.load("digits", image_size=32)


# --- named data sets ------------------------------------------------------------------------------------


def test_digits() -> None:
    found = data.load("digits")
    assert found.name == "digits"
    assert found.classes == tuple("0123456789")
    assert found.image_shape == (1, 8, 8)
    assert [len(split) for split in (found.train, found.validation, found.test)] == [1294, 144, 359]
    assert found.preprocessing.color == "gray"
    assert {found.test.images.min().item(), found.test.images.max().item()} == {0, 255}
    # As they were before there was another layout than {train,test}: what is trained keeps comparing.
    digests = [digest[:10] for digest in found.content.model_dump().values()]
    assert digests == ["847a474dbe", "e1de80fc32", "386feaabaf", "973c627919"]
    shares = Counter(found.test.labels.tolist())
    assert max(shares.values()) - min(shares.values()) <= 2


def idx(array: np.ndarray) -> bytes:
    """The format of MNIST's files: two zeros, the type (8: uint8), the rank, then big-endian sizes and the bytes."""
    return bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape) + array.tobytes()


@pytest.fixture
def fashion_mnist(tmp_path: Path) -> dict[str, np.ndarray]:
    """Files where a download would have put them, below a home directory of its own."""
    random = np.random.default_rng(0)
    arrays = {}
    raw = tmp_path / ".cache" / "checkpoint-zoo" / "datasets" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for split, count in [("train", 40), ("t10k", 20)]:
        arrays[f"{split}-images-idx3-ubyte"] = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{split}-labels-idx1-ubyte"] = (np.arange(count) % 10).astype(np.uint8)
    for name, array in arrays.items():
        (raw / name).write_bytes(idx(array))
    return arrays


def in_home(home: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Without a network: every download goes to a port at which nobody listens."""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = os.environ | proxies | {"HOME": str(home), "XDG_CACHE_HOME": "", "no_proxy": "", "NO_PROXY": ""}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)


def test_fashion_mnist_from_its_files(tmp_path: Path, fashion_mnist: dict[str, np.ndarray]) -> None:
    program = """
import numpy as np
from pathlib import Path
from trainer.data import datasets as data
found = data.load("fashion_mnist")
print(found.name, *found.classes, sep="|")
np.savez(Path.home() / "found.npz", test=found.test.images, labels=found.test.labels,
         train=np.concatenate([found.train.images, found.validation.images]))
"""
    result = in_home(tmp_path, program)
    assert result.returncode == 0, result.stderr
    assert result.stdout == (
        "fashion_mnist|T-shirt/top|Trouser|Pullover|Dress|Coat|Sandal|Shirt|Sneaker|Bag|Ankle boot\n"
    )
    found = np.load(tmp_path / "found.npz")
    assert np.array_equal(found["test"], fashion_mnist["t10k-images-idx3-ubyte"][:, None])
    assert np.array_equal(found["labels"], fashion_mnist["t10k-labels-idx1-ubyte"])
    files = fashion_mnist["train-images-idx3-ubyte"]
    assert {image.tobytes() for image in found["train"]} == {image.tobytes() for image in files}


def test_without_a_network_a_download_says_so(tmp_path: Path) -> None:
    program = """
from trainer.data import datasets as data
from zoo.errors import DataError
for name in ("cifar10", "fashion_mnist"):
    try:
        data.load(name)
    except DataError as error:
        print(error)
"""
    result = in_home(tmp_path, program)
    assert result.returncode == 0, result.stderr
    for name, line in zip(("cifar10", "fashion_mnist"), result.stdout.splitlines(), strict=True):
        assert line.startswith(f"{name} could not be downloaded to {tmp_path}/.cache/checkpoint-zoo/datasets: ")
        assert "Connection refused" in line


def test_cifar_from_its_files(tmp_path: Path) -> None:
    """Three colour planes a row, in pickled batches that torchvision checks by their MD5."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
    batch = {"data": pixels.reshape(6, -1), "labels": [0, 2, 1, 1, 0, 2]}
    checksums = {}
    for name, content in [("test_batch", batch), ("batches.meta", {"label_names": ["a", "b", "c"]})]:
        (folder / name).write_bytes(pickle.dumps(content))
        checksums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()

    class Tiny(datasets.CIFAR10):
        train_list: ClassVar = []
        test_list: ClassVar = [["test_batch", checksums["test_batch"]]]
        meta: ClassVar = {"filename": "batches.meta", "key": "label_names", "md5": checksums["batches.meta"]}

    split = data._from_torchvision(Tiny(tmp_path, train=False))
    assert np.array_equal(split.images, pixels)
    assert split.labels.tolist() == [0, 2, 1, 1, 0, 2]


def test_content_and_checksum_see_one_pixel_and_one_label(tmp_path: Path, write_images: WriteImages) -> None:
    found = data.load(str(write_images(tmp_path / "bars", {"train": 4, "test": 2})))
    images, labels = found.test.images.clone(), found.test.labels.clone()
    images[0, 0, 0, 0] ^= 1
    labels[0] = 2
    changed = [
        replace(found, test=Split(images, found.test.labels)),
        replace(found, test=Split(found.test.images, labels)),
    ]
    assert len({one.checksum() for one in (found, *changed)}) == 3
    assert len({one.content.test for one in (found, *changed)}) == 3
    assert {one.content.train for one in changed} == {found.content.train}
    assert all(one.record().is_other_than(found.record()) for one in changed)


def test_content_is_of_the_images_whatever_they_are_called(tmp_path: Path, write_images: WriteImages) -> None:
    """The same files under another name and in an archive are the same data; other images of one name are not."""
    root = write_images(tmp_path / "bars", {"train": 12, "test": 4})
    found = data.load(str(root))
    renamed = data.load(str(shutil.copytree(root, tmp_path / "stripes")))
    assert renamed.content == found.content
    other = data.load(str(write_images(tmp_path / "other" / "bars", {"train": 12, "test": 4}, seed=1)))
    assert other.name == found.name
    assert other.record().is_other_than(found.record())
    unknown = found.record().model_copy(update={"content": None})
    assert not unknown.is_other_than(found.record())
    assert not other.record().is_other_than(unknown)


def test_a_data_set_may_be_called_otherwise(tmp_path: Path, write_images: WriteImages) -> None:
    root = write_images(tmp_path / "data", {"train": 12, "test": 4})
    assert data.load(str(root), name="trees").record().name == "trees"
    with pytest.raises(DataError, match=r"a data set's name has small letters, .* not 'My Trees'"):
        data.load(str(root), name="My Trees")


def test_content_as_the_format_page_says(tmp_path: Path, write_images: WriteImages) -> None:
    """docs/descriptor-format.md, followed by hand."""
    found = data.load(str(write_images(tmp_path / "bars", {"train": 12, "test": 4}, size=(9, 12), mode="RGB")))
    hashes = []
    for image, label in zip(found.test.images.tolist(), found.test.labels.tolist(), strict=True):
        pixels = bytes(image[c][y][x] for y in range(9) for x in range(12) for c in range(3))
        hashes.append(hashlib.sha256(f"9×12×3 {found.classes[label]}\0".encode() + pixels).digest())
    assert found.content.test == hashlib.sha256(b"".join(sorted(hashes))).hexdigest()
    indices = b"".join(int(index).to_bytes(8, "little") for index in sorted(found.validation_indices))
    assert found.content.split == hashlib.sha256(indices).hexdigest()


def test_images_that_memory_cannot_hold_are_refused_before_they_are_read(
    tmp_path: Path, write_images: WriteImages
) -> None:
    path = write_images(tmp_path / "bars", {"train": 40, "test": 8})
    with pytest.raises(DataError, match=r"of 300000×300000 take .* GiB once they are decoded, .* smaller --image-size"):
        data.load(str(path), image_size=300_000)
    with pytest.raises(DataError, match="300000×300000"):
        check(path, image_size=300_000)
    done = CliRunner().invoke(app, ["check", str(path), "--image-size", "2000"])
    assert done.exit_code == 2
    assert "less than or equal to 1024" in done.output


def test_too_few_validation_images_to_tell_anything_are_told_of(tmp_path: Path, write_images: WriteImages) -> None:
    told = []
    for count in (3, 2):
        counts = {"train": 20, "validation": count, "test": 8}
        path = write_images(tmp_path / str(count), counts, classes=("left", "right"))
        told.append([finding for finding in data.load(str(path)).findings if "validation" in finding])
    assert told == [
        [],
        [
            "only 4 validation images, of which guessing the commonest class gets 50% right: what they say of a "
            "network is little better than chance; add images, or a validation/ folder"
        ],
    ]
