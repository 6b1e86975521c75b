"""From image files to pixels, the same for training and for serving, so that both see the same numbers."""

from __future__ import annotations

import ctypes
import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from zoo.errors import ImageError
from zoo.images import header as image_header
from zoo.images.picture import MAX_PIXELS as MAX_PIXELS
from zoo.images.picture import Color, Format, Header, orientation

Pixels = npt.NDArray[np.uint8]
# How an image of another shape becomes that of the input: squeezed, or the middle of it cut out.
Fit = Literal["squeeze", "crop"]


class Form(NamedTuple):
    """What a network takes; `size` is (height, width)."""

    color: Color
    size: tuple[int, int]
    fit: Fit

    @property
    def channels(self) -> int:
        return 3 if self.color == "rgb" else 1


_MODES = {"rgb": "RGB", "gray": "L"}
# Not Image.open, which knows one limit of pixels for the whole process and none for what is shrunk.
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "avif": AvifImagePlugin.AvifImageFile,
    "png": PngImagePlugin.PngImageFile,
    "jpeg": JpegImagePlugin.JpegImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
    "ppm": PpmImagePlugin.PpmImageFile,
}
# Of these files the first picture is read. AVIF needs a Pillow that was built with it, HEIC the package pillow-heif.
_OTHERS: dict[Format, re.Pattern[bytes]] = {
    "bmp": re.compile(rb"BM"),
    "gif": re.compile(rb"GIF8[79]a"),
    "tiff": re.compile(rb"II\*\0|MM\0\*"),
    # PBM, PGM and PPM as bytes, with few comments: Pillow reads headers, and pixels as text, a letter at a time.
    "ppm": re.compile(rb"P[456](?:\s{1,20}+(?:#[^\r\n]{0,200}+\s{1,20}+){0,20}+\d{1,10}){2,3}\s"),
}
if AvifImagePlugin.SUPPORTED:
    _OTHERS["avif"] = re.compile(rb".{4}ftypavi[fs]", re.DOTALL)
if find_spec("pillow_heif"):
    _OTHERS["heic"] = re.compile(rb".{4}ftyp(?:hei|hev|mif1|msf1)", re.DOTALL)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# How many pixels a decoder makes of these is known when it has made them: the container says one size, and the picture
# in it may have another (an AVIF file of 1.3 kB said 64×64 and took 7000×7000). Not for strangers' files.
_UNBOUNDED = ("avif", "heic")
# Of a TIFF, which Pillow reads as it says: tags; values of one tag, as of strips; a tile's pixels beyond the image's.
_MAX_TAGS, _MAX_VALUES, _MAX_TILE_PIXELS = 512, 65_535, 2**20
_TIFF_SIZE, _TIFF_TILE = (256, 257), (322, 323)
# Bytes of a TIFF's values by their type.
_TIFF_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)
# What Pillow raises over damaged files. The second line: over TIFF's directories, which it reads without much checking,
# and GIF's frames. RuntimeError: over AVIF.
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, zlib.error),
    *(struct.error, LookupError, TypeError, ArithmeticError, Image.DecompressionBombError, RuntimeError),
)
# Rows that are worked on at once where a step takes many times the memory of its result.
_STRIP_PIXELS = 2**18


def decode(data: bytes, color: Color, size: tuple[int, int] | None = None, fit: Fit = "squeeze") -> Pixels:
    """PNG, JPEG or WebP bytes to uint8 (height, width, channels), resized to `size` (height, width) if it differs.

    The EXIF orientation is applied, 16-bit gray is scaled to 8 bits, transparency is laid over white. A JPEG is decoded
    at a half, a quarter or an eighth of its size where `shrink` says so. Raises ImageError.
    """
    return pixels(image_header.read(data), color, size, fit)


def pixels(header: Header, color: Color, size: tuple[int, int] | None = None, fit: Fit = "squeeze") -> Pixels:
    """As `decode`, of a file whose header is read."""
    try:
        image = _loaded(header, shrink(header, size, fit))
        turn = _TURNS.get(header.orientation)
        return fitted(image if turn is None else image.transpose(turn), color, size, fit)
    except _DAMAGE as error:
        raise _damaged(error) from error


def _damaged(error: Exception) -> ImageError:
    what: object = error
    if isinstance(error, struct.error | EOFError):
        what = "it ends too early"
    elif str(error).startswith("decoder error"):  # and a number
        what = "its pixels cannot be decoded"
    return ImageError(f"the image is truncated or damaged: {what}")


