"""Plain PNG and JPEG files to pixels, faster than by Pillow and to the same numbers. Needs the extra `fast-images`.

Plain is what two codecs are sure to read alike (`Header.is_plain`): 8-bit gray or RGB without transparency,
interlacing, colour numbers or Adobe's colour transform; upright, whole, and of at most 16 megapixels. All else is
`zoo.images.decode`'s to decode or to refuse.

One difference is left: a PNG whose chunks all have their right CRC-32, and whose compressed pixels end in a wrong
Adler-32, is decoded here and damage to Pillow. Nothing but a deliberate edit makes such a file.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt
import pyspng
import simplejpeg

from zoo.images.picture import Header

_MAX_PNG_PIXELS = 262_144
_CHUNK = struct.Struct(">I4s")


def decode(header: Header) -> npt.NDArray[np.uint8] | None:
    """uint8 (height, width, channels) with one channel for gray; None where Pillow should look at the file."""
    if not _is_plain(header):
        return None
    try:
        if header.format == "png":
            if not _is_intact(header.picture):
                return None
            pixels = pyspng.load(header.picture)
        else:
            # strict: what the codec warns of may look different in another version of it.
            colors = "GRAY" if header.channels == 1 else "RGB"
            pixels = simplejpeg.decode_jpeg(header.picture, colors, strict=True)
    except (ValueError, RuntimeError):
        return None
    return pixels.reshape(header.height, header.width, header.channels)


def _is_plain(header: Header) -> bool:
    # pyspng lets no other thread run meanwhile: 0.6 s for 16 megapixels. Pillow does.
    is_short = header.format == "jpeg" or header.num_pixels <= _MAX_PNG_PIXELS
    return header.is_plain and header.orientation == 1 and header.shrink == 1 and is_short


def _is_intact(png: bytes) -> bool:
    """Header, pixels and end, each with its right checksum; the codec looks at none that it need not read."""
    place = 8
    while place < len(png):
        length, kind = _CHUNK.unpack_from(png, place)
        end = place + 8 + length
        if kind not in (b"IHDR", b"IDAT", b"IEND"):
            return False
        if zlib.crc32(png[place + 4 : end]) != int.from_bytes(png[end : end + 4]):
            return False
        place = end + 4
    return True
