from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from zoo.errors import ImageError
from zoo.images import header
from zoo.images.decode import MAX_PIXELS, decode

Color = Literal["rgb", "gray"]
FORMATS = ["png", "jpeg", "webp"]


def file(image: Image.Image, kind: str = "png", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def lossless(image: Image.Image, kind: str) -> bytes:
    return file(image, kind, **{"webp": {"lossless": True}, "jpeg": {"quality": 100, "subsampling": 0}}.get(kind, {}))


def probe(data: bytes) -> tuple[Color, tuple[int, int]]:
    """Colour, and (height, width) when upright and decoded, from the header alone."""
    found = header.read(data)
    return found.color, found.size


def gradient(height: int = 6, width: int = 9) -> Image.Image:
    """A smooth picture, so that JPEG keeps it nearly as it is."""
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = rows * 255 // height, columns * 255 // width
    return Image.fromarray(np.stack([red, green, 255 - red], axis=-1).astype(np.uint8))


@pytest.mark.parametrize(("kind", "tolerance"), [("png", 0), ("webp", 0), ("jpeg", 8)])
def test_each_format_gives_the_pixels_that_were_written(kind: str, tolerance: int) -> None:
    image = gradient()
    pixels = decode(lossless(image, kind), "rgb")
    assert pixels.shape == (6, 9, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - np.asarray(image)).max() <= tolerance


@pytest.mark.parametrize("kind", ["gif", "bmp", "tiff", "ppm"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(ImageError, match=r"\d+ bytes that are no PNG, JPEG or WebP image"):
        decode(file(gradient(), kind), "rgb")


def test_resized_to_height_and_width() -> None:
    pixels = decode(file(gradient(10, 20)), "rgb", size=(5, 4))
    assert pixels.shape == (5, 4, 3)
    wanted = gradient(10, 20).resize((4, 5), Image.Resampling.BILINEAR)
    assert (pixels == np.asarray(wanted)).all()


def test_an_image_of_the_right_size_is_left_alone() -> None:
    assert (decode(file(gradient()), "rgb", size=(6, 9)) == np.asarray(gradient())).all()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda pixels: pixels),
        (2, np.fliplr),
        (3, lambda pixels: np.rot90(pixels, 2)),
        (4, np.flipud),
        (5, lambda pixels: pixels.transpose(1, 0, 2)),
        (6, lambda pixels: np.rot90(pixels, -1)),
        (7, lambda pixels: np.rot90(pixels, 2).transpose(1, 0, 2)),
        (8, np.rot90),
        (9, lambda pixels: pixels),
    ],
)
def test_exif_orientation_is_applied(kind: str, orientation: int, turned: Callable[[np.ndarray], np.ndarray]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    written = file(gradient(16, 24), kind, exif=exif, **({"lossless": True} if kind == "webp" else {}))
    plain = np.asarray(Image.open(io.BytesIO(written)))
    assert (decode(written, "rgb") == turned(plain)).all()
    assert probe(written) == ("rgb", turned(plain).shape[:2])


@pytest.mark.parametrize(("alpha", "wanted"), [(0, (255, 255, 255)), (255, (200, 100, 0)), (51, (244, 224, 204))])
@pytest.mark.parametrize("kind", ["png", "webp"])
def test_transparency_is_laid_over_white(kind: str, alpha: int, wanted: tuple[int, int, int]) -> None:
    # In WebP, "exact" keeps the colour of pixels that cannot be seen.
    options = {"lossless": True, "exact": True} if kind == "webp" else {}
    image = Image.new("RGBA", (2, 2), (200, 100, 0, alpha))
    assert (decode(file(image, kind, **options), "rgb") == wanted).all()


def test_transparent_gray_is_laid_over_white() -> None:
    image = Image.new("LA", (2, 1))
    image.putdata([(0, 255), (0, 0)])
    assert decode(file(image), "gray").ravel().tolist() == [0, 255]
    assert decode(file(image), "rgb").tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_palette_colours_are_looked_up() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 1, 2, 3])
    image.putdata([0, 1, 2])
    assert decode(file(image), "rgb").tolist() == [[[255, 0, 0], [0, 255, 0], [1, 2, 3]]]
    assert decode(file(image, transparency=1), "rgb").tolist() == [[[255, 0, 0], [255, 255, 255], [1, 2, 3]]]


def test_16_bit_gray_is_scaled_to_8() -> None:
    wide = np.array([[0, 257, 128 * 257, 65535, 128 * 257 + 128]], dtype=np.uint16)
    data = file(Image.fromarray(wide))
    assert decode(data, "gray").ravel().tolist() == [0, 1, 128, 255, 128]
    assert decode(data, "rgb")[0, 2].tolist() == [128, 128, 128]


