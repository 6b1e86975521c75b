"""Labelled images in a directory or an archive (`files.py` has the layouts). What training and verifying read alike."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from zoo.errors import DataError, ImageError
from zoo.images import decode as images
from zoo.images import duplicates, splits
from zoo.images.decode import Form
from zoo.images.files import Found, LeftOut, Listing, listing
from zoo.images.picture import Color as Color

# Of each class, where a folder has no test images of its own.
TEST_SHARE = 0.2
_NAMED_AT_MOST = 20
_SMALLEST = Form("gray", (1, 1), "squeeze")


@dataclass(frozen=True)
class ImageFile(Found):
    """Read when it is asked for."""

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

    def decode(self, form: Form) -> images.Pixels:
        """As `images.pixels`: (height, width, channels). Raises DataError, which names the file."""
        try:
            return images.pixels(images.read(self.data), *form)
        except ImageError as error:
            raise DataError(f"{self.path}: {error}") from error


@dataclass(frozen=True)
class ImageFolder:
    """Files are in the order of (split, class, name), so that an archive equals its directory.

    Without `validation` images some of the training images are to validate (`splits.validation`). `divided` says in
    words where the test images come from, `findings` are sentences for whoever uses the images: what was left out, and
    what is odd about the rest.
    """

    name: str
    classes: tuple[str, ...]
    train: tuple[ImageFile, ...]
    test: tuple[ImageFile, ...]
    validation: tuple[ImageFile, ...] = ()
    divided: str = ""
    # Where the test images were set aside: of how much of each class they are.
    test_share: float | None = None
    findings: tuple[str, ...] = field(default=(), compare=False)
    # What is not read, with its first place and how many of it there are.
    left_out: LeftOut = field(default_factory=LeftOut, compare=False)

    @property
    def files(self) -> tuple[ImageFile, ...]:
        return self.train + self.validation + self.test

    @property
    def summary(self) -> str:
        """450 training and 150 test images of 5 classes, 78 to 120 each; 20 % of each class are …"""
        counts = Counter(file.label for file in self.files)
        several = [("training", self.train), ("validation", self.validation), ("test", self.test)]
        said = _listed([f"{len(files):,} {name}" for name, files in several if files])
        each = sorted({min(counts.values()), max(counts.values())})
        each_said = " to ".join(f"{count:,}" for count in each)
        return f"{said} images of {len(self.classes)} classes, {each_said} of each" + (
            f"; {self.divided}" if self.divided else ""
        )

    def labels(self, files: Sequence[ImageFile]) -> npt.NDArray[np.int64]:
        index = {label: number for number, label in enumerate(self.classes)}
        return np.array([index[file.label] for file in files], dtype=np.int64)

    def equal_files(self) -> list[str]:
        """As `leaks` and `in_two_classes`, by the files' bytes."""
        equal = duplicates.equal(self.files)
        return [*leaks(self.files, equal), *in_two_classes(self.files, equal)]

    def without(self, bad: BadFiles) -> ImageFolder:
        """Raises DataError where a class is lost with them."""
        if not bad:
            return self
        kept = replace(
            self,
            train=tuple(file for file in self.train if file not in bad),
            validation=tuple(file for file in self.validation if file not in bad),
            test=tuple(file for file in self.test if file not in bad),
        )
        lost = [label for label in self.classes if label not in _labels(kept.train)]
        if lost:
            raise DataError(f"{self.name}: without the files that cannot be read nothing is left of {named(lost)}")
        if not kept.test:
            raise DataError(f"{self.name}: without the files that cannot be read no test image is left")
        said = f"left out, as they cannot be read: {len(bad):,} {'file' if len(bad) == 1 else 'files'}: {bad}"
        return replace(kept, findings=(*self.findings, said))


