"""What an image file says of itself, read in bounded time before anything is decoded.

Decoders pay for more than bytes and pixels: every JPEG scan passes over all pixels once more, every segment of a JPEG
and every chunk of a PNG is a turn of a loop, compressed comments unfold to gigabytes. So the structure is walked here
first, in milliseconds for any file, and what is over a limit is refused with the limit.

The walk also finds what is *the picture* of a JPEG or PNG: `Header.picture` is the file without comments, EXIF data,
XMP, colour profiles and further frames. Decoders see that only, so that metadata, whole or damaged, never decides over
a picture. Of EXIF one thing counts: the orientation, where it stands as the standard has it (one SHORT from 1 to 8 in
a first directory that is all there). Everything else is as if there were none.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import Literal, NamedTuple

from zoo.errors import ImageError

Color = Literal["rgb", "gray"]
# The last three in files of one's own only (`images.read`).
Format = Literal["png", "jpeg", "webp", "gif", "bmp", "tiff"]

# An 81 megapixel PNG of 231 KiB takes 636 MiB to decode.
MAX_PIXELS = 16_000_000
# JPEG is shrunk to the half, quarter or eighth while it is decoded: phones make 108 and 200 megapixels.
MAX_JPEG_PIXELS = 256_000_000
# JPEG's own limit. A PNG row more than that long takes more memory to resize than to decode.
MAX_SIDE = 65_535
# Ordinary progressive files have 10; each is a pass over all coefficients (libjpeg-turbo's fuzzers stop at 500).
MAX_SCANS = 64
# Of several scans a JPEG decoder keeps all coefficients, at the full size.
MAX_COEFFICIENT_BYTES = 256 * 2**20
# Segments before the first scan, chunks. A PNG of 32 MiB by libpng has 4,096.
MAX_SEGMENTS = 10_000

_TOO_MANY = f"at most {MAX_SEGMENTS:,} are read: save it again without its metadata"


class ForeignError(ImageError):
    """Of another format, or no image at all."""


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
        """That come out of decoding."""
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


def read(data: bytes) -> Header:
    """Of a PNG, JPEG or WebP file. Raises ImageError where it is none, or over a limit."""
    try:
        if data.startswith(_PNG):
            header = _png(data)
        elif data.startswith(_JPEG):
            header = _jpeg(data)
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


def _shrunk(side: int, by: int) -> int:
    return -(-side // by)


# --- what it is -----------------------------------------------------------------------------------------

_FOREIGN: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(start, re.DOTALL | (re.IGNORECASE if b"<" in start else 0)), name)
    for start, name in (
        (rb".{4}ftyp(?:hei|hev|mif1|msf1)", "HEIC"),
        (rb".{4}ftypavi[fs]", "AVIF"),
        (rb".{4}ftyp", "a video"),
        (rb"GIF8[79]a", "GIF"),
        (rb"BM.{12}", "BMP"),
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


class _Picture:
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


# --- PNG ------------------------------------------------------------------------------------------------

_PNG = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")
_IHDR = struct.Struct(">IIBBBBB")
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def _png(data: bytes) -> Header:
    length, kind = _CHUNK.unpack_from(data, 8)
    width, height, depth, color, _, _, interlaced = _IHDR.unpack_from(data, 16)
    if (length, kind) != (13, b"IHDR") or color not in _PNG_CHANNELS:
        raise ImageError("the image is damaged: a PNG whose header is none")
    picture = _Picture(data)
    place, exif, transparent, is_ended = 8, b"", None, False
    for _ in range(MAX_SEGMENTS):
        if place + 12 > len(data) or is_ended:
            break
        length, kind = _CHUNK.unpack_from(data, place)
        end = place + 12 + length
        if kind == b"IHDR" and place > 8:
            raise ImageError("the image is damaged: a PNG with two headers")
        if kind == b"eXIf":
            exif = exif or data[place + 8 : min(end - 4, place + 8 + _MAX_EXIF)]
        elif kind == b"tRNS" and color in (0, 2):
            transparent = _levels(data[place:end], _PNG_CHANNELS[color], depth)
        # Of ancillary chunks (a small first letter), only a palette's transparency is of the picture.
        if kind[:1].islower() and kind.isalpha() and (kind != b"tRNS" or color != 3):
            picture.leave_out(place, end)
        is_ended = kind == b"IEND"
        place = end
    else:
        raise ImageError(f"the image is a PNG of over {MAX_SEGMENTS:,} chunks; {_TOO_MANY}")
    if is_ended:
        picture.leave_out(place, len(data))
    return Header(
        "png",
        width,
        height,
        depth,
        channels=_PNG_CHANNELS[color],
        color="gray" if color in (0, 4) else "rgb",
        orientation=_orientation(exif),
        picture=picture.bytes(),
        transparent=transparent,
        is_plain=depth == 8 and color in (0, 2) and not interlaced and transparent is None and is_ended,
    )


def _levels(chunk: bytes, channels: int, depth: int) -> tuple[int, ...]:
    """Of each 16 bits as many count as a sample has. Raises ImageError."""
    if len(chunk) != 12 + 2 * channels or zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:]):
        raise ImageError("the image is truncated or damaged: a PNG whose tRNS chunk names no colour")
    return tuple(level & ((1 << depth) - 1) for level in struct.unpack_from(f">{channels}H", chunk, 8))


# --- JPEG -----------------------------------------------------------------------------------------------

_JPEG = b"\xff\xd8"
# As libjpeg does, garbage and fill bytes before a marker are passed over.
_MARKER = re.compile(rb"\xff[\x01-\xfe]")
_MAX_GARBAGE = 2**16
# In a scan, a marker is what is neither an escaped 0xFF nor a restart.
_AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
# Each takes 30 ns to pass over. Of a photo's bytes one in 256 is such: 256 MiB of it have as many.
_MAX_ESCAPES = 2**20
_SEGMENT = struct.Struct(">BBH")
_FRAME = struct.Struct(">BHHB")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))
_SOS, _EOI = 0xDA, 0xD9
# APP1 to 13 and 15, comments. APP0 (JFIF) and 14 (Adobe) say which colours the components are.
_METADATA = frozenset((*range(0xE1, 0xEE), 0xEF, 0xFE))


def _jpeg(data: bytes) -> Header:
    picture = _Picture(data)
    place, exif, is_adobe = 2, b"", False
    frame: tuple[int, int, int, int, int, bytes] | None = None
    for _ in range(MAX_SEGMENTS):
        prefix, marker, length = _SEGMENT.unpack_from(data, place)
        if prefix != 0xFF or marker in (0, 0xFF):
            found = _MARKER.search(data, place, place + _MAX_GARBAGE)
            if found is None:
                raise ImageError("the image is truncated or damaged: a JPEG without a picture")
            picture.leave_out(place, found.start())
            place = found.start()
            _, marker, length = _SEGMENT.unpack_from(data, place)
        if marker in (_SOS, _EOI):
            break
        end = place + 2 if marker in _ALONE else place + 2 + length
        if marker in _FRAMES:
            if frame is not None:
                raise ImageError("the image is damaged: a JPEG with two frames")
            frame = (marker, *_FRAME.unpack_from(data, place + 4), data[place + 10 : end])
        elif marker == 0xE1 and data.startswith(_EXIF, place + 4):
            exif = exif or data[place + 4 : end]
        is_adobe |= marker == 0xEE
        if marker in _METADATA:
            picture.leave_out(place, end)
        place = end
    else:
        raise ImageError(f"the image is a JPEG of over {MAX_SEGMENTS:,} segments; {_TOO_MANY}")
    if frame is None or marker != _SOS:
        raise ImageError("the image is truncated or damaged: a JPEG without a picture")
    kind, depth, height, width, channels, components = frame
    num_scans = _num_scans(data, place)
    # A scan of only some components is one of several.
    is_kept_whole = kind not in (0xC0, 0xC1) or data[place + 4] < channels
    return Header(
        "jpeg",
        width,
        height,
        depth,
        channels=channels,
        color="gray" if channels == 1 else "rgb",
        orientation=_orientation(exif),
        picture=picture.bytes(),
        num_scans=num_scans,
        coefficient_bytes=_coefficient_bytes(width, height, components) if is_kept_whole else 0,
        is_plain=depth == 8 and channels in (1, 3) and kind in (0xC0, 0xC1, 0xC2) and not is_adobe,
    )


def _num_scans(data: bytes, first: int) -> int:
    """Raises ImageError where there are too many. Counting stops there, so that it takes no longer than for a photo."""
    # What looks like the start of a scan may stand behind the picture, where phones put a video.
    at_most = data.count(b"\xff\xda", first)
    if at_most <= MAX_SCANS:
        return at_most
    if data.count(b"\xff", first) <= _MAX_ESCAPES:
        place = first
        for num_scans in range(1, MAX_SCANS + 1):
            place += 2 + int.from_bytes(data[place + 2 : place + 4])
            place = _next_scan(data, place)
            if place < 0:
                return num_scans
    raise ImageError(
        f"the image is a JPEG of over {MAX_SCANS} scans, each of which is a pass over all of it; save it again as an "
        "ordinary JPEG"
    )


def _next_scan(data: bytes, place: int) -> int:
    """Where it starts; -1 at the end of the picture."""
    for _ in range(MAX_SEGMENTS):
        found = _AFTER_SCAN.search(data, place)
        if found is None or data[found.start() + 1] == _EOI:
            return -1
        place = found.start()
        if data[place + 1] == _SOS:
            return place
        place += 2 if data[place + 1] in _ALONE else 2 + int.from_bytes(data[place + 2 : place + 4])
    raise ImageError(f"the image is a JPEG of over {MAX_SEGMENTS:,} segments; {_TOO_MANY}")


def _coefficient_bytes(width: int, height: int, components: bytes) -> int:
    """Two for each, of all components at their own resolution."""
    factors = [(sampling >> 4, sampling & 15) for sampling in components[1::3]]
    widest, highest = (max((pair[axis] for pair in factors), default=1) or 1 for axis in (0, 1))
    return 2 * width * height * sum(across * down for across, down in factors) // (widest * highest)


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
    return Header("webp", width, height, 8, channels=4, color="rgb", orientation=_orientation(exif), picture=data)


def _webp_exif(data: bytes) -> bytes:
    place = 12
    for _ in range(MAX_SEGMENTS):
        if place + 8 > len(data):
            return b""
        kind, length = _RIFF_CHUNK.unpack_from(data, place)
        if kind == b"EXIF":
            return data[place + 8 : place + 8 + min(length, _MAX_EXIF)]
        place += 8 + length + (length & 1)
    raise ImageError(f"the image is a WebP of over {MAX_SEGMENTS:,} chunks; {_TOO_MANY}")


# --- EXIF -----------------------------------------------------------------------------------------------

_EXIF = b"Exif\0\0"
# As much as a JPEG segment holds.
_MAX_EXIF = 65_535
_ORIENTATION, _SHORT = 0x0112, 3


def _orientation(exif: bytes) -> int:
    exif = exif.removeprefix(_EXIF)
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
