"""Each limit on an image's structure, the words that go with it, and that finding it takes no time worth naming."""

from __future__ import annotations

import io
import random
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from zoo.errors import ImageError
from zoo.images import decode as images
from zoo.images import header as image_header

NUM_BYTES = 4 * 2**20


def file(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def smooth(width: int = 40, height: int = 28) -> Image.Image:
    random = np.random.default_rng(0)
    return Image.fromarray(random.integers(0, 256, (3, 3, 3), dtype=np.uint8)).resize((width, height))


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def repeated(piece: bytes, at: int, whole: bytes) -> bytes:
    return whole[:at] + piece * (NUM_BYTES // len(piece)) + whole[at:]


PNG, JPEG, WEBP = (file(smooth(), kind) for kind in ("PNG", "JPEG", "WEBP"))
PROGRESSIVE = file(smooth(), "JPEG", progressive=True)
LAST_SCAN = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]
HIDDEN_END = b"\xff\xfe\0\4\xff\xd9"

TOO_MUCH = {
    "scans": (repeated(LAST_SCAN, -2, PROGRESSIVE), "a JPEG of over 64 scans"),
    "scans behind a comment that looks like the end": (
        repeated(LAST_SCAN, -2, PROGRESSIVE[:-2] + HIDDEN_END + b"\xff\xd9"),
        "a JPEG of over 64 scans",
    ),
    "scans among escaped bytes": (repeated(b"\xff\0" * 1000 + LAST_SCAN, -2, PROGRESSIVE), "a JPEG of over 64 scans"),
    "comments": (repeated(b"\xff\xfe\0\2", 2, JPEG), "a JPEG of over 10,000 segments"),
    "comments between many scans": (
        PROGRESSIVE[:-2] + b"\xff\xfe\0\2" * 20_000 + LAST_SCAN * 65 + b"\xff\xd9",
        "over 10,000 segments",
    ),
    "pixel chunks": (repeated(chunk(b"IDAT"), 33, PNG), "a PNG of over 10,000 chunks"),
    "text chunks": (repeated(chunk(b"tEXt", b"a\0b"), 33, PNG), "a PNG of over 10,000 chunks"),
    "chunks": (
        repeated(
            b"ABCD\0\0\0\0", 30, file(smooth(), "WEBP", exif=Image.Exif(), icc_profile=b"x")[:20] + b"\x08" + WEBP
        ),
        "a WebP of over 10,000 chunks",
    ),
    "garbage": (repeated(b"\0", 2, JPEG), "truncated or damaged"),
    "fill bytes": (repeated(b"\xff", 2, JPEG), "truncated or damaged"),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_would_take_long_is_refused_at_once(name: str) -> None:
    data, words = TOO_MUCH[name]
    started = time.process_time()
    with pytest.raises(ImageError, match=words):
        image_header.read(data)
    assert time.process_time() - started < 0.15


def test_as_many_scans_as_the_limit_are_decoded() -> None:
    few = image_header.read(PROGRESSIVE).num_scans
    at_limit = PROGRESSIVE[:-2] + LAST_SCAN * (64 - few) + b"\xff\xd9"
    assert image_header.read(at_limit).num_scans == 64
    images.decode(at_limit, "rgb")
    with pytest.raises(ImageError, match="over 64 scans"):
        images.decode(PROGRESSIVE[:-2] + LAST_SCAN * (65 - few) + b"\xff\xd9", "rgb")


@pytest.mark.parametrize("whole", [JPEG, PROGRESSIVE])
def test_what_stands_behind_a_photo_is_no_scan_of_it(whole: bytes) -> None:
    """Phones put a video there, in which a hundred places look like the start of a scan."""
    data = whole + random.Random(0).randbytes(16 * 2**20)
    assert data.count(b"\xff\xda") > 100
    assert image_header.read(data).num_scans == image_header.read(whole).num_scans
    assert (images.decode(data, "rgb") == images.decode(whole, "rgb")).all()


@pytest.mark.parametrize(
    ("data", "size"),
    [(PNG, (28, 40)), (JPEG, (28, 40)), (WEBP, (28, 40)), (file(smooth(), "WEBP", lossless=True), (28, 40))],
)
def test_size_and_cost(data: bytes, size: tuple[int, int]) -> None:
    header = image_header.read(data)
    assert (header.size, header.num_pixels, header.shrink) == (size, 28 * 40, 1)
    assert header.work >= 28 * 40
    assert header.memory_bytes >= 28 * 40 * 5


def test_the_picture_is_the_file_without_what_is_beside_it() -> None:
    beside = {"icc_profile": b"profile" * 20_000, "exif": b"Exif\0\0" + b"II*\0\x08\0\0\0\0\0"}
    assert image_header.read(file(smooth(), "JPEG", comment=b"words", **beside)).picture == JPEG
    assert image_header.read(file(smooth(), "PNG", dpi=(72, 72), **beside) + b"more").picture == PNG
    assert image_header.read(JPEG).picture is JPEG
    assert image_header.read(PNG).picture is PNG


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\0\0\0\x24ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x24ftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "a video"),
        (file(smooth().convert("P"), "GIF"), "GIF"),
        (file(smooth(), "BMP"), "BMP"),
        (file(smooth(), "TIFF"), "TIFF or a camera's raw file"),
        (b"%PDF-1.7", "PDF"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"<svg xmlns=''/>", "SVG or XML"),
        (b"\x1f\x8b\x08\0", "compressed by gzip"),
    ],
)
def test_other_formats_are_called_by_their_name(start: bytes, name: str) -> None:
    with pytest.raises(ImageError, match=f"bytes that are no PNG, JPEG or WebP image but {name}: save it as JPEG or"):
        image_header.read(start)