def png(width: int, height: int, depth: int, color_type: int, rows: bytes) -> bytes:
    """By hand, for what Pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_of_16_bit_colour_the_upper_byte_counts() -> None:
    data = png(1, 1, 16, 2, b"\x00" + struct.pack(">HHH", 0x00FF, 0x8080, 0xFFFF))
    assert decode(data, "rgb").tolist() == [[[0, 128, 255]]]


def test_one_bit_images_are_black_and_white() -> None:
    image = Image.new("1", (2, 1))
    image.putdata([0, 1])
    assert decode(file(image), "gray").ravel().tolist() == [0, 255]


def test_colour_to_gray_and_back() -> None:
    image = gradient()
    gray = decode(file(image), "gray")
    assert gray.shape == (6, 9, 1)
    assert (gray[:, :, 0] == np.asarray(image.convert("L"))).all()
    as_color = decode(file(image.convert("L")), "rgb")
    assert (as_color == np.repeat(gray, 3, axis=2)).all()


def test_cmyk_jpeg_is_converted() -> None:
    data = file(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "jpeg", quality=100)
    red, green, blue = decode(data, "rgb")[4, 4].tolist()
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_image_is_refused(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = file(Image.fromarray(noise), kind)
    for length in (len(whole) // 2, len(whole) * 3 // 4):
        with pytest.raises(ImageError, match=r"the image is truncated or damaged|no PNG, JPEG or WebP"):
            decode(whole[:length], "rgb")


@pytest.mark.parametrize(
    "data", [b"", b"GET / HTTP/1.1", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x00\x00\x00\x00WEBP"]
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    for read in (lambda: decode(data, "rgb"), lambda: probe(data)):
        with pytest.raises(ImageError, match=r"no PNG, JPEG or WebP image|truncated or damaged"):
            read()


@pytest.mark.parametrize(("width", "height"), [(4001, 4000), (9000, 9000), (10_000, 10_000), (60_000, 60_000)])
def test_a_bomb_is_refused_by_its_header_alone(width: int, height: int) -> None:
    """There are no pixels behind these headers: decoding them would fail in another way."""
    assert width * height > MAX_PIXELS
    bomb = png(width, height, 8, 2, b"")
    for read in (lambda: decode(bomb, "rgb"), lambda: probe(bomb)):
        with pytest.raises(ImageError, match="at most 16 megapixels are decoded"):
            read()


def test_16_megapixels_are_decoded() -> None:
    assert decode(file(Image.new("L", (4000, 4000), 7), compress_level=1), "gray").shape == (4000, 4000, 1)


@settings(max_examples=300)
@given(data=st.data(), kind=st.sampled_from(FORMATS), color=st.sampled_from(["rgb", "gray"]))
def test_damaged_bytes_are_pixels_or_an_image_error(data: st.DataObject, kind: str, color: Color) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    damaged = bytearray(file(gradient(), kind, exif=exif))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert probe(bytes(damaged))[1] > (0, 0)
        assert decode(bytes(damaged), color, size=(4, 4)).shape == (4, 4, 3 if color == "rgb" else 1)
    except ImageError as error:
        assert "image" in str(error)


@pytest.mark.parametrize("kind", FORMATS)
def test_probe_tells_colour_and_size(kind: str) -> None:
    assert probe(file(gradient(), kind)) == ("rgb", (6, 9))
    # WebP has no gray.
    assert probe(file(gradient().convert("L"), kind)) == ("rgb" if kind == "webp" else "gray", (6, 9))


def test_webp_is_there() -> None:
    assert features.check("webp")


def test_colour_numbers_without_a_palette_are_damage() -> None:
    with pytest.raises(ImageError, match="colour numbers and no palette"):
        decode(png(2, 2, depth=8, color_type=3, rows=bytes(6)), "rgb")


SAMPLES = Path(__file__).parent / "sample_images"


@pytest.mark.parametrize("name", sorted(path.name for path in SAMPLES.glob("*.*") if path.suffix != ".json"))
def test_files_have_the_pixels_that_they_always_had(name: str) -> None:
    """Recorded with the first version of this package: other pixels would be other accuracies."""
    data = (SAMPLES / name).read_bytes()
    found = [decode(data, *form) for form in (("rgb", None), ("gray", None), ("rgb", (11, 9)))]
    hashes = [hashlib.sha256(pixels.tobytes()).hexdigest()[:16] for pixels in found]
    assert hashes == json.loads((SAMPLES / "pixels.json").read_text())[name]
