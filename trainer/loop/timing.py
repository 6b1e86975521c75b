"""Times real epochs on this machine, to plan a run: with averaging, augmentation, statistics and evaluation.

Steps alone say too little where images are few: `adapt --minutes 1` on 120 photos took 1.7 minutes when it was planned
by them (docs/log.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import mean
from typing import TypeVar

import numpy as np
import torch

from trainer.data.datasets import Data, Split

Timed = TypeVar("Timed")

# The first begins (it compiles, or chooses kernels), the last ends with statistics for a checkpoint.
NUM_EPOCHS = 3
# Multiply-accumulates of an epoch that is timed: a second or less on a core.
_MACS = 2e9
_CPU_BATCH = 128
# Images to evaluate on, where there are as many.
_FEWEST = 16
# Of the time there is, for timing: all else is planned by what it finds.
TIMING = 0.1


def timed_batch(batch_size: int, device: torch.device) -> int:
    """Images of a step that is timed: a CPU takes as long for each of few as of many."""
    return batch_size if device.type == "cuda" else min(batch_size, _CPU_BATCH)


def sample_of(data: Data, macs: int, batch_size: int) -> tuple[Data, float]:
    """As many training images as are enough to time a network of so many multiply-accumulates on, two batches at least,
    and which part of them that is; of the others the same part. Small networks are timed on all of few: what an epoch
    takes besides its images counts there."""
    count = _num_sampled(data, macs, batch_size)
    share = count / len(data.train)

    def part(split: Split) -> Split:
        return split.take(np.arange(min(len(split), max(_FEWEST, round(share * len(split))))))

    validation, test = part(data.validation), part(data.test)
    return replace(data, train=data.train.take(np.arange(count)), validation=validation, test=test), share


def _num_sampled(data: Data, macs: int, batch_size: int) -> int:
    return min(len(data.train), max(2 * batch_size, int(_MACS / macs)))


def places_to_time(number: int) -> list[int]:
    """Of so many networks, smallest first, those to be timed: the ends and the middle."""
    return sorted({0, number // 2, number - 1})


def timed_within(
    seconds: float,
    data: Data,
    macs: Sequence[int],
    batch_size: int,
    time_one: Callable[[int], Timed],
    at: Callable[[str], None],
) -> dict[int, Timed]:
    """Times networks, smallest first in `macs`: the first, the last and the one in the middle, by their places; those
    that will be done in so many seconds, and always the first. `at` is told of each."""
    found: dict[int, Timed] = {}
    first, *others = places_to_time(len(macs))
    order = [first, *reversed(others)]
    started, before = time.perf_counter(), (0.0, 1)
    for number, place in enumerate(order, start=1):
        work = macs[place] * _num_sampled(data, macs[place], batch_size)
        begun = time.perf_counter()
        if found and begun - started + before[0] * max(1.0, work / before[1]) > seconds:
            break
        at(f"timing size {place + 1} of {len(macs)} ({number} of {len(order)}, at most {seconds:.0f} s in all)")
        found[place] = time_one(place)
        before = time.perf_counter() - begun, work
    return dict(sorted(found.items()))


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


def by_macs(macs: Sequence[int], places: Iterable[int], seconds: Sequence[float]) -> tuple[float, ...]:
    """Seconds of all networks: interpolated by multiply-accumulates between those that were timed, beyond them in
    proportion to these."""
    at, timed = zip(*sorted(zip((macs[place] for place in places), seconds, strict=True)), strict=True)
    between = np.interp(macs, at, timed)
    return tuple((between * np.maximum(1.0, np.array(macs) / at[-1])).tolist())
