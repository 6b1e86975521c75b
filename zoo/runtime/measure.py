"""A checkpoint's accuracy, measured once more: from its file and images it was not trained on, on ONNX Runtime."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from zoo.checkpoint.content import digest_of_images
from zoo.checkpoint.descriptor import Dataset
from zoo.checkpoint.file import Checkpoint
from zoo.errors import DataError
from zoo.images import digits
from zoo.images import folder as image_folder
from zoo.images.decode import Pixels
from zoo.images.folder import BadFiles, Color, ImageFile, ImageFolder
from zoo.images.splits import Indices, stratified
from zoo.runtime.classifier import batches
from zoo.runtime.predictor import Predictor, Scores


class HeldOutImages:
    """Test or validation images of a data set, decoded once for each form that networks take them in."""

    def __init__(self, source: str, validation: Dataset | None = None, *, skip_bad: bool = False) -> None:
        """`source`: "digits", or a directory or .tar.gz of {train,test}/<class>/<image>.

        With `validation` the images that checkpoints which say this of their data set were validated on, else the
        test images. With `skip_bad`, files that cannot be decoded are left out first, as a run with that option leaves
        them out. Raises DataError.
        """
        folder = _digits() if source == "digits" else _folder(Path(source))
        if skip_bad:
            folder = folder.without(BadFiles.among(folder.test if validation is None else folder.train))
        self.name = folder.name
        self.classes = folder.classes
        # Sentences about the images: what was left out, and what is odd about the rest.
        self.findings = (*folder.findings, *folder.equal_files())
        self._files = folder.test if validation is None else _validation(folder, validation)
        self.labels = folder.labels(self._files)
        self._decoded: dict[tuple[Color, tuple[int, int]], Pixels] = {}
        self._contents: dict[tuple[Color, tuple[int, int]], str] = {}

    def __len__(self) -> int:
        return len(self._files)

    def content(self, color: Color, size: tuple[int, int]) -> str:
        """What a descriptor that was tested on these images has as its `dataset.content.test`."""
        if (color, size) not in self._contents:
            self._contents[color, size] = digest_of_images(self.pixels(color, size), self.labels, self.classes)
        return self._contents[color, size]

    def pixels(self, color: Color, size: tuple[int, int]) -> Pixels:
        """uint8 (n, height, width, channels). Raises DataError, which names every file that cannot be decoded."""
        if (color, size) not in self._decoded:
            pixels = np.empty((len(self._files), *size, 3 if color == "rgb" else 1), dtype=np.uint8)
            bad = BadFiles()
            for row, file in zip(pixels, self._files, strict=True):
                bad.decode(file, color, size, row)
            bad.refuse()
            self._decoded[color, size] = pixels
        return self._decoded[color, size]

    def batches(self, color: Color, size: tuple[int, int]) -> Iterator[Pixels]:
        """As `pixels`, decoded as they are asked for and not kept: whoever asks may want any size."""
        for batch in batches(len(self)):
            yield np.stack([file.decode(color, size) for file in self._files[batch]])


@dataclass(frozen=True)
class Measurement:
    """Images that the network gets right, of `total`; `stated`, `stated_total`: by its descriptor, if it says.

    `same_images`: whether these are those that it was tested on; None where its descriptor does not say.
    """

    correct: int
    total: int
    stated: int | None
    stated_total: int | None
    same_images: bool | None = None

    @property
    def agrees(self) -> bool:
        """To the image. A descriptor without test accuracy has nothing to differ from."""
        return self.stated is None or (self.stated, self.stated_total) == (self.correct, self.total)

    def __str__(self) -> str:
        measured = f"{self.correct} of {self.total}"
        if self.stated is None or self.stated_total is None:
            return f"says nothing, measured {measured}"
        says = f"says {self.stated / self.stated_total:.4f} ({self.stated} of {self.stated_total})"
        found = f"{says}, measured {self.correct if self.stated_total == self.total else measured}"
        if self.same_images is False:
            return f"{found}: other images than those it was tested on"
        if self.same_images is None and not self.agrees:
            return f"{found}: perhaps on other images, the file does not say on which it was tested"
        return found


def measure(checkpoint: Checkpoint, images: HeldOutImages) -> Measurement:
    """Top-1, without test-time augmentation. Raises DataError where the images are of other classes."""
    predicted = scores(checkpoint, images, "logits").argmax(1)
    descriptor = checkpoint.descriptor
    stated, content = descriptor.metrics.test, descriptor.dataset.content
    architecture = descriptor.architecture
    size = architecture.input_height, architecture.input_width
    return Measurement(
        correct=int((predicted == images.labels).sum()),
        total=len(images),
        stated=round(stated.accuracy * stated.n) if stated else None,
        stated_total=stated.n if stated else None,
        same_images=None if content is None else content.test == images.content(descriptor.preprocessing.color, size),
    )


def scores(checkpoint: Checkpoint, images: HeldOutImages, kind: Literal["logits", "probabilities"]) -> Scores:
    """(images, classes). Raises DataError where the images are of other classes."""
    descriptor = checkpoint.descriptor
    if descriptor.classes != images.classes:
        raise DataError(
            f"{descriptor.name} tells apart {_some(descriptor.classes)}; the images are of {_some(images.classes)}"
        )
    predictor = Predictor(checkpoint)
    run = predictor.logits if kind == "logits" else predictor.probabilities
    height, width, _ = predictor.image_shape
    pixels = images.pixels(descriptor.preprocessing.color, (height, width))
    return run(pixels)


def _some(classes: tuple[str, ...]) -> str:
    return f"{len(classes)} classes ({', '.join(classes[:3])}{', …' if len(classes) > 3 else ''})"


def _folder(path: Path) -> ImageFolder:
    if not path.exists():
        raise DataError(
            f"{path}: no such directory or archive; by name there is only digits (other named data sets come through "
            f"torch, which zoo does without)"
        )
    return image_folder.read(path)


def _validation(folder: ImageFolder, dataset: Dataset) -> tuple[ImageFile, ...]:
    """As the trainer carves them out of the training images, of which a run may take a part only."""
    taken = dataset.num_train + dataset.num_validation
    if taken > len(folder.train):
        raise DataError(f"the checkpoints saw {taken} images for training, {folder.name} holds {len(folder.train)}")
    files = folder.train
    for count in (taken, dataset.num_validation):
        if count < len(files):
            chosen, _ = stratified(folder.labels(files), count)
            files = tuple(files[index] for index in chosen)
    return files


def _digits() -> ImageFolder:
    pixels, labels = digits.images_and_labels()

    def files(split: str, indices: Indices) -> tuple[ImageFile, ...]:
        return tuple(_png(pixels[index], PurePosixPath(f"{split}/{labels[index]}/{index}.png")) for index in indices)

    train, test = digits.split(labels)
    return ImageFolder("digits", digits.CLASSES, train=files("train", train), test=files("test", test))


def _png(pixels: npt.NDArray[np.uint8], path: PurePosixPath) -> ImageFile:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return ImageFile(path, buffer.getvalue())