class BadFiles(dict[ImageFile, str]):
    """Files that cannot be decoded, with the reason, which names the file."""

    @classmethod
    def among(cls, files: Iterable[ImageFile]) -> BadFiles:
        """Decodes every file to find the bad ones."""
        found = cls()
        for file in files:
            found.decode(file, _SMALLEST, np.empty((1, 1, 1), dtype=np.uint8))
        return found

    def pixels(self, files: Sequence[ImageFile], form: Form) -> images.Pixels:
        """(files, height, width, channels), where rows of bad files mean nothing."""
        found = np.empty((len(files), *form.size, form.channels), dtype=np.uint8)
        for file, row in zip(files, found, strict=True):
            self.decode(file, form, row)
        return found

    def thumbnails(self, files: Sequence[ImageFile]) -> tuple[list[int], images.Pixels]:
        """The places of the good ones, and what `duplicates.near` takes of them."""
        found = self.pixels(files, Form("gray", duplicates.THUMBNAIL, "squeeze"))
        good = [place for place, file in enumerate(files) if file not in self]
        return good, found[good, ..., 0]

    def probe(self, file: ImageFile) -> tuple[Color, tuple[int, int]] | None:
        """As the file's own; None where it is a bad one."""
        try:
            return file.probe()
        except DataError as error:
            self[file] = str(error)
            return None

    def decode(self, file: ImageFile, form: Form, out: images.Pixels) -> None:
        """Into `out`, (height, width, channels), which means nothing where the file is a bad one."""
        if file not in self:
            try:
                out[:] = file.decode(form)
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


def read(path: Path, test_share: float | None = None, problems: list[str] | None = None) -> ImageFolder:
    """Finds the image files, undecoded but where test images are to be set aside. Raises DataError.

    Test images are those of test/; where there is none those of validation/; else `test_share` of each class, whatever
    the files are called, with near duplicates on one side.

    What is wrong with the classes is added to `problems`, where that is given and there are training images at all; the
    folder then has the classes of all its images.
    """
    if test_share is not None and not 0 < test_share < 1:
        raise DataError(f"test-share is a fraction between 0 and 1, not {test_share}")
    found = listing(path)
    files = [ImageFile(**vars(file)) for file in found.files]
    train, validation, test = (
        tuple(file for file in files if file.split in names) for names in (("train", ""), ("validation",), ("test",))
    )
    classes = tuple(sorted(_labels(train)))
    divided = "validation images set apart, as its folders have them" if validation else ""
    if validation and not test:
        divided = "there is no test/, so its validation images are the test images"
        test, validation = tuple(replace(file, split="test") for file in validation), ()
    if wrong := list(_wrong(path, found, classes, (*validation, *test))):
        if problems is None or not train:
            raise DataError(wrong[0])
        problems += wrong
        classes = tuple(sorted(_labels((*train, *validation, *test))))
    for label in classes:
        if not label.isprintable():
            raise DataError(f"{path}: the class folder {label!r} needs a name in UTF-8 without control characters")
    share = None
    if not test:
        share = TEST_SHARE if test_share is None else test_share
        divided = f"{100 * share:g} % of each class are set aside as test images, near duplicates together"
        train, test = _divided(train, share)
    elif test_share is not None:
        raise DataError(f"{path} has test images of its own; test-share is for a folder without")
    findings = (*_left_out(found), *_odd_classes(found, classes, test))
    return ImageFolder(name_of(path), classes, train, test, validation, divided, share, findings, found.left_out)


def _divided(files: tuple[ImageFile, ...], share: float) -> tuple[tuple[ImageFile, ...], tuple[ImageFile, ...]]:
    """The others and those for the test. Files that cannot be read are left among the others, to be named there."""
    good, thumbnails = BadFiles().thumbnails(files)
    contents = [hashlib.sha256(files[place].data).digest() for place in good]
    together = duplicates.near(thumbnails, contents)
    held_out = splits.held_out([files[place].label for place in good], contents, together, share)
    chosen = {good[place] for place in held_out}
    return (
        tuple(replace(file, split="train") for place, file in enumerate(files) if place not in chosen),
        tuple(replace(file, split="test") for place, file in enumerate(files) if place in chosen),
    )


def name_of(path: Path) -> str:
    """The data set's name, a slug: Photos 2026.tar.gz -> photos-2026, Café -> cafe, Фото -> images-3d0a7e6c.

    Names that differ in letters which a slug cannot have end in digits of their own.
    """
    stem = re.sub(
        r"\.(zip|tar|tgz|tbz2|txz|tar\.(gz|bz2|xz))$", "", unicodedata.normalize("NFC", path.resolve().name).lower()
    )
    plain = "".join(c for c in unicodedata.normalize("NFKD", stem) if not unicodedata.combining(c))
    slug = re.sub(r"[^a-z0-9._-]+", "-", plain).strip("._-")[:64] or "images"
    if any(c.isalnum() and not c.isascii() for c in plain):
        digits = hashlib.sha256(stem.encode()).hexdigest()[:8]
        slug = f"{slug[:55]}-{digits}"
    return slug


