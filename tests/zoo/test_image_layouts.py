"""Folders as people have them. The files here are no images, but where some are to be set aside for the test."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.errors import DataError
from zoo.images import folder as image_folder
from zoo.images.folder import ImageFile, ImageFolder


def write(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def of(*splits: str, classes: str = "ab", number: int = 2) -> list[str]:
    return [f"{split}/{label}/{index}.png" for split in splits for label in classes for index in range(number)]


def counts(folder: ImageFolder) -> list[int]:
    return [len(folder.train), len(folder.validation), len(folder.test)]


def zipped(root: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(root.rglob("*"), reverse=True):
            file.write(path, f"prefix/{path.relative_to(root)}")
    return archive


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Three classes of 20 photos each, in class folders."""
    random = np.random.default_rng(0)
    for label in ("cat", "dog", "eel"):
        (tmp_path / "shots" / label).mkdir(parents=True)
        for number in range(20):
            pixels = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((60, 80)).save(tmp_path / "shots" / label / f"{number}.png")
    return tmp_path / "shots"


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_validation_folders_by_their_usual_names(tmp_path: Path, name: str) -> None:
    beside = write(tmp_path / "beside", of("train", name, "test"))
    assert counts(image_folder.read(beside)) == [4, 4, 4]
    instead = image_folder.read(write(tmp_path / "instead", of("Train", name)))
    assert counts(instead) == [4, 0, 4]
    assert {str(file.path.parent) for file in instead.test} == {"validation/a", "validation/b"}


def test_unlabelled_test_images_leave_the_validation_images_to_test_on(tmp_path: Path) -> None:
    """As competitions hand them out."""
    found = image_folder.read(write(tmp_path / "images", [*of("train", "val"), "test/0.png", "test/1.png"]))
    assert counts(found) == [4, 0, 4]
    assert found.findings == ("left out: 2 images in no class folder (test/0.png)",)


def test_a_zip_equals_its_directory(tmp_path: Path) -> None:
    root = write(tmp_path / "bars", [*of("train", "valid", "test"), "train/a/deep/er/9.JPG"])
    write(root, ["__MACOSX/train/a/._0.png", "train/b/.DS_Store", "README.roboflow.txt"])
    found, packed = image_folder.read(root), image_folder.read(zipped(root, tmp_path / "Bars.zip"))
    assert packed.name == "bars"
    for files, others in (
        (found.train, packed.train),
        (found.validation, packed.validation),
        (found.test, packed.test),
    ):
        assert [(file.path, file.data) for file in files] == [(file.path, file.data) for file in others]


def test_damaged_and_locked_zips_are_errors(tmp_path: Path) -> None:
    archive = zipped(write(tmp_path / "bars", of("train", "test")), tmp_path / "bars.zip")
    whole = archive.read_bytes()
    place = whole.index(b"train/b/0.png", whole.index(b"train/b/0.png") + 13)  # the content, behind its name
    archive.write_bytes(whole[:place] + b"T" + whole[place + 1 :])
    with pytest.raises(DataError, match=r"neither a directory nor a readable \.tar\.gz or \.zip: Bad CRC-32"):
        image_folder.read(archive)
    locked = bytearray(whole)
    for start in (b"PK\x03\x04", b"PK\x01\x02"):
        at = locked.find(start)
        while at >= 0:
            locked[at + (6 if start[2] == 3 else 8)] |= 1
            at = locked.find(start, at + 1)
    archive.write_bytes(locked)
    with pytest.raises(DataError, match="is encrypted"):
        image_folder.read(archive)


def test_class_folders_alone_are_split_by_content(shots: Path, tmp_path: Path) -> None:
    def pixels(files: tuple[ImageFile, ...]) -> set[bytes]:
        return {file.data for file in files}

    found = image_folder.read(shots)
    tested = pixels(found.test)
    assert found.classes == ("cat", "dog", "eel")
    assert counts(found) == [48, 0, 12]
    assert Counter(file.label for file in found.test) == {"cat": 4, "dog": 4, "eel": 4}
    assert str(found.test[0].path.parent) == "cat"
    for number, file in enumerate(sorted(shots.rglob("*.png"), reverse=True)):
        file.rename(file.with_name(f"x{number}.png"))
    (shots / "eel").rename(shots / "ant")
    again = image_folder.read(zipped(shots, tmp_path / "shots.zip"))
    assert pixels(again.test) == tested
    assert counts(image_folder.read(shots, 0.5)) == [30, 0, 30]


def test_near_duplicates_stay_on_one_side(shots: Path) -> None:
    """Half of the photos are there a second time: copied, at half their size, and as JPEG."""
    for file in sorted(shots.rglob("*.png"))[::2]:
        with Image.open(file) as image:
            copy = image.resize((30, 40)) if file.stem < "5" else image
            copy.save(file.with_name(f"{file.stem}-again.jpg"), quality=70)
    found = image_folder.read(shots)
    sides = {file.path.with_suffix(""): file.split for file in found.files}
    pairs = [(path, path.with_name(path.name.removesuffix("-again"))) for path in sides if path.name.endswith("-again")]
    assert len(pairs) == 30
    assert all(sides[copy] == sides[original] for copy, original in pairs)
    assert {label: Counter(file.label for file in found.test)[label] for label in found.classes} == dict.fromkeys(
        found.classes, 6
    )


def test_a_folder_around_the_class_folders(tmp_path: Path) -> None:
    names = [f"data/resized/{label}/x/{number}.jpg" for label in "ab" for number in range(3)]
    root = write(tmp_path / "trash", [*names, "notes.txt", "data/labels.csv"])
    with pytest.raises(DataError, match="without the files that cannot be read nothing is left of a, b"):
        folder = image_folder.read(root)
        folder.without(image_folder.BadFiles.among(folder.files))
    assert {str(file.path) for file in image_folder.read(root).files} == {
        name.removeprefix("data/resized/") for name in names
    }


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    root = write(tmp_path / "vehicles", [f"{label}/{number}.png" for label in ("car", "train") for number in range(2)])
    assert image_folder.read(root).classes == ("car", "train")


@pytest.mark.parametrize("names", [of("test"), of("val", "test"), ["train/0.png", "test/0.png"]])
def test_splits_without_training_classes_are_an_error(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(DataError, match="/ and no train/ with class folders"):
        image_folder.read(write(tmp_path / "images", names))


def test_heic_without_its_plugin_is_said_with_what_reads_it(tmp_path: Path) -> None:
    if find_spec("pillow_heif"):
        pytest.skip("its plugin is installed")
    found = image_folder.read(write(tmp_path / "phone", [*of("train", "test"), "train/a/IMG_1.HEIC"]))
    assert found.findings == ("left out: 1 .heic (train/a/IMG_1.HEIC); the package pillow-heif reads HEIC",)


def test_folders_of_other_things_beside_class_folders(shots: Path) -> None:
    write(shots, ["labels/0.xml", "labels/1.xml"])
    found = image_folder.read(shots)
    assert found.classes == ("cat", "dog", "eel")
    assert found.findings == (
        "left out: 2 .xml (labels/0.xml)",
        "left out, as their folders hold no images: labels",
    )


def test_what_is_in_no_class_folder_is_counted(shots: Path) -> None:
    (shots / "cover.jpg").write_bytes(b"")
    assert image_folder.read(shots).findings == ("left out: 1 image in no class folder (cover.jpg)",)