def read(data: bytes) -> Header:
    """As `image_header.read`, and of the first picture in a file of `_OTHERS`. Raises ImageError."""
    kind = _other_kind(data)
    if kind is None:
        try:
            return image_header.read(data)
        except image_header.ForeignError:
            names = ["PNG", "JPEG", "WebP", *map(str.upper, _OTHERS)]
            raise ImageError(image_header.foreign(data, f"{', '.join(names[:-1])} or {names[-1]}")) from None
    try:
        if kind == "tiff":
            _silence_libtiff()
            _check_tiff(data)
        image = _reader(kind)(io.BytesIO(data))
    except _DAMAGE as error:
        raise _damaged(error) from error
    image_header.check_size(*image.size)
    if kind == "ppm" and image.tile[0].codec_name != "raw":  # decoded by Python, level by level
        raise ImageError("the image has neither 256 levels nor, if gray, 65,536: save it as PNG")
    if image.mode == "F":
        raise ImageError("the image has floating point pixels: save it with 8 or 16 bits")
    gray = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
    channels, depth = len(image.getbands()), 16 if image.mode.startswith("I") else 8
    # Pillow turns a TIFF by itself.
    turn = orientation(image.info.get("exif") or b"") if kind in ("avif", "heic") else 1
    return Header(kind, *image.size, depth, channels, "gray" if gray else "rgb", orientation=turn, picture=data)


@cache
def _silence_libtiff() -> None:
    """It writes what it finds wrong to standard error, without the file's name; what counts is raised anyway."""
    library = ctypes.CDLL(Image.core.__file__)  # symbols of what it is linked with are found too
    with suppress(AttributeError):  # linked statically
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)


def _check_tiff(data: bytes) -> None:
    """Raises ImageError where reading or decoding it would take far more than its size and the image's say.

    Pillow keeps each tag's value, of which many may be the same bytes of the file, and decodes whole tiles.
    """
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    sizes: dict[int, int] = {}
    num_bytes = 0
    if count > _MAX_TAGS:
        raise ImageError(f"the image has {count:,} tags; at most {_MAX_TAGS} are read")
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, num_values = struct.unpack_from(f"{order}HHI", data, place)
        width = _TIFF_BYTES[kind] if kind < len(_TIFF_BYTES) else 0
        num_bytes += num_values * width
        if width > 1 and num_values > _MAX_VALUES:
            raise ImageError(f"the image is in {num_values:,} parts; at most {_MAX_VALUES:,} are read")
        # Pillow takes the last of a tag, libtiff the first, and each reads numbers of other types in its own way.
        if tag in sizes or (tag in (*_TIFF_SIZE, *_TIFF_TILE) and (kind not in (3, 4) or num_values != 1)):
            raise ImageError(f"the image is damaged: its tag {tag} is there twice, or no whole number")
        sizes[tag] = struct.unpack_from(f"{order}{'H' if width == 2 else 'I'}", data, place + 8)[0]
    if num_bytes > len(data):
        raise ImageError(f"the image is damaged: its tags have {num_bytes:,} bytes, the file {len(data):,}")
    image, tile = (sizes.get(width, 0) * sizes.get(height, 0) for width, height in (_TIFF_SIZE, _TIFF_TILE))
    if tile > image + _MAX_TILE_PIXELS:
        raise ImageError(f"the image is damaged: it has {image:,} pixels, in tiles of {tile:,}")


def is_read(data: bytes, *, of_strangers: bool = False) -> bool:
    """Whether it begins as a file that is read here; `of_strangers`: and takes no more than its header says."""
    if image_header.is_read(data):
        return True
    kind = _other_kind(data)
    return kind is not None and not (of_strangers and kind in _UNBOUNDED)


def _other_kind(data: bytes) -> Format | None:
    if image_header.is_read(data):
        return None
    return next((kind for kind, start in _OTHERS.items() if start.match(data)), None)


def _reader(kind: Format) -> type[ImageFile.ImageFile]:
    if kind != "heic":
        return _READERS[kind]
    return cast("type[ImageFile.ImageFile]", import_module("pillow_heif").HeifImageFile)


