"""Data sets as uint8 tensors: training, validation and test images with their labels.

The validation split is carved out of the training data, so that growth and schedules never see a test image.
"""

from __future__ import annotations

import re
import sys
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from zoo import images
from zoo.descriptor import Dataset as DatasetRecord
from zoo.descriptor import Preprocessing
from zoo.errors import DataError, ImageError

VALIDATION_FRACTION = 0.1
# One split for all runs of a data set, whatever their seeds, so that their validation accuracies compare.
_SPLIT_SEED = 20240111
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# Images of different sizes become squares of their median side, at most this.
_MAX_MIXED_SIZE = 96


@dataclass(frozen=True)
class Split:
    images: UInt8[Tensor, "n channels height width"]
    labels: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> Split:
        chosen = torch.from_numpy(indices)
        return Split(self.images[chosen], self.labels[chosen])

    def to(self, device: torch.device) -> Split:
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Data:
    name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    train: Split
    validation: Split
    test: Split

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def checksum(self) -> str:
        """Of all pixels and labels, in order."""
        crc = 0
        for split in (self.train, self.validation, self.test):
            for tensor in (split.images, split.labels):
                crc = zlib.crc32(tensor.contiguous().numpy().data, crc)
        return f"{crc:08x}"

    def record(self) -> DatasetRecord:
        return DatasetRecord(
            name=self.name,
            num_train=len(self.train),
            num_validation=len(self.validation),
            num_test=len(self.test),
        )


@dataclass(frozen=True)
class _Raw:
    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split


def load(source: str, *, limit_train: int | None = None, image_size: int | None = None) -> Data:
    """`source`: a name of `NAMED`, or a directory or .tar.gz of {train,test}/<class>/*.{png,jpg,webp}.

    `limit_train` keeps that many training images (before the validation split), equally many of each class.
    Raises DataError.
    """
    if limit_train is not None and limit_train < 1:
        raise DataError(f"limit-train should be at least 1, is {limit_train}")
    raw = _named(source) if source in NAMED else _files(Path(source), image_size)
    if image_size is not None and raw.train.images.shape[2:] != (image_size, image_size):
        raise DataError(f"{source} has images of fixed size; image-size is for a directory or an archive")
    train = raw.train
    if limit_train is not None and limit_train < len(train):
        kept, _ = _stratified(train.labels.numpy(), limit_train)
        train = train.take(kept)
    num_validation = max(1, round(VALIDATION_FRACTION * len(train)))
    if len(train) - num_validation < 3:
        raise DataError(f"{source} leaves {len(train)} training images; at least 4 are needed")
    validation, rest = _stratified(train.labels.numpy(), num_validation)
    train, held_out = train.take(rest), train.take(validation)
    return Data(raw.name, raw.classes, _preprocessing(train), train, held_out, raw.test)


