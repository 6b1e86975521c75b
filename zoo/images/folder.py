"""Labelled images in {train,test}/<class>/…, in a directory or a .tar.gz. What training and verifying read alike."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from zoo.errors import DataError, ImageError
from zoo.images import decode as images
from zoo.images.files import SPLITS, Listing, listing
from zoo.images.header import Color as Color

_NAMED_AT_MOST = 20


@dataclass(frozen=True)
class ImageFile:
    """One image: <split>/<label>/…/<name>, and its bytes or where they are read when they are asked for."""

    path: PurePosixPath
    source: Path | bytes

    @property
    def split(self) -> str:
        return self.path.parts[0]

    @property
    def label(self) -> str:
        return self.path.parts[1]

    @property
    def data(self) -> bytes:
        """Raises DataError, which names the file."""
        if isinstance(self.source, bytes):
            return self.source
        try:
            return self.source.read_bytes()
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror}") from error

    @property
    def size_bytes(self) -> int:
        try:
            return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size
        except OSError:
            return 0

    def probe(self) -> tuple[Color, tuple[int, int]]:
        """Colour and (height, width) when upright, from the header. Raises DataError, which names the file."""
        try:
            header = images.read(self.data)
        except ImageError as error:
            raise DataError(f"{self.path}: {error}") from error
        return header.color, header.upright

    def decode(self, color: Color, size: tuple[int, int]) -> images.Pixels:
        """As `images.pixels`: (height, width, channels). Raises DataError, which names the file."""
        try:
            return images.pixels(images.read(self.data), color, size)
        except ImageError as error:
            raise DataError(f"{self.path}: {error}") from error


@dataclass(frozen=True)
class ImageFolder:
    """Files are in the order of (split, class, name), so that an archive equals its directory.

    `findings` are sentences for whoever uses the images: what was left out, and what is odd about the rest.
    """

    name: str
    classes: tuple[str, ...]
    train: tuple[ImageFile, ...]
    test: tuple[ImageFile, ...]
    findings: tuple[str, ...] = field(default=(), compare=False)

    def labels(self, files: Sequence[ImageFile]) -> npt.NDArray[np.int64]:
        index = {label: number for number, label in enumerate(self.classes)}
        return np.array([index[file.label] for file in files], dtype=np.int64)

    def equal_files(self) -> list[str]:
        """As `equal_images`, by the files' bytes."""
        files = (*self.train, *self.test)
        return equal_images(files, _bytes_of(files))

    def without(self, bad: BadFiles) -> ImageFolder:
        """Raises DataError where a class is lost with them."""
        if not bad:
            return self
        train, test = (tuple(file for file in files if file not in bad) for files in (self.train, self.test))
        lost = [label for label in self.classes if label not in {file.label for file in train}]
        if lost:
            raise DataError(f"{self.name}: without the files that cannot be read nothing is left of {named(lost)}")
        if not test:
            raise DataError(f"{self.name}: without the files that cannot be read no test image is left")
        findings = (
            *self.findings,
            f"left out, as they cannot be read: {len(bad):,} {'file' if len(bad) == 1 else 'files'}: {bad}",
        )
        return replace(self, train=train, test=test, findings=findings)


class BadFiles(dict[ImageFile, str]):
    """Files that cannot be decoded, with the reason, which names the file."""

    @classmethod
    def among(cls, files: Iterable[ImageFile]) -> BadFiles:
        """Decodes each to find out."""
        found = cls()
        for file in files:
            found.decode(file, "gray", (1, 1), np.empty((1, 1, 1), dtype=np.uint8))
        return found

    def probe(self, file: ImageFile) -> tuple[Color, tuple[int, int]] | None:
        """As the file's own; None where it is a bad one."""
        try:
            return file.probe()
        except DataError as error:
            self[file] = str(error)
            return None

    def decode(self, file: ImageFile, color: Color, size: tuple[int, int], out: images.Pixels) -> None:
        """Into `out`, (height, width, channels), which means nothing where the file is a bad one."""
        if file not in self:
            try:
                out[:] = file.decode(color, size)
            except DataError as error:
                self[file] = str(error)

    def __str__(self) -> str:
        reasons = [*self.values()][:_NAMED_AT_MOST]
        more = len(self) - len(reasons)
        return "; ".join(reasons) + (f"; and {more:,} more" if more else "")

    def refuse(self) -> None:
        """Raises DataError where there are any."""
        if len(self) == 1:
            raise DataError(f"{self} (--skip-bad goes on without it)")
        if self:
            raise DataError(f"{len(self):,} files cannot be read: {self} (--skip-bad goes on without them)")


