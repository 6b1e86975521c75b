"""What a data set holds, whatever it is called: one SHA-256 for each split's images and labels.

Two folders may share a name, and one data set may lie in two orders, so the digest is of the set of images: each image
is hashed with its size and the name of its class, and the sorted hashes are hashed once more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def digest_of_images(pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.integer], classes: Sequence[str]) -> str:
    """SHA-256 in hexadecimal of uint8 (n, height, width, channels) and n labels; in any order it is the same."""
    shape = "×".join(map(str, pixels.shape[1:]))
    heads = [f"{shape} {name}\0".encode() for name in classes]
    hashes = sorted(
        hashlib.sha256(heads[label] + np.ascontiguousarray(image).tobytes()).digest()
        for image, label in zip(pixels, labels.tolist(), strict=True)
    )
    return hashlib.sha256(b"".join(hashes)).hexdigest()


def digest_of_indices(indices: npt.NDArray[np.integer]) -> str:
    """SHA-256 of the sorted indices as 64-bit little-endian integers."""
    return hashlib.sha256(np.sort(indices).astype("<i8").tobytes()).hexdigest()
