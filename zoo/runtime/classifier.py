"""A checkpoint as a function of images in whatever form a program has them, on a runtime that subclasses choose.

Pixels are prepared as the checkpoint's descriptor says, so that the answers are those of a server.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

from zoo.catalog.views import Prediction
from zoo.checkpoint.descriptor import Descriptor
from zoo.choosing.policy import check_top_k
from zoo.errors import ImageError
from zoo.images.decode import Form, decode
from zoo.images.inputs import Image, Images, encoded, is_one, listed

_MAX_BATCH = 100

Pixels = npt.NDArray[np.uint8]


class Classifier(ABC):
    descriptor: Descriptor

    @overload  # a path is a sequence too: the first that fits counts
    def predict(self, images: Image, top_k: int = 5) -> list[Prediction]: ...  # type: ignore[overload-overlap]

    @overload
    def predict(self, images: Sequence[Image], top_k: int = 5) -> list[list[Prediction]]: ...

    def predict(self, images: Images, top_k: int = 5) -> list[Prediction] | list[list[Prediction]]:
        """The likeliest classes of one image, likeliest first; or of each of a list. Raises ImageError, ZooError."""
        check_top_k(top_k)
        given = pixel_batches(listed(images), self.descriptor)
        answers = [row for pixels in given for row in self._best(pixels, top_k)]
        return answers[0] if is_one(images) else answers

    @abstractmethod
    def _best(self, pixels: Pixels, top_k: int) -> list[list[Prediction]]: ...


def form_of(descriptor: Descriptor) -> Form:
    architecture, preprocessing = descriptor.architecture, descriptor.preprocessing
    return Form(
        preprocessing.color, (architecture.input_height, architecture.input_width), preprocessing.fit or "squeeze"
    )


def pixel_batches(images: Images, descriptor: Descriptor) -> Iterator[Pixels]:
    """uint8 (batch, height, width, channels), as the network takes it: one batch at least, none too large for memory.

    An array of that form goes in as it is. Raises ImageError.
    """
    form = form_of(descriptor)
    shape = (*form.size, form.channels)
    if isinstance(images, np.ndarray) and images.ndim == 4:
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            expected = f"uint8 (batch, {', '.join(map(str, shape))})"
            raise ImageError(f"{descriptor.name} takes batches of {expected}, not {images.dtype} {images.shape}")
        yield from (images[batch] for batch in batches(len(images)))
        return
    given = listed(images)
    for batch in batches(len(given)):
        pixels = np.empty((len(given[batch]), *shape), dtype=np.uint8)
        for index, image in enumerate(given[batch]):
            try:
                pixels[index] = decode(encoded(image), *form)
            except ImageError as error:
                place = f"image {batch.start + index + 1} of {len(given)}: " if len(given) > 1 else ""
                raise ImageError(f"{place}{error}") from error
        yield pixels


def batches(num_images: int) -> Iterator[slice]:
    """Larger ones only take more memory: 1,000 images took 144 MB more at once than in hundreds, and 4,000 took the
    paper's start net 0.15 s at 100 and 0.18 s at 1,000."""
    for start in range(0, max(num_images, 1), _MAX_BATCH):
        yield slice(start, start + _MAX_BATCH)
