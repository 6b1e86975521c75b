"""scikit-learn's 1,797 digits, 8×8, the data set that needs no download. They come without a split."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from zoo.errors import DataError
from zoo.images.splits import Indices, stratified

CLASSES = tuple(str(digit) for digit in range(10))


def images_and_labels() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """uint8 (1797, 8, 8) and their labels. Raises DataError where scikit-learn is not installed."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise DataError(f"digits come with scikit-learn, which is not installed here ({error})") from error

    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    return pixels, bunch.target.astype(np.int64)


def split(labels: npt.NDArray[np.int64]) -> tuple[Indices, Indices]:
    """Indices of the training and of the test images: every fifth of a class is for the test."""
    test, train = stratified(labels, round(len(labels) / 5))
    return train, test
