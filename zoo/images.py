"""From image files to pixels, the same for training and for serving, so that both see the same numbers."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from zoo.errors import ImageError

Pixels = npt.NDArray[np.uint8]

# An 81 megapixel PNG of 231 KiB takes 636 MiB to decode: the size is read from the header first.
MAX_PIXELS = 16_000_000
FORMATS = ("PNG", "JPEG", "WEBP")
_MODES = {"rgb": "RGB", "gray": "L"}
# What ImageOps.exif_transpose does, less its rewriting of the other EXIF data, which odd cameras' does not survive.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, color: Literal["rgb", "gray"], size: tuple[int, int] | None = None) -> Pixels:
    """PNG, JPEG or WebP bytes to uint8 (height, width, channels), resized to `size` (height, width) if it differs.

    The EXIF orientation is applied, 16-bit gray is scaled to 8 bits, transparency is laid over white.
    Raises ImageError.
    """
    with _opened(data) as image:
        image.load()
        if image.mode == "P" and image.palette is None:
            raise ImageError("the image is damaged: it has colour numbers and no palette")
        turn = _TURNS.get(_orientation(image))
        upright = image if turn is None else image.transpose(turn)
        return fit(upright, color, size)


def fit(image: Image.Image, color: Literal["rgb", "gray"], size: tuple[int, int] | None) -> Pixels:
    """uint8 (height, width, channels)"""
    converted = _convert(image, _MODES[color])
    if size is not None and (converted.height, converted.width) != size:
        converted = converted.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(converted, dtype=np.uint8)
    return pixels.reshape(pixels.shape[0], pixels.shape[1], -1)


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        wide = np.asarray(image)
        image = Image.fromarray((wide.astype(np.float64) / 257).round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert(mode)


def probe(data: bytes) -> tuple[Literal["rgb", "gray"], tuple[int, int]]:
    """Colour, and (height, width) when upright, from the header alone. Raises ImageError."""
    with _opened(data) as image:
        gray = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
        # Without EXIF data in the header, Pillow would decode a PNG to look for some behind the pixels.
        sideways = "exif" in image.info and _orientation(image) in range(5, 9)
        size = (image.width, image.height) if sideways else (image.height, image.width)
        return ("gray" if gray else "rgb"), size


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The image with its header read and its size checked. What goes wrong with it inside is an ImageError too."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(
                    f"the image has {image.width}×{image.height} pixels; at most 16 megapixels are decoded"
                )
            yield image
    except UnidentifiedImageError:
        raise ImageError(f"{len(data)} bytes that are no PNG, JPEG or WebP image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        # Pillow's own limits are wider than ours: it complains while reading the header.
        raise ImageError("the image has over 80 million pixels; at most 16 megapixels are decoded") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"the image is truncated or damaged: {error}") from error


def _orientation(image: Image.Image) -> int:
    return image.getexif().get(ExifTags.Base.Orientation, 1)
