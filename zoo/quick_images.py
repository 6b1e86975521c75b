"""Ordinary PNG and JPEG files to pixels, several times faster than by Pillow and to the same numbers.

Ordinary is what two codecs are sure to read alike: 8-bit gray or RGB without transparency, interlacing, EXIF data,
colour numbers or anything that Pillow might take for an orientation; whole, and of at most 16 megapixels. All else is
`zoo.images`' to decode or to refuse: nothing is refused here.

One difference is left: a PNG whose chunks all have their right CRC-32, and whose compressed pixels end in a wrong
Adler-32, is decoded here and damage to Pillow. Nothing but a deliberate edit makes such a file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyspng
import simplejpeg

from zoo.images import MAX_PIXELS

_PNG_START = struct.Struct(">8sI4sIIBBBBB")
_CHUNK = struct.Struct(">I4s")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_IEND = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_PNG_COLORS = {0: 1, 2: 3}
# Lengths of the chunks before the pixels that say nothing which either decoder acts on.
_HARMLESS = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"tIME": 7}

_JPEG_SEGMENT = struct.Struct(">BBH")
_JPEG_FRAME = struct.Struct(">BHHB")
# APP0 (JFIF), comment, tables and restart interval. EXIF, ICC profiles, Adobe's transform and MPO come in others.
_JPEG_TABLES = (0xE0, 0xFE, 0xDB, 0xC4, 0xDD)
_JPEG_FRAMES = (0xC0, 0xC1, 0xC2)


@dataclass(frozen=True, slots=True)
class Ordinary:
    kind: Literal["png", "jpeg"]
    height: int
    width: int
    channels: int


def recognize(data: bytes) -> Ordinary | None:
    """What the header says, if the file is an ordinary one."""
    if data.startswith(_SIGNATURE):
        found = _png(data)
    elif data.startswith(b"\xff\xd8"):
        found = _jpeg(data)
    else:
        return None
    return found if found is not None and 0 < found.height * found.width <= MAX_PIXELS else None


def num_pixels(files: Sequence[bytes]) -> float:
    """How many there are to decode; infinity where a file is not an ordinary one."""
    return sum(found.height * found.width if (found := recognize(data)) else inf for data in files)


def decode(data: bytes) -> npt.NDArray[np.uint8] | None:
    """uint8 (height, width, channels) with one channel for gray; None where Pillow should look at the file."""
    ordinary = recognize(data)
    if ordinary is None:
        return None
    try:
        if ordinary.kind == "png":
            pixels = pyspng.load(data)
        else:
            # strict: what the codec warns of may look different in another version of it.
            pixels = simplejpeg.decode_jpeg(data, "GRAY" if ordinary.channels == 1 else "RGB", strict=True)
    except (ValueError, RuntimeError):
        return None
    return pixels.reshape(ordinary.height, ordinary.width, ordinary.channels)


def _png(data: bytes) -> Ordinary | None:
    if len(data) < 33 or not data.endswith(_IEND):
        return None
    _, length, kind, width, height, depth, color, compression, filtering, interlaced = _PNG_START.unpack_from(data)
    if (length, kind, depth, compression, filtering, interlaced) != (13, b"IHDR", 8, 0, 0, 0):
        return None
    if color not in _PNG_COLORS or not _is_intact(data, 8, 13):
        return None
    place, last = 33, len(data) - len(_IEND)
    seen_pixels = False
    while place < last:
        length, kind = _CHUNK.unpack_from(data, place)
        if kind == b"IDAT":
            seen_pixels = True
        elif seen_pixels or _HARMLESS.get(kind) != length:
            return None
        # Of the pixels' too: the codec does not look at the checksum of what it need not read to the end.
        if not _is_intact(data, place, length):
            return None
        place += 12 + length
    return Ordinary("png", height, width, _PNG_COLORS[color]) if seen_pixels and place == last else None


def _is_intact(data: bytes, place: int, length: int) -> bool:
    end = place + 8 + length
    return zlib.crc32(data[place + 4 : end]) == int.from_bytes(data[end : end + 4])


def _jpeg(data: bytes) -> Ordinary | None:
    place = 2
    while place + 10 <= len(data):
        prefix, marker, length = _JPEG_SEGMENT.unpack_from(data, place)
        if prefix != 0xFF:
            return None
        if marker in _JPEG_FRAMES:
            depth, height, width, channels = _JPEG_FRAME.unpack_from(data, place + 4)
            return Ordinary("jpeg", height, width, channels) if depth == 8 and channels in (1, 3) else None
        if marker not in _JPEG_TABLES or length < 2:
            return None
        place += 2 + length
    return None
