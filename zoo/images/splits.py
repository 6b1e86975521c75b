"""One split for all runs of a data set, whatever their seeds, so that their accuracies compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

_SEED = 20240111
# Of the training images, where a data set brings no validation images of its own.
VALIDATION_FRACTION = 0.1

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


def validation(labels: npt.NDArray[np.integer]) -> tuple[Indices, Indices]:
    """Of the training images those that validate, and the rest."""
    return stratified(labels, max(1, round(VALIDATION_FRACTION * len(labels))))


def held_out(
    labels: Sequence[Hashable], contents: Sequence[bytes], together: Sequence[Sequence[int]], share: float
) -> Indices:
    """Sorted indices of about `share` of each class, decided by contents alone: names and order do not matter.

    Items of one list of `together` are on one side; a list that fits no class's share is not held out.
    """
    leader = list(range(len(labels)))
    for group in together:
        for place in group:
            leader[place] = group[0]
    members: dict[int, list[int]] = {}
    for place, first in enumerate(leader):
        members.setdefault(first, []).append(place)
    left = Counter({label: min(max(1, round(share * count)), count - 1) for label, count in Counter(labels).items()})
    chosen: list[int] = []
    for group in sorted(members.values(), key=lambda group: min(contents[place] for place in group)):
        wanted = Counter(labels[place] for place in group)
        if wanted <= left:
            left -= wanted
            chosen += group
    return np.sort(np.array(chosen, dtype=np.int64))
