"""What a JPEG file says of itself before its first scan, and how many scans there are; in bounded time."""

from __future__ import annotations

import re
import struct

from zoo.errors import ImageError
from zoo.images.picture import EXIF, MAX_SEGMENTS, TOO_MANY, Header, Picture, orientation

# Ordinary progressive files have 10; each is a pass over all coefficients (libjpeg-turbo's fuzzers stop at 500).
MAX_SCANS = 64

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


def read(data: bytes) -> Header:
    picture = Picture(data)
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
        elif marker == 0xE1 and data.startswith(EXIF, place + 4):
            exif = exif or data[place + 4 : end]
        is_adobe |= marker == 0xEE
        if marker in _METADATA:
            picture.leave_out(place, end)
        place = end
    else:
        raise ImageError(f"the image is a JPEG of over {MAX_SEGMENTS:,} segments; {TOO_MANY}")
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
        channels,
        color="gray" if channels == 1 else "rgb",
        orientation=orientation(exif),
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
    raise ImageError(f"the image is a JPEG of over {MAX_SEGMENTS:,} segments; {TOO_MANY}")


def _coefficient_bytes(width: int, height: int, components: bytes) -> int:
    """Two for each, of all components at their own resolution."""
    factors = [(sampling >> 4, sampling & 15) for sampling in components[1::3]]
    widest, highest = (max((pair[axis] for pair in factors), default=1) or 1 for axis in (0, 1))
    return 2 * width * height * sum(across * down for across, down in factors) // (widest * highest)
