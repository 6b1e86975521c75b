"""policy="adaptive" on this machine: no queue, so the deadline is about decoding and the forward pass alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np

from zoo.catalog.rows import CheckpointRow
from zoo.runtime.predictor import Predictor, Scores


def answered(
    levels: Sequence[CheckpointRow],
    loaded: Callable[[str], Predictor],
    files: Sequence[bytes],
    deadline_ms: float,
) -> tuple[Predictor, Scores]:
    """The most accurate of the levels that is measured to meet the deadline, else the first; and its scores.

    Levels ascend in accuracy and in cost. Raises ImageError.
    """
    for row in reversed(levels):
        predictor = loaded(row.digest)
        started = perf_counter()
        pixels = predictor.decode(files)
        decode_ms = 1000 * (perf_counter() - started)
        if row is levels[0] or decode_ms + _forward_ms(predictor, len(files)) <= deadline_ms:
            break
    return predictor, predictor.probabilities(pixels)


def _forward_ms(predictor: Predictor, num_images: int) -> float:
    """Of so many images, by the second run of one: the first is not like the others."""
    image = np.zeros((1, *predictor.image_shape), np.uint8)
    predictor.probabilities(image)
    started = perf_counter()
    predictor.probabilities(image)
    return 1000 * (perf_counter() - started) * num_images