def shrink(header: Header, size: tuple[int, int] | None, fit: Fit) -> int:
    """By how much a JPEG is shrunk while it is decoded: 1, 2, 4 or 8.

    By the most that leaves twice the input's sides of what is kept. A network that squeezes was trained on images
    that are only shrunk to fit the memory.
    """
    if header.format != "jpeg" or size is None or fit == "squeeze":
        return header.shrink
    left, top, right, bottom = _kept(header.upright, size, fit)
    enough = min((right - left) / size[1], (bottom - top) / size[0]) / 2
    return max(header.shrink, next((by for by in (8, 4, 2) if by <= enough), 1))


def fitted(image: Image.Image, color: Color, size: tuple[int, int] | None, fit: Fit) -> Pixels:
    """uint8 (height, width, channels)"""
    converted = _convert(image, _MODES[color])
    here = converted.height, converted.width
    if size is not None and here != size:
        converted = converted.resize((size[1], size[0]), Image.Resampling.BILINEAR, _kept(here, size, fit))
    array = np.asarray(converted, dtype=np.uint8)
    return array.reshape(array.shape[0], array.shape[1], -1)


def _kept(image: tuple[int, int], size: tuple[int, int], fit: Fit) -> tuple[float, float, float, float]:
    """The part of an image (height, width) that is resized, as Pillow has boxes: left, top, right, bottom."""
    height, width = image
    if fit == "squeeze":
        return 0, 0, width, height
    scale = min(height / size[0], width / size[1])
    top, left = (height - scale * size[0]) / 2, (width - scale * size[1]) / 2
    return left, top, min(left + scale * size[1], width), min(top + scale * size[0], height)


def _loaded(header: Header, shrink: int) -> Image.Image:
    """Pixels as stored, before the EXIF orientation is applied."""
    image = _opened(header)
    if shrink > 1:
        image.draft(image.mode, (image.width // shrink, image.height // shrink))
    image.load()
    if image.mode == "P" and image.palette is None:
        raise ImageError("the image is damaged: it has colour numbers and no palette")
    return image if header.transparent is None else _whitened(image, header)


def _opened(header: Header) -> ImageFile.ImageFile:
    image = _reader(header.format)(io.BytesIO(header.picture))
    if image.size != (header.width, header.height):
        raise ImageError("the image is damaged: it says twice how large it is, and not the same")
    return image


def _whitened(image: Image.Image, header: Header) -> Image.Image:
    """The one gray level or colour of a PNG that is transparent, which Pillow compares with at 8 bits only."""
    wanted, low_bytes = np.array(header.transparent), None
    if header.depth < 8:
        wanted = wanted * (255 // (2**header.depth - 1))
    elif header.depth == 16 and image.mode == "RGB":
        # Pillow keeps the high bytes; read as if it were little-endian, the low ones.
        low_bytes, wanted = _opened(header), wanted >> 8
        low_bytes.tile = [tile._replace(args="RGB;16L") for tile in low_bytes.tile]
    white = (255, 255, 255) if image.mode == "RGB" else 255
    result = _by_strips(image, "L", _to_8_bits) if image.mode.startswith("I") else image
    for box in _strips(image):
        hidden = _equal(image.crop(box), wanted)
        if low_bytes is not None:
            hidden &= _equal(low_bytes.crop(box), np.array(header.transparent) & 255)
        result.paste(white, box, Image.fromarray(hidden))
    return result


def _equal(image: Image.Image, wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """A mask of the pixels that equal the value; (height, width)."""
    levels = np.asarray(image.convert("L") if image.mode == "1" else image)
    return np.all(levels.reshape(image.height, image.width, -1) == wanted, axis=2)


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _by_strips(image, "L", _to_8_bits)
    if image.has_transparency_data:
        image = _by_strips(image, mode, _over_white)
    return image if image.mode == mode else image.convert(mode)


def _to_8_bits(image: Image.Image) -> Image.Image:
    wide = np.asarray(image)
    return Image.fromarray((wide.astype(np.float64) / 257).round().clip(0, 255).astype(np.uint8))


def _over_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)


def _by_strips(image: Image.Image, mode: str, step: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """`step` may take many times the memory of its result: the image goes through it in parts."""
    result = Image.new(mode, image.size)
    for box in _strips(image):
        result.paste(step(image.crop(box)).convert(mode), box)
    return result


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes that split an image into strips of whole rows."""
    num_rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, num_rows):
        yield 0, top, image.width, min(top + num_rows, image.height)
