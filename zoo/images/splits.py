"""One split for all runs of a data set, whatever their seeds, so that their accuracies compare."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_SEED = 20240111

Indices = npt.NDArray[np.int64]


def stratified(labels: npt.NDArray[np.integer], count: int) -> tuple[Indices, Indices]:
    """Sorted indices of `count` items, each class in its share, and those of the others."""
    random = np.random.default_rng(_SEED)
    order = random.permutation(len(labels))
    # The k-th of n items of a class gets rank (k + ½)/n: the lowest ranks take equally from all classes.
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    by_rank = order[np.argsort(rank[order], kind="stable")]
    return np.sort(by_rank[:count]), np.sort(by_rank[count:])
