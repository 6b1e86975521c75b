"""Times real epochs on this machine, to plan a run: with averaging, augmentation, statistics and evaluation.

Steps alone say too little where images are few: `adapt --minutes 1` on 120 photos took 1.7 minutes when it was planned
by them (docs/log.md).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import mean

import numpy as np

from trainer.data.datasets import Data

# The first begins (it compiles, or chooses kernels), the last ends with statistics for a checkpoint.
NUM_EPOCHS = 3
# Multiply-accumulates of an epoch that is timed: a second or less on a core.
_MACS = 2e9


def sample_of(data: Data, macs: int, batch_size: int) -> tuple[Data, float]:
    """The data with as many training images as are enough to time a network of so many multiply-accumulates on, two
    batches at least, and which part of them that is. Small networks are timed on all of few: what an epoch takes
    besides its images counts there."""
    count = min(len(data.train), max(2 * batch_size, int(_MACS / macs)))
    return replace(data, train=data.train.take(np.arange(count))), count / len(data.train)


def places_to_time(number: int) -> list[int]:
    """Which of so many networks, smallest first, are timed: the first, the middle one, the last."""
    return sorted({0, number // 2, number - 1})


class Clock:
    """Notes the time when it is made, and whenever it is called: at the end of each epoch."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def __call__(self, _epoch: object) -> None:
        self.times.append(time.perf_counter())


def once_and_again(times: Sequence[float], share: float) -> tuple[float, float]:
    """From when three epochs or more began and ended, on that share of the images: the seconds that come once, and
    those of an epoch of all images."""
    first, *others, last = (after - before for before, after in pairwise(times))
    epoch = mean(others)
    return max(0.0, first - epoch) + max(0.0, last - epoch), epoch / share


def by_macs(macs: Sequence[int], places: Sequence[int], seconds: Sequence[float]) -> tuple[float, ...]:
    """Seconds of all networks, interpolated by multiply-accumulates between those that were timed."""
    at, timed = zip(*sorted(zip((macs[place] for place in places), seconds, strict=True)), strict=True)
    return tuple(np.interp(macs, at, timed).tolist())
