"""How an image of another shape becomes that of the input: the middle of it, or squeezed as in older files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from zoo.checkpoint.file import Checkpoint
from zoo.images import decode as images
from zoo.images import header as image_header
from zoo.runtime.predictor import Predictor


def file(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("width", "height", "box"), [(40, 30, (5, 0, 35, 30)), (30, 41, (0, 5.5, 30, 35.5)), (30, 30, (0, 0, 30, 30))]
)
def test_the_middle_of_another_shape_is_resized(width: int, height: int, box: tuple[float, ...]) -> None:
    found = images.decode(file(noise(width, height)), "rgb", (12, 12), "crop")
    wanted = noise(width, height).resize((12, 12), Image.Resampling.BILINEAR, box)
    assert np.array_equal(found, np.asarray(wanted))
    squeezed = images.decode(file(noise(width, height)), "rgb", (12, 12))
    assert np.array_equal(found, squeezed) == (width == height)


def test_inputs_that_are_no_squares() -> None:
    found = images.decode(file(noise(40, 40)), "rgb", (10, 20), "crop")
    assert np.array_equal(found, np.asarray(noise(40, 40).resize((20, 10), Image.Resampling.BILINEAR, (0, 10, 40, 30))))


@pytest.mark.parametrize("sides", [(41, 7), (1, 1), (3, 1000), (97, 89), (333, 500)])
@pytest.mark.parametrize("size", [(7, 7), (96, 32), (13, 11)])
def test_any_size_becomes_any_other(sides: tuple[int, int], size: tuple[int, int]) -> None:
    assert (images.decode(file(Image.new("RGB", sides, "red")), "rgb", size, "crop") == (255, 0, 0)).all()


@pytest.mark.parametrize(("side", "shrink"), [(32, 1), (127, 1), (128, 2), (256, 4), (511, 4), (512, 8), (2000, 8)])
def test_a_jpeg_is_shrunk_while_it_is_decoded_to_twice_the_input(side: int, shrink: int) -> None:
    """What is cut away does not count."""
    smooth = Image.radial_gradient("L").resize((2 * side, side))
    header = image_header.read(file(smooth, "JPEG"))
    assert images.shrink(header, (32, 32), "crop") == shrink
    assert images.shrink(header, (32, 32), "squeeze") == header.shrink
    shrunk = images.pixels(header, "gray", (32, 32), "crop").astype(int)
    whole = images.decode(file(smooth), "gray", (32, 32), "crop")
    assert np.abs(shrunk - whole).mean() < 2


def test_a_photo_on_its_side_is_cut_as_it_is_seen() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = Image.linear_gradient("L").resize((600, 800))
    lying = file(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)
    found = images.decode(lying, "gray", (32, 32), "crop").astype(int)
    assert np.abs(found - images.decode(file(upright), "gray", (32, 32), "crop")).max() < 6


def test_every_way_to_answer_follows_the_descriptor(example: Checkpoint) -> None:
    picture = noise(90, 40)
    answers = []
    for fit in ("crop", None):
        preprocessing = example.descriptor.preprocessing.model_copy(update={"fit": fit})
        other = Checkpoint(example.descriptor.model_copy(update={"preprocessing": preprocessing}), example.tensors)
        predictor = Predictor(other)
        height, width, channels = predictor.image_shape
        for data in (file(picture), file(picture, "JPEG"), file(picture.resize((900, 400)), "JPEG")):
            [pixels] = predictor.decode([data])
            wanted = images.decode(data, "rgb" if channels == 3 else "gray", (height, width), fit or "squeeze")
            assert np.array_equal(pixels, wanted)
        answers.append(pixels.tolist())
        assert ('"fit":"crop"' in other.descriptor.to_json()) == (fit == "crop")
        assert ("fit" in other.descriptor.to_json()) == (fit == "crop")
    assert answers[0] != answers[1]
