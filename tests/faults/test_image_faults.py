"""Images by the ten thousand, damaged at random, and photos larger than memory would hold at once."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.errors import ImageError
from zoo.images import decode as images
from zoo.images import fast_decode
from zoo.images import header as image_header

pytestmark = pytest.mark.faults

BODY = 32 * 2**20


def file(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bases() -> list[bytes]:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (14, 19, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words"
    beside = {"exif": exif, "icc_profile": b"profile" * 20}
    return [
        *(file(picture.convert(mode), "PNG", **beside) for mode in ("RGB", "RGBA", "L", "LA", "P", "1")),
        file(picture, "PNG", save_all=True, append_images=[picture.rotate(180)]),
        file(picture.convert("L"), "PNG", transparency=7),
        *(file(picture.convert(mode), "JPEG", **beside) for mode in ("RGB", "L", "CMYK")),
        *(file(picture, "JPEG", progressive=True, subsampling=sampling, **beside) for sampling in (0, 1, 2)),
        file(picture, "JPEG", restart_marker_blocks=1, comment=b"words"),
        *(
            file(picture.convert(mode), "WEBP", lossless=lossless, **beside)
            for mode in ("RGB", "RGBA")
            for lossless in (0, 1)
        ),
        file(picture, "WEBP", save_all=True, append_images=[picture.rotate(180)]),
    ]


def mutated(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        damaged[rng.randrange(len(damaged))] = rng.choice((0, 255, 127, 128, 0xDA, rng.randrange(256)))
    if rng.random() < 0.2:
        del damaged[rng.randrange(1, len(damaged)) :]
    if rng.random() < 0.2:
        first, last = sorted(rng.randrange(len(damaged) + 1) for _ in range(2))
        damaged[first:first] = damaged[first:last] * rng.randrange(1, 40)
    return bytes(damaged)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_images_are_pixels_or_an_image_error_and_soon(seed: int) -> None:
    """And where both codecs read one, they see the same."""
    rng = random.Random(seed)
    files, compared = bases(), 0
    for _ in range(10_000):
        data = mutated(rng.choice(files), rng)
        started = time.process_time()
        try:
            header = image_header.read(data)
        except ImageError:
            continue
        finally:
            assert time.process_time() - started < 0.1
        # A header may have been changed to say millions of pixels.
        if header.work > 2**20:
            continue
        color = header.color
        quick = fast_decode.decode(header)
        try:
            pixels = images.pixels(header, color)
        except ImageError:
            assert quick is None
            continue
        assert pixels.shape[:2] == header.size
        if quick is not None:
            compared += 1
            np.testing.assert_array_equal(quick, pixels)
    assert compared > 100


def test_a_whole_body_of_anything_is_looked_through_in_a_moment() -> None:
    jpeg, rng = file(Image.new("RGB", (64, 64)), "JPEG", progressive=True), random.Random(0)
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    fillings = (
        b"\xff",
        b"\0",
        b"\xff\0",
        b"\xff\xd9",
        b"\xff\xd0",
        b"\xff\xda",
        b"\xff\xda\0\2",
        b"\xff\xfe\0\2",
        b"\xff\0\xff\xda",
    )
    fillings += scan, b"\xff\xda" * 100 + b"\xff\0" * 100_000, rng.randbytes(2**20)
    for filling in fillings:
        for place in (2, len(jpeg) - 2, len(jpeg)):
            data = jpeg[:place] + filling * ((BODY - len(jpeg)) // len(filling)) + jpeg[place:]
            started = time.process_time()
            with suppress(ImageError):
                image_header.read(data)
            assert time.process_time() - started < 0.5


_TRAINING = """
import resource, sys
from trainer.data import datasets as data
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = data.load(sys.argv[1])
print(found.image_shape, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) // 1024)
"""


def test_photos_of_a_phone_are_read_one_at_a_time(tmp_path: Path) -> None:
    """40 of 12 megapixels would be 1.4 GB together, one takes 140 MB."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 15), ("test", 5)):
        for label in ("a", "b"):
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                small = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
                small.resize((4032, 3024)).save(folder / f"{number}.jpg")
    done = subprocess.run([sys.executable, "-c", _TRAINING, tmp_path], capture_output=True, text=True, check=True)
    shape, peak_mib = done.stdout.rsplit(" ", 1)
    assert shape == "(3, 96, 96)"
    assert int(peak_mib) < 250
