"""Data sets as uint8 tensors: training, validation and test images with their labels.

The validation split is carved out of the training data, so that growth and schedules never see a test image.
"""

from __future__ import annotations

import hashlib
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from trainer.data.decoded import Decoded, decoded_once
from zoo.checkpoint.content import digest_of_images, digest_of_indices
from zoo.checkpoint.descriptor import SLUG, Content, Preprocessing
from zoo.checkpoint.descriptor import Dataset as DatasetRecord
from zoo.errors import DataError
from zoo.images import digits
from zoo.images import folder as image_folder
from zoo.images.check import common_form, require_memory
from zoo.images.decode import Fit, Form
from zoo.images.duplicates import groups
from zoo.images.files import READ
from zoo.images.folder import BadFiles, ImageFile, ImageFolder
from zoo.images.picture import Color
from zoo.images.splits import Indices, stratified, validation
from zoo.store.user_cache import user_cache


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
    # Of the validation images among the training data, as it was read; none where the data set has its own.
    validation_indices: Indices
    # Of a folder: what it holds, and what is made of it.
    about: tuple[str, ...] = ()
    # Sentences: what was left out, and what is odd about the rest.
    findings: tuple[str, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def in_colour(self) -> Data:
        """Gray images as the colour images that they look like, for networks that take these."""

        def thrice(split: Split) -> Split:
            return Split(split.images.repeat(1, 3, 1, 1), split.labels)

        [mean], [std] = self.preprocessing.mean, self.preprocessing.std
        update = {"color": "rgb", "mean": (mean,) * 3, "std": (std,) * 3}
        return replace(
            self,
            preprocessing=self.preprocessing.model_copy(update=update),
            train=thrice(self.train),
            validation=thrice(self.validation),
            test=thrice(self.test),
        )

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
            content=self.content,
        )

    @cached_property
    def content(self) -> Content:
        def digest(split: Split) -> str:
            pixels = split.images.cpu().permute(0, 2, 3, 1).contiguous().numpy()
            return digest_of_images(pixels, split.labels.cpu().numpy(), self.classes)

        return Content(
            train=digest(self.train),
            validation=digest(self.validation),
            test=digest(self.test),
            split=digest_of_indices(self.validation_indices),
        )


@dataclass(frozen=True)
class _Raw:
    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    # Of the data set's own; else some of the training images validate.
    validation: Split | None = None
    about: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()


def load(
    source: str,
    *,
    limit_train: int | None = None,
    image_size: int | None = None,
    fit: Fit = "crop",
    name: str | None = None,
    skip_bad: bool = False,
    test_share: float | None = None,
) -> Data:
    """`source`: a name of `NAMED`, or a directory or archive of images (`zoo.images.folder.read`).

    `name` is what the data set is called, in place of the path's last part; a slug, as `Photos 2026` is not.
    `limit_train` keeps that many training images (before the validation split), of each class its share. Files that
    cannot be decoded are an error that names them all; with `skip_bad` they are left out. `test_share` of a folder
    without test images becomes these. Raises DataError, also where a class is left without training images.
    """
    if limit_train is not None and limit_train < 1:
        raise DataError(f"limit-train should be at least 1, is {limit_train}")
    if name is not None and not re.fullmatch(SLUG, name):
        raise DataError(f"a data set's name has small letters, digits, dots, dashes and underscores, not {name!r}")
    if source == "digits":
        raw = _digits()
    elif source in NAMED:
        raw = _torchvision(source)
    else:
        raw = _files(Path(source), image_size, fit, skip_bad, test_share)
    if image_size is not None and raw.train.images.shape[2:] != (image_size, image_size):
        raise DataError(f"{source} has images of fixed size; image-size is for a directory or an archive")
    train = raw.train
    if limit_train is not None and limit_train < len(train):
        kept, _ = stratified(train.labels.numpy(), limit_train)
        train = train.take(kept)
    held_out, indices = raw.validation, np.array([], dtype=np.int64)
    if held_out is None:
        indices, rest = validation(train.labels.numpy())
        train, held_out = train.take(rest), train.take(indices)
    if len(train) < 3:
        raise DataError(f"{source} leaves {len(train) + len(indices)} training images; at least 4 are needed")
    _check_trained(train, raw.classes)
    if not len(raw.test):
        raise DataError(
            f"{source} leaves no test image, though a share of each class was to be set aside: near duplicates stay on "
            "one side, and each class is a single group of them; add other images, or a test/ folder"
        )
    return Data(
        name or raw.name,
        raw.classes,
        _preprocessing(train, fit),
        train,
        held_out,
        raw.test,
        indices,
        raw.about,
        (*_few(held_out), *raw.findings),
    )


def _few(held_out: Split) -> Iterator[str]:
    """Where even a network without mistakes could be one that guesses: it has less than two standard errors more."""
    count = len(held_out)
    chance = int(held_out.labels.bincount().max()) / count
    if chance + 2 * (chance * (1 - chance) / count) ** 0.5 >= 1:
        images = "image" if count == 1 else "images"
        yield (
            f"only {count} validation {images}, of which guessing the commonest class gets {chance:.0%} right: what "
            "they say of a network is little better than chance; add images, or a validation/ folder"
        )


