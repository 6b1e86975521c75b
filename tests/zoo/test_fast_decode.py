"""zoo.images is the reference: what is decoded quickly has its numbers, what is unusual is left to it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cache
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zoo.errors import ImageError
from zoo.images import decode as images
from zoo.images import fast_decode
from zoo.images import header as image_header

SIZES = [(1, 1), (8, 8), (32, 32), (17, 23), (33, 64)]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(height: int, width: int) -> Image.Image:
    return noise(3, 3).resize((width, height))


def files_of(image: Image.Image) -> Iterator[bytes]:
    for level in (0, 1, 6, 9):
        yield encoded(image, "PNG", compress_level=level)
    yield encoded(image, "PNG", dpi=(72, 72))
    for quality in (5, 50, 75, 95, 100):
        for subsampling in (0, 1, 2):
            for progressive in (False, True):
                yield encoded(image, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive)
    yield encoded(image, "JPEG", restart_marker_blocks=1)
    yield encoded(image, "JPEG", comment=b"a comment", optimize=True)
    # What is beside the picture makes no difference.
    yield encoded(image, "JPEG", icc_profile=b"a profile", exif=b"Exif\0\0II")
    yield encoded(image, "PNG", icc_profile=b"a profile", save_all=True, append_images=[image])
    yield encoded(image, "PNG") + b"more"


@pytest.mark.parametrize("color", ["rgb", "gray"])
@pytest.mark.parametrize("size", SIZES)
def test_ordinary_files_have_the_pixels_that_pillow_gives(size: tuple[int, int], color: Literal["rgb", "gray"]) -> None:
    for make in (noise, smooth):
        image = make(*size).convert("RGB" if color == "rgb" else "L")
        for data in files_of(image):
            pixels = fast_decode.decode(image_header.read(data))
            assert pixels is not None
            np.testing.assert_array_equal(pixels, images.decode(data, color))


def rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@cache
def unusual() -> dict[str, bytes]:
    image = smooth(20, 30)
    ordinary = encoded(image, "PNG")
    # Enough pixels come out of it all the same, before the end of the stream tells that they are wrong.
    damaged = bytearray(encoded(smooth(6, 9).convert("L"), "PNG"))
    damaged[48] = 0
    return {
        "alpha": encoded(image.convert("RGBA"), "PNG"),
        "gray with alpha": encoded(image.convert("LA"), "PNG"),
        "palette": encoded(image.convert("P"), "PNG"),
        "one colour transparent": encoded(image, "PNG", transparency=(0, 0, 0)),
        "16 bits": encoded(Image.fromarray(np.zeros((4, 4), np.uint16)), "PNG"),
        "1 bit": encoded(image.convert("1"), "PNG"),
        "turned PNG": encoded(image, "PNG", exif=rotated()),
        "turned JPEG": encoded(image, "JPEG", exif=rotated()),
        "CMYK": encoded(image.convert("CMYK"), "JPEG"),
        "RGB in JPEG": encoded(image, "JPEG", keep_rgb=True),
        "WebP": encoded(image, "WEBP"),
        "truncated PNG": ordinary[:-30],
        "damaged PNG": bytes(damaged),
        "truncated JPEG": encoded(image, "JPEG")[:-20],
        "shrunk": encoded(Image.new("L", (4001, 4000)), "JPEG"),
    }


@pytest.mark.parametrize("name", unusual())
def test_what_is_unusual_is_left_to_pillow(name: str) -> None:
    assert fast_decode.decode(image_header.read(unusual()[name])) is None


def test_large_pngs_are_left_to_pillow_which_lets_other_threads_run() -> None:
    large, small = (encoded(smooth(side, side), "PNG") for side in (600, 500))
    assert fast_decode.decode(image_header.read(large)) is None
    assert fast_decode.decode(image_header.read(small)) is not None
    assert fast_decode.decode(image_header.read(encoded(smooth(600, 600), "JPEG"))) is not None


@settings(max_examples=500)
@given(data=st.data(), kind=st.sampled_from(["PNG", "JPEG"]), gray=st.booleans())
def test_of_damaged_bytes_both_make_the_same(data: st.DataObject, kind: str, gray: bool) -> None:
    damaged = bytearray(encoded(smooth(6, 9).convert("L" if gray else "RGB"), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(0, len(damaged))) :]
    try:
        pixels = fast_decode.decode(image_header.read(bytes(damaged)))
    except ImageError:
        return
    if pixels is None:
        return
    try:
        wanted = images.decode(bytes(damaged), "gray" if pixels.shape[2] == 1 else "rgb")
    except ImageError as error:
        raise AssertionError("decoded, though Pillow refuses it") from error
    np.testing.assert_array_equal(pixels, wanted)
