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

from zoo.checkpoint.content import digest_of_images, digest_of_indices
from zoo.checkpoint.descriptor import Dataset, Descriptor
from zoo.checkpoint.file import Checkpoint
from zoo.errors import DataError
from zoo.images import digits
from zoo.images import folder as image_folder
from zoo.images.decode import Form, Pixels
from zoo.images.folder import BadFiles, ImageFile, ImageFolder
from zoo.images.splits import Indices, stratified
from zoo.runtime.classifier import batches, form_of
from zoo.runtime.predictor import Predictor, Scores


class HeldOutImages:
    """Test or validation images of a data set, decoded once for each form that networks take them in."""

    def __init__(
        self, source: str, validation: Dataset | None = None, *, skip_bad: bool = False, test_share: float | None = None
    ) -> None:
        """`source`: "digits", or a directory or archive of images, as `folder.read` reads it, with `test_share`.

        With `validation` the images that checkpoints which say this of their data set were validated on, else the
        test images. With `skip_bad`, files that cannot be decoded are left out first, as a run with that option leaves
        them out. Raises DataError.
        """
        folder = _digits() if source == "digits" else _folder(Path(source), test_share)
        if skip_bad:
            used = folder.test if validation is None else folder.train + folder.validation
            folder = folder.without(BadFiles.among(used))
        self.name = folder.name
        self.classes = folder.classes
        # Sentences about the images: what was left out, and what is odd about the rest.
        self.findings = (*folder.findings, *folder.equal_files())
        self._files = folder.test if validation is None else _validation(folder, validation)
        self.labels = folder.labels(self._files)
        self._decoded: dict[Form, Pixels] = {}
        self._contents: dict[Form, str] = {}

    def __len__(self) -> int:
        return len(self._files)

    def content(self, form: Form) -> str:
        """What a descriptor that was tested on these images has as its `dataset.content.test`."""
        if form not in self._contents:
            self._contents[form] = digest_of_images(self.pixels(form), self.labels, self.classes)
        return self._contents[form]

    def pixels(self, form: Form) -> Pixels:
        """uint8 (n, height, width, channels). Raises DataError, which names every file that cannot be decoded."""
        if form not in self._decoded:
            bad = BadFiles()
            pixels = bad.pixels(self._files, form)
            bad.refuse()
            self._decoded[form] = pixels
        return self._decoded[form]

    def batches(self, form: Form) -> Iterator[Pixels]:
        """As `pixels`, decoded as they are asked for and not kept: whoever asks may want any size."""
        for batch in batches(len(self)):
            yield np.stack([file.decode(form) for file in self._files[batch]])


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
    return Measurement(
        correct=int((predicted == images.labels).sum()),
        total=len(images),
        stated=round(stated.accuracy * stated.n) if stated else None,
        stated_total=stated.n if stated else None,
        same_images=None if content is None else content.test == images.content(form_of(descriptor)),
    )


def scores(checkpoint: Checkpoint, images: HeldOutImages, kind: Literal["logits", "probabilities"]) -> Scores:
    """(images, classes). Raises DataError where the images are of other classes."""
    descriptor = checkpoint.descriptor
    if difference := of_other_classes(descriptor, images):
        raise DataError(difference)
    predictor = Predictor(checkpoint)
    run = predictor.logits if kind == "logits" else predictor.probabilities
    return run(images.pixels(form_of(descriptor)))


def of_other_classes(descriptor: Descriptor, images: HeldOutImages) -> str | None:
    """A sentence that says so; None where they are of the same."""
    if descriptor.classes == images.classes:
        return None
    return f"{descriptor.name} tells apart {_some(descriptor.classes)}; the images are of {_some(images.classes)}"


def _some(classes: tuple[str, ...]) -> str:
    return f"{len(classes)} classes ({', '.join(classes[:3])}{', …' if len(classes) > 3 else ''})"


def _folder(path: Path, test_share: float | None) -> ImageFolder:
    if not path.exists():
        raise DataError(
            f"{path}: no such directory or archive; by name there is only digits (other named data sets come through "
            f"torch, which zoo does without)"
        )
    return image_folder.read(path, test_share)


def _validation(folder: ImageFolder, dataset: Dataset) -> tuple[ImageFile, ...]:
    """The folder's own, or as the trainer takes them from the training images, of which a run may use a part only."""
    if dataset.content is not None and dataset.content.split == digest_of_indices(np.array([], dtype=np.int64)):
        if len(folder.validation) != dataset.num_validation:
            raise DataError(
                f"the checkpoints were validated on {dataset.num_validation} images of a folder of their own, "
                f"{folder.name} holds {len(folder.validation)}"
            )
        return folder.validation
    if folder.test_share is not None and len(folder.test) != dataset.num_test:
        raise DataError(
            f"the checkpoints were tested on {dataset.num_test} images; of {folder.name} {len(folder.test)} are set "
            f"aside with --test-share {folder.test_share:g}: give the share that they were trained with"
        )
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
        return tuple(_png(pixels[index], split, str(labels[index]), index) for index in indices)

    train, test = digits.split(labels)
    return ImageFolder("digits", digits.CLASSES, train=files("train", train), test=files("test", test))


def _png(pixels: npt.NDArray[np.uint8], split: str, label: str, index: int) -> ImageFile:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return ImageFile(PurePosixPath(split, label, f"{index}.png"), split, label, buffer.getvalue())
