"""Folders as people have them. The files here are no images, but where some are to be set aside for the test."""

from __future__ import annotations

import os
import shutil
import tarfile
import tracemalloc
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
from zoo.images.files import listing
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


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Testing"),
        ("training_set", "test_set"),
        ("seg_train", "seg_test"),
        ("train-images", "val-images"),
        ("trainval", "test"),
        ("pets/TrainSet", "pets/TestSet"),
    ],
)
@pytest.mark.parametrize("is_doubled", [False, True])
def test_splits_by_other_names(tmp_path: Path, train: str, test: str, is_doubled: bool) -> None:
    """As they are handed out; some have a folder of the same name inside."""
    inner = [f"{name}/{Path(name).name}" if is_doubled else name for name in (train, test)]
    found = image_folder.read(write(tmp_path / "images", of(*inner)))
    assert (found.classes, counts(found)) == (("a", "b"), [4, 0, 4])
    assert not found.findings


def test_names_like_splits_that_are_none(tmp_path: Path) -> None:
    usual = image_folder.read(write(tmp_path / "usual", of("train", "test", "extra_train")))
    assert counts(usual) == [4, 0, 4]
    assert usual.findings == ("left out: 4 images outside the folders of splits (extra_train/b/0.png)",)
    around = image_folder.read(write(tmp_path / "around", of("pets_train/train", "pets_train/test")))
    assert counts(around) == [4, 0, 4]
    with pytest.raises(
        DataError, match="fold1_train/, fold2_train/: call one of them train/, or name the folder of one"
    ):
        image_folder.read(write(tmp_path / "folds", of("fold1_train", "fold2_train", "test")))
    toys = write(tmp_path / "toys", [f"{label}/{number}.png" for label in ("car", "toy_train") for number in "01"])
    assert set(Counter(file.label for file in listing(toys).files)) == {"car", "toy_train"}


def test_classes_that_look_like_splits_are_told_of(shots: Path, tmp_path: Path) -> None:
    for fold in ("fold1", "fold2"):
        shutil.copytree(shots, tmp_path / "images" / fold)
    found = image_folder.read(tmp_path / "images")
    assert found.classes == ("fold1", "fold2")
    assert any("each class folder holds the same folders (cat, dog, eel)" in one for one in found.findings)


def test_names_in_zips_are_as_they_were_meant(tmp_path: Path) -> None:
    """macOS writes UTF-8 without its flag, PowerShell has written backslashes."""
    mac, windows = tmp_path / "mac.zip", tmp_path / "windows.zip"
    names = [
        f"{split}/{label}/{number}.png" for split in ("test", "train") for label in ("Café", "dog") for number in "01"
    ]
    with zipfile.ZipFile(mac, "w") as file:
        for name in names:
            file.writestr(name.replace("é", "__"), name)
    mac.write_bytes(mac.read_bytes().replace(b"Caf__", "Café".encode()))
    with zipfile.ZipFile(windows, "w") as file:
        for name in names:
            file.writestr(name.replace("/", "\\"), name)
    for archive in (mac, windows):
        assert sorted(str(file.path) for file in image_folder.read(archive).files) == names


def test_a_file_that_is_twice_in_a_tar_is_read_twice(tmp_path: Path) -> None:
    """The second time it is a link there."""
    root = write(tmp_path / "images", [*of("train"), "test/a/0.png"])
    (root / "test/b").mkdir()
    os.link(root / "train/b/1.png", root / "test/b/1.png")
    (root / "test/b/2.png").symlink_to("../../train/b/0.png")
    archive = tmp_path / "images.tar"
    with tarfile.open(archive, "w") as tar:
        for path in sorted(root.rglob("*.png"), reverse=True):
            tar.add(path, path.relative_to(root))
    found, packed = image_folder.read(root), image_folder.read(archive)
    assert [(file.path, file.data) for file in packed.files] == [(file.path, file.data) for file in found.files]
    assert len(packed.test) == 3


def test_a_class_of_dead_links_in_a_tar_is_told_of(tmp_path: Path) -> None:
    root = write(tmp_path / "images", of("train", "test", classes="abc"))
    (root / "train/d").mkdir()
    (root / "train/d/0.png").symlink_to("/elsewhere/0.png")
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        for path in sorted(root.rglob("*.png")):
            tar.add(path, path.relative_to(root))
    findings = image_folder.read(tmp_path / "images.tar").findings
    assert "left out: 1 link in the archive to what is no image in it (train/d/0.png)" in findings
    assert "left out, as their folders hold no images: d" in findings


def test_an_archive_that_unpacks_to_far_more_than_photos_do_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for number in range(40):
            file.writestr(f"train/a/{number}.png", bytes(8_000_000))
    tracemalloc.start()
    with pytest.raises(DataError, match="the images in it have more than 268,435,456 bytes, 100 times the archive"):
        image_folder.read(tmp_path / "bomb.zip")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 320_000_000


def test_damaged_xz_is_an_error(tmp_path: Path) -> None:
    archive = tmp_path / "images.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(write(tmp_path / "images", of("train", "test", number=30)), "images")
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 255
    archive.write_bytes(data)
    with pytest.raises(DataError, match="neither a directory nor a readable"):
        image_folder.read(archive)


def test_what_is_no_folder_and_no_archive_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"photos: no such directory or archive$"):
        image_folder.read(tmp_path / "photos")
    (tmp_path / "photos.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DataError, match=r"readable \.tar\.gz or \.zip: it is no archive, or a damaged one$"):
        image_folder.read(tmp_path / "photos.zip")


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
