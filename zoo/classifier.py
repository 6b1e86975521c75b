"""A checkpoint as a function of images in whatever form a program has them, on a runtime that subclasses choose.

Pixels are prepared as the checkpoint's descriptor says, so that the answers are those of a server.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

from zoo.descriptor import Descriptor
from zoo.errors import ImageError
from zoo.image_input import Image, Images, encoded, is_one, listed
from zoo.images import decode
from zoo.views import Prediction

Pixels = npt.NDArray[np.uint8]


class Classifier(ABC):
    descriptor: Descriptor

    @overload  # a path is a sequence too: the first that fits counts
    def predict(self, images: Image, top_k: int = 5) -> list[Prediction]: ...  # type: ignore[overload-overlap]

    @overload
    def predict(self, images: Sequence[Image], top_k: int = 5) -> list[list[Prediction]]: ...

    def predict(self, images: Images, top_k: int = 5) -> list[Prediction] | list[list[Prediction]]:
        """The likeliest classes of one image, likeliest first; or of each of a list. Raises ImageError."""
        answers = self._best(pixels_of(listed(images), self.descriptor), top_k)
        return answers[0] if is_one(images) else answers

    @abstractmethod
    def _best(self, pixels: Pixels, top_k: int) -> list[list[Prediction]]: ...


def pixels_of(images: Images, descriptor: Descriptor) -> Pixels:
    """uint8 (batch, height, width, channels), as the network takes it; such an array goes in as it is.

    Raises ImageError.
    """
    architecture = descriptor.architecture
    shape = (architecture.input_height, architecture.input_width, architecture.input_channels)
    if isinstance(images, np.ndarray) and images.ndim == 4:
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            expected = f"uint8 (batch, {', '.join(map(str, shape))})"
            raise ImageError(f"{descriptor.name} takes batches of {expected}, not {images.dtype} {images.shape}")
        return images
    given = listed(images)
    pixels = np.empty((len(given), *shape), dtype=np.uint8)
    for index, image in enumerate(given):
        try:
            pixels[index] = decode(encoded(image), descriptor.preprocessing.color, shape[:2])
        except ImageError as error:
            raise ImageError(f"image {index + 1} of {len(given)}: {error}" if len(given) > 1 else str(error)) from error
    return pixels
