from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.checkpoint.file import Checkpoint, encode
from zoo.errors import ImageError
from zoo.images import decode as images
from zoo.network.families import secnn
from zoo.runtime.predictor import Prediction, Predictor

MakeCheckpoint = Callable[..., Checkpoint]


@pytest.fixture(scope="module")
def predictor(make_checkpoint: MakeCheckpoint) -> Predictor:
    """For 9 by 12 pixels in colour, 5 classes."""
    architecture = secnn.start(input_shape=(3, 9, 12), num_classes=5, channels=4)
    return Predictor(make_checkpoint(architecture))


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def random_images(count: int, height: int = 9, width: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_an_image_is_answered_the_same_alone_and_in_a_batch(predictor: Predictor) -> None:
    pixels = random_images(32)
    together = predictor.logits(pixels)
    alone = np.concatenate([predictor.logits(pixels[i : i + 1]) for i in range(32)])
    assert together.shape == (32, 5)
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-5)


def test_probabilities_are_the_softmax_of_the_logits(predictor: Predictor) -> None:
    pixels = random_images(4)
    exponentials = np.exp(predictor.logits(pixels).astype(np.float64))
    wanted = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(predictor.probabilities(pixels), wanted, atol=1e-6)


def test_files_become_the_pixels_that_the_network_takes(predictor: Predictor) -> None:
    exact, other_size = random_images(1)[0], random_images(1, 20, 30)[0]
    pixels = predictor.decode([png(exact), png(other_size)])
    assert predictor.image_shape == (9, 12, 3)
    assert pixels.shape == (2, 9, 12, 3)
    assert (pixels[0] == exact).all()
    assert (pixels[1] == images.decode(png(other_size), "rgb", (9, 12))).all()


def test_without_the_extra_codecs_files_become_the_same_pixels(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    """As after `pip install checkpoint-zoo`, without fast-images."""
    image = png(random_images(1)[0])
    (tmp_path / "image.png").write_bytes(image)
    checkpoint = make_checkpoint(secnn.start(input_shape=(3, 9, 12), num_classes=5, channels=4))
    (tmp_path / "net.safetensors").write_bytes(encode(checkpoint))
    code = """if True:
        import sys
        sys.modules["pyspng"] = sys.modules["simplejpeg"] = None
        from pathlib import Path
        from zoo.checkpoint.file import load
        from zoo.runtime.predictor import Predictor
        pixels = Predictor(load(Path("net.safetensors"))).decode([Path("image.png").read_bytes()])
        sys.stdout.buffer.write(pixels.tobytes())
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout == Predictor(checkpoint).decode([image]).tobytes()


def test_each_kind_of_file_becomes_the_same_pixels_as_by_pillow(make_checkpoint: MakeCheckpoint) -> None:
    """Of the network's size and of another, in gray and in colour, ordinary or not."""
    for channels, color in ((3, "rgb"), (1, "gray")):
        predictor = Predictor(make_checkpoint(secnn.start(input_shape=(channels, 9, 12), num_classes=2, channels=4)))
        for size in ((9, 12), (40, 30)):
            image = Image.fromarray(random_images(1, *size)[0])
            for mode in ("RGB", "L", "RGBA", "P"):
                for kind in ("PNG", "WEBP") if mode in ("RGBA", "P") else ("PNG", "JPEG", "WEBP"):
                    buffer = io.BytesIO()
                    image.convert(mode).save(buffer, kind)
                    [pixels] = predictor.decode([buffer.getvalue()])
                    assert (pixels == images.decode(buffer.getvalue(), color, (9, 12))).all()


def test_gray_networks_see_colour_images_in_gray(make_checkpoint: MakeCheckpoint) -> None:
    pixels = Predictor(make_checkpoint()).decode([png(random_images(1, 8, 8)[0])])
    assert pixels.shape == (1, 8, 8, 1)


def test_a_bad_image_is_named_by_its_place(predictor: Predictor) -> None:
    good = png(random_images(1)[0])
    with pytest.raises(ImageError, match=r"^image 2 of 3: 5 bytes that are no PNG"):
        predictor.decode([good, b"words", good])
    with pytest.raises(ImageError, match=r"^5 bytes that are no PNG"):
        predictor.decode([b"words"])


def test_top_k_gives_the_likeliest_first(predictor: Predictor) -> None:
    probabilities = np.array([[0.1, 0.4, 0.2, 0.05, 0.25], [0.9, 0.0, 0.0, 0.1, 0.0]], dtype=np.float32)
    first, second = predictor.top_k(probabilities, 3)
    assert [(p.label, p.index) for p in first] == [("class 1", 1), ("class 4", 4), ("class 2", 2)]
    assert [p.score for p in first] == pytest.approx([0.4, 0.25, 0.2])
    assert [p.index for p in second] == [0, 3, 1], "of equal scores the lower index first"


def test_top_k_beyond_the_classes_gives_them_all(predictor: Predictor) -> None:
    [best] = predictor.top_k(np.full((1, 5), 0.125, dtype=np.float32), 50)
    assert best == [Prediction(label=f"class {i}", score=0.125, index=i) for i in range(5)]
