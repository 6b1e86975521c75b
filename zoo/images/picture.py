"""The picture of a file, what is said of it, and what stands beside it. Of EXIF data one thing counts: the orientation,
where it stands as the standard has it (one SHORT from 1 to 8 in a first directory that is all there)."""

from __future__ import annotations

import struct
from typing import Literal, NamedTuple

Color = Literal["rgb", "gray"]
# Those after WebP are read by Pillow alone (`decode.read`).
Format = Literal["png", "jpeg", "webp", "gif", "bmp", "tiff", "ppm", "avif", "heic"]

# An 81 megapixel PNG of 231 KiB takes 636 MiB to decode.
MAX_PIXELS = 16_000_000

# Segments before the first scan, chunks. A PNG of 32 MiB by libpng has 4,096.
MAX_SEGMENTS = 10_000
TOO_MANY = f"at most {MAX_SEGMENTS:,} are read: save it again without its metadata"

EXIF = b"Exif\0\0"
# As much as a JPEG segment holds.
MAX_EXIF = 65_535
_ORIENTATION, _SHORT = 0x0112, 3


class Picture:
    """A file without the parts that are left out, which are named in their order."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._kept: list[tuple[int, int]] = []
        self._start = 0

    def leave_out(self, start: int, end: int) -> None:
        if start < end:
            self._kept.append((self._start, start))
            self._start = end

    def bytes(self) -> bytes:
        if not self._kept:
            return self._data
        return b"".join(self._data[start:end] for start, end in (*self._kept, (self._start, len(self._data))))


def orientation(exif: bytes) -> int:
    exif = exif.removeprefix(EXIF)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return 1
    (start,) = struct.unpack_from(order + "I", exif, 4)
    if start + 2 > len(exif):
        return 1
    (count,) = struct.unpack_from(order + "H", exif, start)
    if start + 2 + 12 * count > len(exif):
        return 1
    for tag, kind, number, value in struct.iter_unpack(order + "HHIHxx", exif[start + 2 : start + 2 + 12 * count]):
        if tag == _ORIENTATION:
            return value if (kind, number) == (_SHORT, 1) and 1 <= value <= 8 else 1
    return 1


class Header(NamedTuple):
    """Width and height are as stored, before the orientation."""

    format: Format
    width: int
    height: int
    # Bits of a sample.
    depth: int
    # Stored: 1 gray or palette, 2 gray with alpha, 3, 4.
    channels: int
    color: Color
    # Of EXIF, 1 to 8; 1 is upright.
    orientation: int
    # What a decoder needs of the file.
    picture: bytes
    # How often decoding passes over the pixels.
    num_scans: int = 1
    # What a decoder keeps beside the pixels.
    coefficient_bytes: int = 0
    # The gray level or colour that is transparent, in the file's own depth.
    transparent: tuple[int, ...] | None = None
    # 8-bit gray or colour that every decoder reads alike: no palette, interlacing, alpha or Adobe's colour transform.
    is_plain: bool = False

    @property
    def shrink(self) -> int:
        """1, 2, 4 or 8: the least that brings a JPEG to `MAX_PIXELS`. Only size decides, never what it is for."""
        if self.width * self.height <= MAX_PIXELS:
            return 1
        return next((by for by in (2, 4) if _shrunk(self.width, by) * _shrunk(self.height, by) <= MAX_PIXELS), 8)

    @property
    def num_pixels(self) -> int:
        """Pixels after decoding."""
        return _shrunk(self.width, self.shrink) * _shrunk(self.height, self.shrink)

    @property
    def upright(self) -> tuple[int, int]:
        """(height, width) as people see them."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright decoded image."""
        height, width = _shrunk(self.height, self.shrink), _shrunk(self.width, self.shrink)
        return (width, height) if self.orientation >= 5 else (height, width)

    @property
    def work(self) -> int:
        """In pixels, about linear in the time that decoding takes."""
        return max(self.width * self.height * self.num_scans, len(self.picture))

    @property
    def memory_bytes(self) -> int:
        """About the peak while decoding, without the file itself."""
        stored = 16 if self.format == "webp" else 1 if (self.channels, self.depth) == (1, 8) else 4
        copies = 2 if self.orientation > 1 else 1
        return self.num_pixels * (stored * copies + 4) + self.coefficient_bytes


def _shrunk(side: int, by: int) -> int:
    return -(-side // by)