def _check_trained(train: Split, classes: tuple[str, ...]) -> None:
    """Raises DataError."""
    counts = torch.bincount(train.labels, minlength=len(classes)).tolist()
    if names := [label for label, count in zip(classes, counts, strict=True) if not count]:
        raise DataError(
            f"no training image is left of {len(names)} of {len(classes)} classes ({image_folder.named(names)}) once "
            "validation and test images are set aside: add images of them, or leave their folders out"
        )


def _preprocessing(train: Split, fit: Fit) -> Preprocessing:
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
    color: Color = "rgb" if channels == 3 else "gray"
    return Preprocessing(
        color=color,
        fit=None if fit == "squeeze" else fit,
        mean=tuple(round(m, 6) for m in mean),
        std=tuple(round(s, 6) or 1.0 for s in std),
    )


# --- directories and archives ---------------------------------------------------------------------------


def _files(path: Path, image_size: int | None, fit: Fit, skip_bad: bool, test_share: float | None) -> _Raw:
    if not path.exists():
        raise DataError(f"{path}: no such directory or archive, and no data set of that name ({', '.join(NAMED)})")

    def decode() -> Decoded:
        return _decoded(image_folder.read(path, test_share), image_size, fit, skip_bad)

    asked = (image_size, fit, skip_bad, test_share, sorted(READ))
    found = decoded_once(path, asked, decode) if path.is_file() else decode()
    train, validation, test = (
        Split(torch.from_numpy(images), torch.from_numpy(labels))
        for images, labels in (
            (found.train_images, found.train_labels),
            (found.validation_images, found.validation_labels),
            (found.test_images, found.test_labels),
        )
    )
    return _Raw(
        image_folder.name_of(path),
        tuple(map(str, found.classes)),
        train,
        test,
        validation if len(validation) else None,
        tuple(map(str, found.about)),
        tuple(map(str, found.findings)),
    )


def _decoded(folder: ImageFolder, image_size: int | None, fit: Fit, skip_bad: bool) -> Decoded:
    """One file after the other, each resized at once: memory holds one photo at its full size."""
    bad = BadFiles()
    form, sizes = common_form(map(bad.probe, folder.train), image_size, fit)
    require_memory(len(folder.files), form)
    pixels = [_pixels(files, form, bad) for files in (folder.train, folder.validation, folder.test)]
    if not skip_bad:
        bad.refuse()
    whole = folder.without(bad)
    if bad:
        kept = ([file not in bad for file in files] for files in (folder.train, folder.validation, folder.test))
        pixels = [rows[good] for rows, good in zip(pixels, kept, strict=True)]
    # Of the pixels that are trained on: the same picture in another format or with other metadata counts too.
    equal = groups(hashlib.blake2b(row.data).digest() for rows in pixels for row in rows)
    leaks = [*image_folder.leaks(whole.files, equal), *image_folder.in_two_classes(whole.files, equal)]
    return Decoded(
        classes=np.array(whole.classes),
        train_images=pixels[0],
        train_labels=whole.labels(whole.train),
        validation_images=pixels[1],
        validation_labels=whole.labels(whole.validation),
        test_images=pixels[2],
        test_labels=whole.labels(whole.test),
        about=np.array([whole.summary, sizes], dtype=str),
        findings=np.array([*whole.findings, *leaks], dtype=str),
    )


def _pixels(files: Sequence[ImageFile], form: Form, bad: BadFiles) -> np.ndarray:
    """uint8 (n, channels, height, width); rows of bad files mean nothing."""
    pixels = np.empty((len(files), form.channels, *form.size), dtype=np.uint8)
    for row, file in zip(pixels, files, strict=True):
        bad.decode(file, form, row.transpose(1, 2, 0))
    return pixels


# --- named data sets ------------------------------------------------------------------------------------


def _digits() -> _Raw:
    pixels, labels = digits.images_and_labels()
    train, test = digits.split(labels)
    whole = Split(torch.from_numpy(pixels[:, None]), torch.from_numpy(labels))
    return _Raw("digits", digits.CLASSES, whole.take(train), whole.take(test))


def _torchvision(name: str) -> _Raw:
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100, "fashion_mnist": datasets.FashionMNIST}[name]
    root = user_cache("datasets")
    try:
        # Some versions of torchvision print as they download; standard output is for results.
        with redirect_stdout(sys.stderr):
            train, test = (kind(root, train=is_train, download=True) for is_train in (True, False))
    except (OSError, RuntimeError) as error:
        raise DataError(f"{name} could not be downloaded to {root}: {' '.join(str(error).split())}") from error
    classes = tuple(str(label) for label in train.classes)
    return _Raw(name, classes, _from_torchvision(train), _from_torchvision(test))


def _from_torchvision(dataset: Any) -> Split:
    pixels = np.asarray(dataset.data)
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    labels = np.asarray(dataset.targets, dtype=np.int64)
    return Split(torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(labels))


NAMED = ("digits", "cifar10", "cifar100", "fashion_mnist")
