"""The files here are no images: reading a folder does not decode them."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest

from zoo.errors import DataError
from zoo.images import folder as image_folder
from zoo.images.decode import Form

FILES = [f"{split}/{label}/{number}.png" for split in ("train", "test") for label in "ab" for number in range(6)]


def write(root: Path, names: Iterable[str] = FILES) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode() + os.urandom(20))
    return root


def pack(directory: Path, archive: Path, prefix: str = "some/prefix") -> Path:
    """Last file first, which is an order like any other in an archive."""
    with tarfile.open(archive, "w:gz") as tar:
        for file in sorted(directory.rglob("*"), reverse=True):
            if file.is_file():
                tar.add(file, arcname=f"{prefix}/{file.relative_to(directory)}")
    return archive


def unpacked(archive: bytes) -> bytes | None:
    try:
        return gzip.decompress(archive)
    except (OSError, EOFError, zlib.error):
        return None


def test_an_archive_equals_its_directory(tmp_path: Path) -> None:
    # "a-b" sorts before "a/…" as text, after it as a path.
    root = write(tmp_path / "bars", [*FILES, "train/a-b/0.jpeg", "test/a-b/0.WEBP"])
    found = image_folder.read(root)
    packed = image_folder.read(pack(root, tmp_path / "bars.tar.gz"))
    assert found.classes == packed.classes == ("a", "a-b", "b")
    for files, others in [(found.train, packed.train), (found.test, packed.test)]:
        assert [file.data for file in files] == [file.data for file in others]
        assert [file.path.parts[-3:] for file in files] == [file.path.parts[-3:] for file in others]
    assert found.labels(found.test).tolist() == [0] * 6 + [1] + [2] * 6


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("Fotos vom Hügel (2026)", "fotos-vom-hugel-2026"),
        ("Фото", "images-5cea446a"),
        ("Фото 2026", "2026-933740f6"),
        ("_hidden.", "hidden"),
        ("日本", "images-cf2abf0c"),
        ("a" * 80, "a" * 64),
        ("cats.vs.dogs", "cats.vs.dogs"),
        ("cats.TAR.GZ", "cats"),
        ("cats.tgz", "cats"),
    ],
)
def test_file_names_become_slugs(tmp_path: Path, filename: str, name: str) -> None:
    root = write(tmp_path / "bars")
    is_archive = filename.lower().endswith("gz")
    source = pack(root, tmp_path / filename) if is_archive else root.rename(tmp_path / filename)
    assert image_folder.read(source).name == name


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    root = write(tmp_path / "bars")
    expected = image_folder.read(root)
    write(
        root, ["README.md", "train/Thumbs.db", "train/a/._0.png", "train/a/notes.txt", "extra/a/0.png", "train/0.png"]
    )
    assert image_folder.read(root) == expected


def test_files_of_other_kinds_are_counted(tmp_path: Path) -> None:
    root = write(tmp_path / "bars", [*FILES, *(f"train/a/{number}.JXL" for number in range(3)), "test/b/notes"])
    write(
        root, ["train/.ipynb_checkpoints/a.png", "train/a/.hidden/x.png", "test/a/.DS_Store", "__MACOSX/train/a/0.png"]
    )
    write(root, ["extra/a/0.png", "extra/a/1.png", "train/0.png", "README.md"])
    (root / "train/a/gone.png").symlink_to("nowhere.png")
    (root / "train/a/loop.png").symlink_to("loop.png")
    os.mkfifo(root / "train/a/pipe.png")
    found = image_folder.read(root)
    assert [len(found.train), len(found.test)] == [12, 12]
    (said,) = found.findings
    assert said.startswith("left out: ")
    assert set(said.removeprefix("left out: ").split(", ")) == {
        "3 .jxl (train/a/0.JXL)",
        "1 file without suffix (test/b/notes)",
        "3 hidden folders (__MACOSX)",
        "1 hidden file (test/a/.DS_Store)",
        "2 images outside the folders of splits (extra/a/0.png)",
        "1 image in no class folder (train/0.png)",
        "2 dead links (train/a/gone.png)",
        "1 special file (train/a/pipe.png)",
    }


def test_images_below_a_class_are_of_it(tmp_path: Path) -> None:
    names = [*FILES, "train/a/batch0/0.png", "train/a/batch0/deep/er/0.JPEG", "test/c/x/0.png", "train/c/y/0.png"]
    root = write(tmp_path / "bars", names)
    found = image_folder.read(root)
    assert found.classes == ("a", "b", "c")
    assert {(file.split, file.label, file.path.name) for file in (*found.train, *found.test)} == {
        (*Path(name).parts[:2], Path(name).name) for name in names
    }
    packed = image_folder.read(pack(root, tmp_path / "bars.tar.gz", prefix="test"))
    assert [(file.path, file.data) for file in packed.train] == [(file.path, file.data) for file in found.train]
    assert found.findings == packed.findings == ()
    assert found.equal_files() == packed.equal_files() == []


def test_linked_classes_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    root = write(tmp_path / "bars")
    write(tmp_path / "elsewhere", ["eels/0.png", "eels/more/1.png", "tests/0.png"])
    for split, target in (("train", "eels"), ("test", "tests")):
        (root / split / "eel").symlink_to(tmp_path / "elsewhere" / target)
    (root / "train/a/linked.png").symlink_to(tmp_path / "elsewhere/eels/0.png")
    (root / "train/b/all").symlink_to(root)
    (root / "train/b/up").symlink_to("..")
    (tmp_path / "elsewhere/eels/again").symlink_to("more")
    found = image_folder.read(root)
    assert found.classes == ("a", "b", "eel")
    assert [len(found.train), len(found.test)] == [12 + 1 + 2, 12 + 1]
    assert found.findings[0] == (
        "left out: 2 links to a folder that it lies in (train/b/all), "
        "1 link to a folder that is read already (train/eel/again)"
    )


def test_links_that_multiply_are_read_once(tmp_path: Path) -> None:
    """Two links to the next of 30 folders, in each: a billion ways to the last."""
    root = write(tmp_path / "bars")
    for number in range(30):
        (tmp_path / f"f{number}").mkdir()
        for link in "xy":
            (tmp_path / f"f{number}" / link).symlink_to(tmp_path / f"f{number + 1}")
    write(tmp_path / "f30", ["0.png"])
    (root / "train/a/farm").symlink_to(tmp_path / "f0")
    assert len(image_folder.read(root).train) == 13


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_of_which_no_file_is_read_is_an_error(tmp_path: Path, split: str) -> None:
    root = write(tmp_path / "bars", [*FILES, "train/c/0.png", "test/c/0.png"])
    (root / split / "c" / "0.png").rename(root / split / "c" / "0.jxl")
    with pytest.raises(DataError, match=rf"of 1 class folders no file is .* read here \({split}/c: 1 \.jxl"):
        image_folder.read(root)


def test_empty_and_untested_classes_are_named(tmp_path: Path) -> None:
    root = write(tmp_path / "bars", [*FILES, "train/c/0.png"])
    (root / "train/nothing").mkdir()
    (root / "test/c").mkdir()
    assert image_folder.read(root).findings == (
        "left out, as their folders hold no images: nothing",
        "no test image is of 1 of 3 classes (c): the test accuracy says nothing of them",
    )


def test_one_name_in_two_unicode_forms_is_one_class(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    root = write(tmp_path / "bars", [*FILES, f"train/{composed}/0.png", f"test/{decomposed}/0.png"])
    found = image_folder.read(root)
    assert found.classes == ("a", "b", composed)
    assert found.labels(found.test).tolist() == [0] * 6 + [1] * 6 + [2]
    assert found.findings == (f"written in two Unicode forms, and read as one class each: {composed}",)
    write(tmp_path / "other", [*FILES, f"train/{decomposed}/0.png", f"test/{decomposed}/0.png"])
    assert image_folder.read(tmp_path / "other").classes == found.classes
    assert image_folder.read(tmp_path / "other").findings == ()


def test_test_images_that_were_trained_on_are_counted(tmp_path: Path) -> None:
    root = write(tmp_path / "bars")
    for number in range(5):
        (root / f"test/a/{number}.png").write_bytes((root / f"train/a/{number}.png").read_bytes())
    assert image_folder.read(root).equal_files() == [
        "5 of 12 test images are training images too (test/a/0.png is train/a/0.png): "
        "the test accuracy is too good to be true"
    ]


def test_an_image_in_two_classes_is_named(tmp_path: Path) -> None:
    root = write(tmp_path / "bars")
    for number in range(2):
        (root / f"train/b/{number}.png").write_bytes((root / f"train/a/{number}.png").read_bytes())
    said = "2 of the images are in two classes or more (train/a/0.png is train/b/0.png)"
    assert image_folder.read(root).equal_files() == [said]


def test_two_data_sets_in_one_folder_are_an_error(tmp_path: Path) -> None:
    root = write(tmp_path / "both", [f"{name}/{file}" for name in ("x", "y") for file in FILES])
    with pytest.raises(DataError, match=r"both holds 2 data sets \(x/train, y/train\): name the folder of one"):
        image_folder.read(root)
    assert image_folder.read(root / "x").classes == ("a", "b")


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    root = write(tmp_path / "bars")
    (root / "train/a").chmod(0)
    try:
        if os.access(root / "train/a", os.R_OK):
            pytest.skip("root reads everything")
        with pytest.raises(DataError, match=r"train/a cannot be read: Permission denied"):
            image_folder.read(root)
    finally:
        (root / "train/a").chmod(0o755)


def test_a_damaged_archive(tmp_path: Path) -> None:
    archive = pack(write(tmp_path / "bars"), tmp_path / "bars.tar.gz")
    whole = archive.read_bytes()
    middle = len(whole) // 2
    # The first 10 bytes are gzip's own, with a time that means nothing here.
    flips = [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in range(30, len(whole), len(whole) // 60)]
    # A few bits of a deflate stream say the same either way.
    flipped = [data for data in flips if unpacked(data) != unpacked(whole)]
    for damaged in (b"no archive", b"", whole[:middle], whole[:-1], whole[:middle] + whole[middle + 1 :], *flipped):
        archive.write_bytes(damaged)
        with pytest.raises(
            DataError, match=r"bars\.tar\.gz is neither a directory nor a readable \.tar\.gz or \.zip: ."
        ) as error:
            image_folder.read(archive)
        assert "\n" not in str(error.value)


def test_a_class_needs_a_printable_name(tmp_path: Path) -> None:
    root = write(tmp_path / "bars", [*FILES, "train/a\nb/0.png"])
    with pytest.raises(DataError, match=r"the class folder 'a\\nb' needs a name in UTF-8 without control characters"):
        image_folder.read(root)


def test_a_bad_image_is_named_by_its_path(tmp_path: Path) -> None:
    file = image_folder.read(write(tmp_path / "bars")).test[1]
    for use in (file.probe, lambda: file.decode(Form("rgb", (8, 8), "crop"))):
        with pytest.raises(DataError, match=r"^test/a/1\.png: 32 bytes that are no PNG"):
            use()


def test_reading_and_measuring_import_no_torch() -> None:
    program = "import sys, zoo.cli.main, zoo.runtime.measure as _; assert not {*sys.modules} & {'torch', 'sklearn'}"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
