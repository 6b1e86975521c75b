"""What an image file says of itself, read in bounded time before anything is decoded.

Decoders pay for more than bytes and pixels: every JPEG scan passes over all pixels once more, every segment of a JPEG
and every chunk of a PNG is a turn of a loop, compressed comments unfold to gigabytes. So the structure is walked here
first, in milliseconds for any file, and what is over a limit is refused with the limit.

The walk also finds what is *the picture* of a JPEG or PNG: `Header.picture` is the file without comments, EXIF data,
XMP, colour profiles and further frames. Decoders see that only, so that metadata, whole or damaged, never decides over
a picture.
"""

from __future__ import annotations

import re
import struct
import zlib

from zoo.errors import ImageError
from zoo.images import jpeg
from zoo.images.picture import MAX_EXIF, MAX_PIXELS, MAX_SEGMENTS, TOO_MANY, Picture, orientation
from zoo.images.picture import Header as Header

# JPEG is shrunk to the half, quarter or eighth while it is decoded: phones make 108 and 200 megapixels.
MAX_JPEG_PIXELS = 256_000_000
# JPEG's own limit. A PNG row more than that long takes more memory to resize than to decode.
MAX_SIDE = 65_535
# Of several scans a JPEG decoder keeps all coefficients, at the full size.
MAX_COEFFICIENT_BYTES = 256 * 2**20


class ForeignError(ImageError):
    """Another format, or no image at all."""


def read(data: bytes) -> Header:
    """Reads the header of a PNG, JPEG or WebP file. Raises ImageError for other bytes, and over a limit."""
    try:
        if data.startswith(_PNG):
            header = _png(data)
        elif data.startswith(_JPEG):
            header = jpeg.read(data)
        elif is_read(data):
            header = _webp(data)
        else:
            raise ForeignError(foreign(data))
    except (struct.error, IndexError):
        raise ImageError("the image is truncated or damaged: its header is cut off") from None
    _check_size(header)
    return header


def check_size(width: int, height: int, limit: int = MAX_PIXELS) -> None:
    """Raises ImageError."""
    if not width or not height:
        raise ImageError(f"the image is damaged: it says that it has {width}×{height} pixels")
    if width * height > limit or max(width, height) > MAX_SIDE:
        raise ImageError(
            f"the image has {width}×{height} pixels; at most 16 megapixels are decoded, of a JPEG "
            f"{MAX_JPEG_PIXELS // 1_000_000}, and of a side {MAX_SIDE:,} pixels"
        )


def _check_size(header: Header) -> None:
    check_size(header.width, header.height, MAX_JPEG_PIXELS if header.format == "jpeg" else MAX_PIXELS)
    if header.coefficient_bytes > MAX_COEFFICIENT_BYTES:
        raise ImageError(
            f"the image has {header.width}×{header.height} pixels in {header.num_scans} scans, which take "
            f"{header.coefficient_bytes >> 20} MiB to decode; at most {MAX_COEFFICIENT_BYTES >> 20} MiB are taken: "
            "save it as a baseline (not progressive) JPEG"
        )


_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"

# --- what it is -----------------------------------------------------------------------------------------

