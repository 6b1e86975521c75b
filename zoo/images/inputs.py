"""Images as programs have them: paths, bytes, Pillow images, arrays. Only the last two need Pillow."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from zoo.errors import ImageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import PIL.Image

# An array is uint8 (height, width) or (height, width, channels), gray, RGB or RGBA.
Image: TypeAlias = "str | os.PathLike[str] | bytes | PIL.Image.Image | npt.NDArray[np.uint8]"
Images: TypeAlias = "Image | Sequence[Image]"
# What Pillow shows as RGB and PNG cannot hold.
_TO_RGB = ("CMYK", "YCbCr", "LAB", "HSV")


def is_one(images: Images) -> bool:
    """A path and bytes are sequences too, but not of images; an array is no sequence to Python."""
    return isinstance(images, str | bytes | bytearray | memoryview) or not isinstance(images, Sequence)


def listed(images: Images) -> Sequence[Image]:
    return cast(Sequence[Image], [images] if is_one(images) else images)


def encoded(image: Image) -> bytes:
    """The image as a file: its own bytes, or a PNG with the same pixels. Raises ImageError, or OSError for its path."""
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        return Path(image).read_bytes()
    import PIL.Image

    picture = image if isinstance(image, PIL.Image.Image) else _picture(image)
    if 0 in picture.size:
        raise ImageError(f"an image of {picture.width}×{picture.height} pixels shows nothing")
    # Pillow leaves the orientation to whoever looks at it: a photograph must not lie down on the way. As it is in the
    # file, which may be damaged: Pillow's own reading would fail, or find another one in XMP.
    exif = picture.info.get("exif", b"")
    buffer = io.BytesIO()
    try:
        (picture.convert("RGB") if picture.mode in _TO_RGB else picture).save(buffer, "PNG", exif=exif)
    except OSError as error:
        raise ImageError(f"a Pillow image of mode {picture.mode}: {error}; convert it to RGB first") from error
    return buffer.getvalue()


def _picture(array: npt.NDArray[np.uint8]) -> PIL.Image.Image:
    import PIL.Image

    shape, dtype = getattr(array, "shape", None), getattr(array, "dtype", None)
    if shape is None or dtype is None:
        raise ImageError(f"a path, bytes, a Pillow image or an array was expected, not {type(array).__name__}")
    if dtype != "uint8" or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise ImageError(
            f"an image array is uint8 (height, width) or (height, width, 1, 3 or 4 channels), not {dtype} {shape}; "
            "several images are a list of them"
        )
    return PIL.Image.fromarray(array[:, :, 0] if shape[2:] == (1,) else array)
