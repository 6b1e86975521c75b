"""A cache of decoded archives on disk: the 60,000 JPEG files of CIFAR-10 are decoded once.

    $XDG_CACHE_HOME/checkpoint-zoo/decoded/<key>.npz        ~/.cache, where the variable names no directory

The key is of what the pixels depend on: the archive's bytes, what was asked for (size, fit, share of test images,
whether bad files are left out), the version of Pillow and `_VERSION`. A file that is not there, is damaged or cannot be
written costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
import zlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import PIL
from jaxtyping import Int64, UInt8

from zoo.store.directory import write_atomically
from zoo.store.user_cache import user_cache

log = logging.getLogger(__name__)

# Goes up where zoo/images gives other pixels or another split than before.
_VERSION = 3
# What numpy and zipfile raise over a file that is cut off or has flipped bits (tests/trainer/test_decoded.py).
_DAMAGE = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Decoded:
    """Labels are indices of `classes`, which is an array of strings."""

    classes: np.ndarray
    train_images: UInt8[np.ndarray, "num_train channels height width"]
    train_labels: Int64[np.ndarray, " num_train"]
    # Empty where some of the training images are to validate.
    validation_images: UInt8[np.ndarray, "num_validation channels height width"]
    validation_labels: Int64[np.ndarray, " num_validation"]
    test_images: UInt8[np.ndarray, "num_test channels height width"]
    test_labels: Int64[np.ndarray, " num_test"]
    # Sentences about the images.
    about: np.ndarray = field(default_factory=lambda: np.array([], dtype=str))
    findings: np.ndarray = field(default_factory=lambda: np.array([], dtype=str))


def decoded_once(archive: Path, asked: Hashable, decode: Callable[[], Decoded]) -> Decoded:
    """What `decode` returns for this archive and what is asked for, from the cache where it is there."""
    try:
        path = user_cache("decoded") / f"{_key(archive, asked)}.npz"
    except (OSError, RuntimeError) as error:  # the archive cannot be read, or there is no home directory
        log.warning("decoded images are not kept: %s", error)
        return decode()
    found = _read(path)
    if found is None:
        found = decode()
        _write(path, found)
    return found


def _key(archive: Path, asked: Hashable) -> str:
    with archive.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(f"{_VERSION} {PIL.__version__} {asked!r} {content}".encode()).hexdigest()[:32]


def _read(path: Path) -> Decoded | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Decoded(**{field.name: arrays[field.name] for field in fields(Decoded)})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except _DAMAGE as error:
        log.warning("%s is damaged (%s): the images are decoded again", path, error)
        return None


def _write(path: Path, decoded: Decoded) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **vars(decoded))
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        log.warning("decoded images are not kept: %s", error)