def _stratified(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted indices of `count` items, each class in its share, and those of the others."""
    random = np.random.default_rng(_SPLIT_SEED)
    order = random.permutation(len(labels))
    # The k-th of n items of a class gets rank (k + ½)/n: the lowest ranks take equally from all classes.
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    by_rank = order[np.argsort(rank[order], kind="stable")]
    return np.sort(by_rank[:count]), np.sort(by_rank[count:])


def _preprocessing(train: Split) -> Preprocessing:
    """Colour by number of channels; mean and standard deviation of the training pixels.

    A channel that is the same everywhere counts as having a standard deviation of 1.
    """
    channels = train.images.shape[1]
    flat = train.images.transpose(0, 1).reshape(channels, -1).numpy()
    histograms = [np.bincount(channel, minlength=256) / channel.size for channel in flat]
    levels = np.arange(256) / 255
    mean = [float(histogram @ levels) for histogram in histograms]
    std = [float(np.sqrt(histogram @ (levels - m) ** 2)) for histogram, m in zip(histograms, mean, strict=True)]
    if max(std) == 0:
        raise DataError("all training images are of one even colour")
    color: Literal["rgb", "gray"] = "rgb" if channels == 3 else "gray"
    return Preprocessing(color=color, mean=tuple(round(m, 6) for m in mean), std=tuple(round(s, 6) or 1.0 for s in std))


# --- directories and archives ---------------------------------------------------------------------------


def _files(path: Path, image_size: int | None) -> _Raw:
    if not path.exists():
        raise DataError(f"{path}: no such directory or archive, and no data set of that name ({', '.join(NAMED)})")
    name = _slug(path.resolve().name)
    members: dict[str, list[_File]] = {"train": [], "test": []}
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
    color, size = _common_form(members["train"], image_size)
    train, test = (_decode(members[split], classes, color, size) for split in ("train", "test"))
    return _Raw(name, classes, train, test)


@dataclass(frozen=True)
class _File:
    """One image: …/<split>/<label>/<name>"""

    path: PurePosixPath
    data: bytes

    @property
    def split(self) -> str:
        return self.path.parts[-3]

    @property
    def label(self) -> str:
        return self.path.parts[-2]


def _slug(filename: str) -> str:
    """Photos 2026.tar.gz -> photos-2026"""
    stem = re.sub(r"\.(tar|tar\.gz|tgz)$", "", filename.lower())
    return re.sub(r"[^a-z0-9._-]+", "-", stem).strip("._-")[:64] or "images"


def _walk(path: Path) -> Iterator[_File]:
    """Every image of the splits, in the order of (split, class, name), so that an archive equals its directory."""
    files = _in_directory(path) if path.is_dir() else _in_archive(path)
    yield from sorted(files, key=lambda file: (file.path.parts[-3:], file.path))


def _in_directory(path: Path) -> Iterator[_File]:
    for file in path.rglob("*"):
        place = PurePosixPath(file.relative_to(path).as_posix())
        if _is_image(place) and file.is_file():
            yield _File(place, file.read_bytes())


def _in_archive(path: Path) -> Iterator[_File]:
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
        raise DataError(f"{path} is neither a directory nor a readable .tar.gz: {_one_line(error)}") from error
    for place, data in found.items():
        yield _File(place, data)


def _is_image(place: PurePosixPath) -> bool:
    """…/train/frog/0001.jpg"""
    is_shown = place.suffix.lower() in _SUFFIXES and not place.name.startswith(".")
    return is_shown and len(place.parts) >= 3 and place.parts[-3] in ("train", "test")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _common_form(files: list[_File], image_size: int | None) -> tuple[Literal["rgb", "gray"], tuple[int, int]]:
    forms = Counter(_probe(file) for file in files)
    color: Literal["rgb", "gray"] = "gray" if all(form[0] == "gray" for form in forms) else "rgb"
    sizes = {form[1] for form in forms}
    if image_size is not None:
        return color, (image_size, image_size)
    if len(sizes) == 1:
        return color, sizes.pop()
    shorter = [min(size) for (_, size), count in forms.items() for _ in range(count)]
    side = min(_MAX_MIXED_SIZE, int(np.median(shorter)))
    return color, (side, side)


def _probe(file: _File) -> tuple[Literal["rgb", "gray"], tuple[int, int]]:
    try:
        return images.probe(file.data)
    except ImageError as error:
        raise DataError(f"{file.path}: {error}") from error


def _decode(
    files: list[_File],
    classes: tuple[str, ...],
    color: Literal["rgb", "gray"],
    size: tuple[int, int],
) -> Split:
    channels = 3 if color == "rgb" else 1
    pixels = np.empty((len(files), channels, *size), dtype=np.uint8)
    for row, file in zip(pixels, files, strict=True):
        try:
            row[:] = images.decode(file.data, color, size).transpose(2, 0, 1)
        except ImageError as error:
            raise DataError(f"{file.path}: {error}") from error
    labels = np.array([classes.index(file.label) for file in files], dtype=np.int64)
    return Split(torch.from_numpy(pixels), torch.from_numpy(labels))


# --- named data sets ------------------------------------------------------------------------------------


def _digits() -> _Raw:
    """scikit-learn's 1,797 digits, 8×8. They come without a split: every fifth of a class is a test image."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    whole = Split(torch.from_numpy(pixels), torch.from_numpy(bunch.target.astype(np.int64)))
    test, train = _stratified(bunch.target, round(len(whole) / 5))
    return _Raw("digits", tuple(str(digit) for digit in range(10)), whole.take(train), whole.take(test))


def _torchvision(name: str) -> _Raw:
    from torchvision import datasets

    kind = {
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
        "fashion_mnist": datasets.FashionMNIST,
    }[name]
    root = Path.home() / ".cache" / "checkpoint-zoo"
    try:
        # Some versions of torchvision print as they download; standard output is for results.
        with redirect_stdout(sys.stderr):
            train, test = (kind(root, train=is_train, download=True) for is_train in (True, False))
    except (OSError, RuntimeError) as error:
        raise DataError(f"{name} could not be downloaded to {root}: {_one_line(error)}") from error
    classes = tuple(str(label) for label in train.classes)
    return _Raw(name, classes, _from_torchvision(train), _from_torchvision(test))


def _from_torchvision(dataset: Any) -> Split:
    pixels = np.asarray(dataset.data)
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    labels = np.asarray(dataset.targets, dtype=np.int64)
    return Split(torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(labels))


NAMED = ("digits", "cifar10", "cifar100", "fashion_mnist")


def _named(name: str) -> _Raw:
    return _digits() if name == "digits" else _torchvision(name)
