"""Which images are the same picture: equal bytes or pixels, and near duplicates, as when one is saved again or resized.

Near duplicates share most bits of a difference hash (dHash: is a pixel brighter than its left neighbour?), and their
thumbnails agree to a few gray levels. Mirrored, cropped or brightened pictures are others.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from zoo.errors import DataError

if TYPE_CHECKING:
    from zoo.images.folder import ImageFile

# (height, width): halved, each row has 9 pixels and so 8 differences.
THUMBNAIL = (16, 18)
# Of 64. Where at most 7 differ one of eight bytes is equal, which is how candidates are found.
_MAX_BITS = 7
# Root mean square, in gray levels. Photos of 96×96 at half the size, as JPEG of quality 50, are at most 3 away.
_MAX_DIFFERENCE = 4.0
# Images of one even colour have no features; equal pixels tell them well enough.
_MIN_CONTRAST = 4.0
# Of images that many others resemble (digits on black): it bounds the time.
_MAX_CANDIDATES = 128


def equal(files: Sequence[ImageFile]) -> list[list[int]]:
    """Places of files that are the same to the byte, two or more in each list. Only those of equal length are read."""
    sizes = [file.size_bytes for file in files]
    times = Counter(sizes)
    keys: list[Hashable] = [_digest(file) if times[size] > 1 else file for file, size in zip(files, sizes, strict=True)]
    return groups(keys)


def groups(keys: Iterable[Hashable]) -> list[list[int]]:
    """Places that have equal keys, two or more in each list."""
    found: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        found.setdefault(key, []).append(place)
    return [places for places in found.values() if len(places) > 1]


def near(thumbnails: npt.NDArray[np.uint8], contents: Sequence[Hashable]) -> list[list[int]]:
    """Places of near duplicates and of equal contents, two or more in each list; none is in two of them.

    `thumbnails`: (n, *THUMBNAIL), gray.
    """
    parent = list(range(len(thumbnails)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = place = parent[parent[place]]
        return place

    for one, other in (*_pairs(groups(contents)), *_near_pairs(thumbnails)):
        parent[root(other)] = root(one)
    return groups(root(place) for place in range(len(thumbnails)))


def _pairs(equal: list[list[int]]) -> Iterator[tuple[int, int]]:
    return ((first, other) for first, *others in equal for other in others)


def _near_pairs(thumbnails: npt.NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    flat = thumbnails.reshape(len(thumbnails), prod(THUMBNAIL)).astype(np.float32)
    places = np.flatnonzero(flat.std(1) >= _MIN_CONTRAST)
    same = groups(row.tobytes() for row in thumbnails[places])
    yield from ((int(places[one]), int(places[other])) for one, other in _pairs(same))
    places = np.delete(places, [place for _, *others in same for place in others])
    flat = flat[places]
    hashes = _hashes(flat)
    for part in hashes.view(np.uint8).reshape(-1, 8).T:
        order = np.argsort(part, kind="stable")
        ends = np.searchsorted(part[order], part[order], "right")
        for index, end in enumerate(ends.tolist()):
            others = order[index + 1 : min(end, index + 1 + _MAX_CANDIDATES)]
            if len(others):
                one = order[index]
                others = others[np.bitwise_count(hashes[others] ^ hashes[one]) <= _MAX_BITS]
                differences = np.sqrt(np.square(flat[others] - flat[one]).mean(1))
                yield from ((int(places[one]), int(places[other])) for other in others[differences <= _MAX_DIFFERENCE])


def _hashes(flat: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    height, width = THUMBNAIL
    halves = flat.reshape(-1, height // 2, 2, width // 2, 2).mean((2, 4))  # (n, 8, 9)
    bits = (halves[:, :, 1:] > halves[:, :, :-1]).reshape(-1, 64)
    return np.packbits(bits, axis=1).view(np.uint64).reshape(-1)


def _digest(file: ImageFile) -> Hashable:
    try:
        return hashlib.blake2b(file.data).digest()
    except DataError:  # to be named when it is decoded
        return file
