"""The split is the same for all runs, for ever: accuracies of another one do not compare."""

from __future__ import annotations

import numpy as np

from zoo.checkpoint.content import digest_of_indices
from zoo.images.splits import stratified


def test_cifar10s_validation_images_stay_these() -> None:
    """Networks that ship were trained on the others: a NumPy that shuffles otherwise must fail here."""
    labels = np.repeat(np.arange(10), 5_000)
    validation, rest = stratified(labels, 5_000)
    assert np.bincount(labels[validation]).tolist() == [500] * 10
    assert sorted([*validation, *rest]) == list(range(50_000))
    assert validation[:8].tolist() == [8, 15, 30, 38, 55, 57, 64, 65]
    assert digest_of_indices(validation) == "6ced92e80c7a11b2170afc6f3497c2c31d0129ceadec894b4b5ccc82e9992fa3"


def test_a_small_split_stays_this() -> None:
    validation, _ = stratified(np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 0, 1, 2]), 4)
    assert validation.tolist() == [2, 5, 7, 10]
