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

from zoo import image_folder
from zoo.errors import DataError

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
            DataError, match=r"bars\.tar\.gz is neither a directory nor a readable \.tar\.gz: ."
        ) as error:
            image_folder.read(archive)
        assert "\n" not in str(error.value)


def test_a_class_needs_a_printable_name(tmp_path: Path) -> None:
    root = write(tmp_path / "bars", [*FILES, "train/a\nb/0.png"])
    with pytest.raises(DataError, match=r"the class folder 'a\\nb' needs a name in UTF-8 without control characters"):
        image_folder.read(root)


def test_a_bad_image_is_named_by_its_path(tmp_path: Path) -> None:
    file = image_folder.read(write(tmp_path / "bars")).test[1]
    for use in (file.probe, lambda: file.decode("rgb", (8, 8))):
        with pytest.raises(DataError, match=r"^test/a/1\.png: 32 bytes that are no PNG"):
            use()


def test_reading_and_measuring_import_no_torch() -> None:
    program = "import sys, zoo.cli, zoo.measure; assert not {'torch', 'sklearn', 'matplotlib'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
