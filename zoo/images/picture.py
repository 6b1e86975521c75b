"""The picture of a file, and what stands beside it. Of EXIF data one thing counts: the orientation, where it stands as
the standard has it (one SHORT from 1 to 8 in a first directory that is all there)."""

from __future__ import annotations

import struct

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