_FOREIGN: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(start, re.DOTALL | (re.IGNORECASE if b"<" in start else 0)), name)
    for start, name in (
        (rb".{4}ftyp(?:hei|hev|mif1|msf1)", "HEIC"),
        (rb".{4}ftypavi[fs]", "AVIF"),
        (rb".{4}ftyp", "a video"),
        (rb"GIF8[79]a", "GIF"),
        (rb"BM.{12}", "BMP"),
        (rb"P[1-6]\s", "PPM"),
        (rb"II\*\0|MM\0\*", "TIFF or a camera's raw file"),
        (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
        (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
        (rb"%PDF-", "PDF"),
        (rb"8BPS", "Photoshop's"),
        (rb"\s*<(?:\?xml|svg)", "SVG or XML"),
        (rb"\s*<(?:!doctype html|html)", "a web page"),
        (rb"\x1f\x8b", "compressed by gzip"),
    )
)


def is_read(data: bytes) -> bool:
    """Whether it begins as a PNG, JPEG or WebP file does."""
    return data.startswith((_PNG, _JPEG)) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def foreign(data: bytes, read_here: str = "PNG, JPEG or WebP") -> str:
    """Why the bytes are refused: what they seem to be, and what is read."""
    name = next(
        (name for start, name in _FOREIGN if start.match(data[:256].lower() if b"<" in data[:64] else data)), ""
    )
    return f"{len(data)} bytes that are no {read_here} image" + (f" but {name}: save it as JPEG or PNG" if name else "")


# --- PNG ------------------------------------------------------------------------------------------------

_CHUNK = struct.Struct(">I4s")
_IHDR = struct.Struct(">IIBBBBB")
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def _png(data: bytes) -> Header:
    length, kind = _CHUNK.unpack_from(data, 8)
    width, height, depth, color, _, _, interlaced = _IHDR.unpack_from(data, 16)
    if (length, kind) != (13, b"IHDR") or color not in _PNG_CHANNELS:
        raise ImageError("the image is damaged: a PNG whose header is none")
    picture = Picture(data)
    place, exif, transparent, is_ended = 8, b"", None, False
    for _ in range(MAX_SEGMENTS):
        if place + 12 > len(data) or is_ended:
            break
        length, kind = _CHUNK.unpack_from(data, place)
        end = place + 12 + length
        if kind == b"IHDR" and place > 8:
            raise ImageError("the image is damaged: a PNG with two headers")
        if kind == b"eXIf":
            exif = exif or data[place + 8 : min(end - 4, place + 8 + MAX_EXIF)]
        elif kind == b"tRNS" and color in (0, 2):
            transparent = _levels(data[place:end], _PNG_CHANNELS[color], depth)
        # Of ancillary chunks (a small first letter), only a palette's transparency is of the picture.
        if kind[:1].islower() and kind.isalpha() and (kind != b"tRNS" or color != 3):
            picture.leave_out(place, end)
        is_ended = kind == b"IEND"
        place = end
    else:
        raise ImageError(f"the image is a PNG of over {MAX_SEGMENTS:,} chunks; {TOO_MANY}")
    if is_ended:
        picture.leave_out(place, len(data))
    return Header(
        "png",
        width,
        height,
        depth,
        channels=_PNG_CHANNELS[color],
        color="gray" if color in (0, 4) else "rgb",
        orientation=orientation(exif),
        picture=picture.bytes(),
        transparent=transparent,
        is_plain=depth == 8 and color in (0, 2) and not interlaced and transparent is None and is_ended,
    )


def _levels(chunk: bytes, channels: int, depth: int) -> tuple[int, ...]:
    """Of each 16 bits as many count as a sample has. Raises ImageError."""
    if len(chunk) != 12 + 2 * channels or zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:]):
        raise ImageError("the image is truncated or damaged: a PNG whose tRNS chunk names no colour")
    return tuple(level & ((1 << depth) - 1) for level in struct.unpack_from(f">{channels}H", chunk, 8))


# --- WebP -----------------------------------------------------------------------------------------------

_RIFF_CHUNK = struct.Struct("<4sI")


def _webp(data: bytes) -> Header:
    kind = data[12:16]
    exif = b""
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[place : place + 3], "little") for place in (24, 27))
        if data[20] & 0x08:
            exif = _webp_exif(data)
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise ImageError("the image is truncated or damaged: a WebP without a picture")
    return Header("webp", width, height, 8, channels=4, color="rgb", orientation=orientation(exif), picture=data)


def _webp_exif(data: bytes) -> bytes:
    place = 12
    for _ in range(MAX_SEGMENTS):
        if place + 8 > len(data):
            return b""
        kind, length = _RIFF_CHUNK.unpack_from(data, place)
        if kind == b"EXIF":
            return data[place + 8 : place + 8 + min(length, MAX_EXIF)]
        place += 8 + length + (length & 1)
    raise ImageError(f"the image is a WebP of over {MAX_SEGMENTS:,} chunks; {TOO_MANY}")