def read(path: Path) -> ImageFolder:
    """Finds the image files, undecoded. Raises DataError."""
    found = listing(path)
    files = [ImageFile(file.place, file.source) for file in found.files]
    train, test = (tuple(file for file in files if file.split == split) for split in SPLITS)
    classes = tuple(sorted({file.label for file in train}))
    _check(path, found, classes, test)
    findings = (*_left_out(found), *_odd_classes(found, classes, test))
    return ImageFolder(name_of(path), classes, train, test, findings)


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


def _check(path: Path, found: Listing, classes: tuple[str, ...], test: tuple[ImageFile, ...]) -> None:
    read_here = {(file.place.parts[0], file.place.parts[1]) for file in found.files}
    lost = {place: others for place, others in found.classes.items() if others and place not in read_here}
    if lost:
        folders = "; ".join(f"{split}/{label}: {lost[split, label]}" for split, label in sorted(lost))
        raise DataError(f"{path}: of {len(lost)} class folders no file is an image that is read here ({folders})")
    unknown = sorted({file.label for file in test} - set(classes))
    if len(classes) < 2 or not test or unknown:
        raise DataError(
            f"{path} should hold {{train,test}}/<class>/*.{{png,jpg}} with two classes or more in train and the "
            f"same in test; found classes {list(classes)} in train, {len(test)} images in test"
            + (f", test-only classes {unknown}" if unknown else "")
            + "".join(f"; {sentence}" for sentence in _left_out(found))
        )
    for label in classes:
        if not label.isprintable():
            raise DataError(f"{path}: the class folder {label!r} needs a name in UTF-8 without control characters")


# --- findings -------------------------------------------------------------------------------------------


def _left_out(found: Listing) -> list[str]:
    return [f"left out: {found.left_out}"] if found.left_out else []


def _odd_classes(found: Listing, classes: tuple[str, ...], test: tuple[ImageFile, ...]) -> list[str]:
    sentences = []
    if found.merged:
        sentences.append(f"written in two Unicode forms, and read as one class each: {named(found.merged)}")
    if empty := {label for _, label in found.classes} - set(classes):
        sentences.append(f"left out, as their folders are empty: {named(empty)}")
    if untested := [label for label in classes if label not in {file.label for file in test}]:
        sentences.append(
            f"no test image is of {len(untested)} of {len(classes)} classes ({named(untested)}): "
            "the test accuracy says nothing of them"
        )
    return sentences


def equal_images(files: Sequence[ImageFile], contents: Iterable[Hashable]) -> list[str]:
    """Which files have equal contents: test images that were trained on, and images of two classes.

    `contents` are in the order of `files`, training images first.
    """
    groups: dict[Hashable, list[ImageFile]] = {}
    for file, content in zip(files, contents, strict=True):
        groups.setdefault(content, []).append(file)
    equal = [group for group in groups.values() if len(group) > 1]
    leaked = [
        (file, group[0]) for group in equal if group[0].split == "train" for file in group if file.split == "test"
    ]
    mixed = [group for group in equal if len({file.label for file in group}) > 1]
    sentences = []
    if leaked:
        file, origin = leaked[0]
        num_test = sum(file.split == "test" for file in files)
        sentences.append(
            f"{len(leaked):,} of {num_test:,} test images are training images too ({file.path} is {origin.path}): "
            "the test accuracy is too good to be true"
        )
    if mixed:
        one, other = next((one, other) for one in mixed[0] for other in mixed[0] if one.label != other.label)
        sentences.append(f"{len(mixed):,} of the images are in two classes or more ({one.path} is {other.path})")
    return sentences


def _bytes_of(files: Sequence[ImageFile]) -> list[Hashable]:
    """What tells files apart that are not the same to the byte. Only those of equal length are read."""
    sizes = [file.size_bytes for file in files]
    times = Counter(sizes)
    return [_digest(file) if times[size] > 1 else file.path for file, size in zip(files, sizes, strict=True)]


def _digest(file: ImageFile) -> Hashable:
    try:
        return hashlib.blake2b(file.data).digest()
    except DataError:  # to be named when it is decoded
        return file.path


def named(labels: Iterable[str]) -> str:
    """As many names as one reads."""
    names = sorted(labels)
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