def _wrong(path: Path, found: Listing, classes: tuple[str, ...], held_out: tuple[ImageFile, ...]) -> Iterator[str]:
    read_here = {(file.split, file.label) for file in found.files}
    lost = {place: others for place, others in found.classes.items() if others and place not in read_here}
    if lost:
        folders = "; ".join(f"{PurePosixPath(split, label)}: {lost[split, label]}" for split, label in sorted(lost))
        yield f"{path}: of {len(lost)} class folders no file is an image that is read here ({folders})"
    unknown = sorted(_labels(held_out) - set(classes))
    if len(classes) < 2 or unknown:
        yield (
            f"{path} should hold {{train,test}}/<class>/*.{{png,jpg}} or <class>/*.{{png,jpg}}, with two classes or "
            f"more and the same in each split; found classes {list(classes)}"
            + (f", and not for training {unknown}" if unknown else "")
            + "".join(f"; {sentence}" for sentence in _left_out(found))
        )


# --- findings -------------------------------------------------------------------------------------------


def _left_out(found: Listing) -> list[str]:
    return [f"left out: {found.left_out}"] if found.left_out else []


def _odd_classes(found: Listing, classes: tuple[str, ...], test: tuple[ImageFile, ...]) -> list[str]:
    sentences = []
    if found.merged:
        sentences.append(f"written in two Unicode forms, and read as one class each: {named(found.merged)}")
    if alike := _same_folders(found):
        sentences.append(
            f"each class folder holds the same folders ({named(alike)}): if these are the classes, call the ones above "
            "them train/ and test/"
        )
    if empty := {label for _, label in found.classes} - set(classes):
        sentences.append(f"left out, as their folders hold no images: {named(empty)}")
    if untested := [label for label in classes if label not in _labels(test)]:
        sentences.append(
            f"no test image is of {len(untested)} of {len(classes)} classes ({named(untested)}): "
            "the test accuracy says nothing of them"
        )
    return sentences


def _same_folders(found: Listing) -> set[str]:
    """The folders inside of every class folder, where these are alike; splits under another name look so."""
    inside: dict[str, set[str]] = {}
    for file in found.files:
        below = file.path.parts[1 + bool(file.split) :]
        inside.setdefault(file.label, set()).add(below[0] if len(below) > 1 else "")
    first = next(iter(inside.values()), set())
    alike = len(inside) > 1 and len(first) > 1 and "" not in first and all(one == first for one in inside.values())
    return first if alike else set()


def leaks(files: Sequence[ImageFile], equal: Iterable[Sequence[int]]) -> list[str]:
    """Test and validation images that are trained on. `equal` are places in `files`, which are in the order of
    training, validation, test."""
    together = [[files[place] for place in places] for places in equal]
    sentences = []
    for split in ("test", "validation"):
        leaked = [
            (file, group[0]) for group in together if group[0].split == "train" for file in group if file.split == split
        ]
        if leaked:
            file, origin = leaked[0]
            total = sum(file.split == split for file in files)
            sentences.append(
                f"{len(leaked):,} of {total:,} {split} images are training images too ({file.path} is {origin.path}): "
                f"the {split} accuracy is too good to be true"
            )
    return sentences


def in_two_classes(files: Sequence[ImageFile], equal: Iterable[Sequence[int]]) -> list[str]:
    """As `leaks`."""
    mixed = [group for group in ([files[place] for place in places] for places in equal) if len(_labels(group)) > 1]
    if not mixed:
        return []
    one, other = next((one, other) for one in mixed[0] for other in mixed[0] if one.label != other.label)
    return [f"{len(mixed):,} of the images are in two classes or more ({one.path} is {other.path})"]


def _labels(files: Iterable[ImageFile]) -> set[str]:
    return {file.label for file in files}


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + f" and {words[-1]}" if len(words) > 1 else words[0]


def named(labels: Iterable[str]) -> str:
    """The first few names, and how many more."""
    names = sorted(labels)
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
