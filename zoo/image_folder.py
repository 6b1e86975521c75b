"""Images in {train,test}/<class>/<image>, in a directory or a .tar.gz. What training and verifying read alike."""

from __future__ import annotations

import hashlib
import re
import tarfile
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import numpy.typing as npt

from zoo import images
from zoo.errors import DataError, ImageError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

Color = Literal["rgb", "gray"]


@dataclass(frozen=True)
class ImageFile:
    """One image: …/<split>/<label>/<name>"""

    path: PurePosixPath
    data: bytes

    @property
    def split(self) -> str:
        return self.path.parts[-3]

    @property
    def label(self) -> str:
        return self.path.parts[-2]

    def probe(self) -> tuple[Color, tuple[int, int]]:
        """As `images.probe`. Raises DataError, which names the file."""
        try:
            return images.probe(self.data)
        except ImageError as error:
            raise DataError(f"{self.path}: {error}") from error

    def decode(self, color: Color, size: tuple[int, int]) -> images.Pixels:
        """As `images.decode`: (height, width, channels). Raises DataError, which names the file."""
        try:
            return images.decode(self.data, color, size)
        except ImageError as error:
            raise DataError(f"{self.path}: {error}") from error


@dataclass(frozen=True)
class ImageFolder:
    """Files are in the order of (split, class, name), so that an archive equals its directory."""

    name: str
    classes: tuple[str, ...]
    train: tuple[ImageFile, ...]
    test: tuple[ImageFile, ...]

    def labels(self, files: Sequence[ImageFile]) -> npt.NDArray[np.int64]:
        index = {label: number for number, label in enumerate(self.classes)}
        return np.array([index[file.label] for file in files], dtype=np.int64)


def read(path: Path) -> ImageFolder:
    """Reads every image file into memory, undecoded. Raises DataError."""
    members: dict[str, list[ImageFile]] = {"train": [], "test": []}
    for file in _walk(path):
        members[file.split].append(file)
    classes = tuple(sorted({file.label for file in members["train"]}))
    unknown = sorted({file.label for file in members["test"]} - set(classes))
    if len(classes) < 2 or not members["test"] or unknown:
        raise DataError(
            f"{path} should hold {{train,test}}/<class>/*.{{png,jpg}} with two classes or more in train and the "
            f"same in test; found classes {list(classes)} in train, {len(members['test'])} images in test"
            + (f", test-only classes {unknown}" if unknown else "")
        )
    for label in classes:
        if not label.isprintable():
            raise DataError(f"{path}: the class folder {label!r} needs a name in UTF-8 without control characters")
    return ImageFolder(name_of(path), classes, tuple(members["train"]), tuple(members["test"]))


def name_of(path: Path) -> str:
    """The data set's name, a slug: Photos 2026.tar.gz -> photos-2026, Café -> cafe, Фото -> images-3d0a7e6c.

    Names that differ in letters which a slug cannot have end in digits of their own.
    """
    stem = re.sub(r"\.(tar|tar\.gz|tgz)$", "", unicodedata.normalize("NFC", path.resolve().name).lower())
    plain = "".join(c for c in unicodedata.normalize("NFKD", stem) if not unicodedata.combining(c))
    slug = re.sub(r"[^a-z0-9._-]+", "-", plain).strip("._-")[:64] or "images"
    if any(c.isalnum() and not c.isascii() for c in plain):
        digits = hashlib.sha256(stem.encode()).hexdigest()[:8]
        slug = f"{slug[:55]}-{digits}"
    return slug


def _walk(path: Path) -> list[ImageFile]:
    files = _in_directory(path) if path.is_dir() else _in_archive(path)
    return sorted(files, key=lambda file: (file.path.parts[-3:], file.path))


def _in_directory(path: Path) -> Iterator[ImageFile]:
    for file in path.rglob("*"):
        place = PurePosixPath(file.relative_to(path).as_posix())
        if _is_image(place) and file.is_file():
            yield ImageFile(place, file.read_bytes())


def _in_archive(path: Path) -> Iterator[ImageFile]:
    found = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                place = PurePosixPath(member.name)
                content = archive.extractfile(member) if _is_image(place) and member.isfile() else None
                if content is not None:
                    found[place] = content.read()
            # tarfile takes a damaged header for the end; the checksum of a .gz stands behind all that it reads.
            assert archive.fileobj is not None
            while archive.fileobj.read(2**20):
                pass
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is neither a directory nor a readable .tar.gz: {reason}") from error
    for place, data in found.items():
        yield ImageFile(place, data)


def _is_image(place: PurePosixPath) -> bool:
    """…/train/frog/0001.jpg"""
    is_shown = place.suffix.lower() in _SUFFIXES and not place.name.startswith(".")
    return is_shown and len(place.parts) >= 3 and place.parts[-3] in ("train", "test")
