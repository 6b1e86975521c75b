"""Plans a growing run to fit a time limit: which sizes it goes through, and in how many epochs.

A run that is cut off has trained its smallest networks only. So a few epochs of the first network are timed before,
real ones on a part of the images, with annealing, scoring and evaluation, and a few steps of likely networks of two
other sizes; then the most epochs are chosen that fit. Where those are few, sizes are left out, and at last the largest.
Distillation has what time is left (`trainer.distil.plan`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf

import numpy as np
import torch

from trainer.config import RunConfig
from trainer.data.datasets import Data
from trainer.loop.batches import fitted
from trainer.loop.epoch import evaluate
from trainer.loop.parallel import ALONE
from trainer.loop.state import first_network, fresh
from trainer.loop.timing import NUM_EPOCHS, Clock, by_macs, once_and_again, places_to_time, sample_of, timed_batch
from trainer.loop.trainer import Trainer
from trainer.recipes.ladder import Ladder
from zoo.errors import RunError
from zoo.network.cost import num_macs
from zoo.network.families.family import Architecture

# A size is worth its time with as many epochs and steps, branch included; else there are fewer sizes.
_FEWEST_EPOCHS, _FEWEST_STEPS = 6, 150
_FEWEST_SIZES = 3
# Looks at ways to grow from a size, at most: at the half, three quarters and the end of its time.
_NUM_LOOKS = 3
# Images that a run of a short time scores, and the seconds from which on a time is not short.
_SCORED, _LONG = 512, 1800
_SCORED_FIRST = 16


@dataclass(frozen=True)
class Cost:
    """Seconds of one size: of an epoch, of one scoring of the ways to grow (`look`), and of what is done once."""

    epoch: float
    look: float
    once: float


@dataclass(frozen=True)
class Plan:
    """Sizes of the ladder, epochs of the trunk, and the seconds that they take."""

    sizes: tuple[int, ...]
    epochs: int
    seconds: float


def has_few_images(config: RunConfig, num_train: int) -> bool:
    """Whether a ladder's batches are made smaller for them."""
    return isinstance(config.recipe, Ladder) and fitted(config, num_train).batch_size < config.batch_size


def few_epochs(config: RunConfig, num_train: int) -> int | None:
    """Of a ladder's trunk on few images, by its budget in steps; None: as the run has them."""
    if not has_few_images(config, num_train):
        return None
    assert isinstance(config.recipe, Ladder)
    steps = max(1, num_train // fitted(config, num_train).batch_size)
    epochs = round(config.recipe.steps_of_few_images / steps)
    return epochs if epochs < config.epochs else None


def within(config: RunConfig, plan: Plan, seconds: float) -> RunConfig:
    """The run as it was planned; growth ends in so many seconds, however slow the machine has become."""
    assert isinstance(config.recipe, Ladder)
    recipe, limits = replace(config.recipe, sizes=plan.sizes), replace(config.limits, max_seconds=seconds)
    return replace(config, epochs=plan.epochs, recipe=recipe, limits=limits)


def compiled_if_long(config: RunConfig, seconds: float, device: torch.device) -> RunConfig:
    """The run for so short a time: on a CPU nothing is compiled, which takes 10 to 30 s for each of a dozen networks,
    in all perhaps most of it."""
    return config if seconds >= _LONG or device.type == "cuda" else replace(config, compile=False)


def in_short(config: RunConfig, seconds: float, device: torch.device) -> RunConfig:
    """A growing run for so short a time: fewer images are scored too, each of which costs several times as much as
    training on it."""
    config = compiled_if_long(config, seconds, device)
    if seconds >= _LONG or not isinstance(config.recipe, Ladder):
        return config
    return replace(config, recipe=replace(config.recipe, score_samples=min(_SCORED, config.recipe.score_samples)))


def planned(
    config: RunConfig,
    data: Data,
    device: torch.device,
    seconds: float,
    at: Callable[[str], None] = lambda _: None,
) -> Plan:
    """For at most `config.epochs`; `at` is told what is timed.

    Raises RunError where not even the smallest sizes fit, and for a run that does not grow from size to size.
    """
    ladder = config.recipe
    if not isinstance(ladder, Ladder):
        raise RunError(f"run {config.name} has no sizes to plan, so no --minutes; it has --max-seconds")
    started = time.monotonic()
    costs = measure(config, ladder, data, device, at)
    steps = max(1, len(data.train) // fitted(config, len(data.train)).batch_size)
    return plan(config, ladder, costs, steps, seconds - (time.monotonic() - started))


def plan(config: RunConfig, ladder: Ladder, costs: Sequence[Cost], steps: int, seconds: float) -> Plan:
    """`costs`: of the network that the run starts with, and of each size of the ladder; `steps`: of an epoch."""
    wanted = max(_FEWEST_EPOCHS, _FEWEST_STEPS / steps)
    for sizes in _choices(ladder.sizes):
        some = replace(ladder, sizes=sizes)
        those = [costs[0], *(costs[1 + ladder.sizes.index(size)] for size in sizes)]
        epochs = _most_epochs(config, some, those, seconds)
        if epochs == config.epochs or (1 + config.anneal_share) * epochs >= wanted * len(those):
            break
    if epochs < 1:
        needed, left = total(config, some, those, 2) / 60, max(seconds, 0) / 60
        raise RunError(f"{left:.1f} minutes are left for growth; the smallest sizes take {needed:.1f} or more")
    return Plan(sizes, epochs, total(config, some, those, epochs))


def _choices(sizes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """From all of them to three that span as much; then up to smaller ones, at last the smallest alone."""
    fewer = sizes
    while len(fewer) > _FEWEST_SIZES:
        yield fewer
        fewer = without(fewer, most_alike(fewer))
    for top in range(len(sizes), 0, -1):
        fewer = sizes[:top]
        while len(fewer) > _FEWEST_SIZES:
            fewer = without(fewer, most_alike(fewer))
        yield fewer


def most_alike(sizes: Sequence[int]) -> int:
    """The index of the inner size whose neighbours' ratio is smallest: the one that is missed least."""
    return min(range(1, len(sizes) - 1), key=lambda place: sizes[place + 1] / sizes[place - 1])


def without(items: Sequence[int], place: int) -> tuple[int, ...]:
    return (*items[:place], *items[place + 1 :])


def _most_epochs(config: RunConfig, ladder: Ladder, costs: Sequence[Cost], seconds: float) -> int:
    fewest, too_many = 0, config.epochs + 1
    while too_many - fewest > 1:
        middle = (fewest + too_many) // 2
        if total(config, ladder, costs, middle) <= seconds:
            fewest = middle
        else:
            too_many = middle
    return fewest


def total(config: RunConfig, ladder: Ladder, costs: Sequence[Cost], epochs: int) -> float:
    """Seconds of a run of so many epochs of the trunk."""
    seconds = 0.0
    for cost, (begin, end) in zip(costs, pairwise([0, *ladder.deadlines(epochs)]), strict=True):
        trunk = end - begin
        branch = max(1, round(config.anneal_share * trunk)) if config.anneal_share else 0
        seconds += (trunk + branch) * cost.epoch + min(trunk, _NUM_LOOKS) * cost.look + cost.once
    return seconds


def measure(
    config: RunConfig, ladder: Ladder, data: Data, device: torch.device, at: Callable[[str], None] = lambda _: None
) -> list[Cost]:
    """Of the network that the run starts with, and of a likely one of each size.

    All that a size takes is timed for the first one. The others' seconds are in proportion to those of a few steps,
    which are timed for the middle and the last one too.
    """
    start = first_network(config, data)
    networks = [start, *ladder.likely(start, config.limits.allow)]
    macs = [num_macs(network.graph()) for network in networks]
    config = fitted(config, len(data.train))
    config = replace(config, recipe=ladder, batch_size=timed_batch(config.batch_size, device))
    places = places_to_time(len(networks))
    steps = []
    for number, place in enumerate(places, start=1):
        at(f"timing size {place + 1} of {len(networks)} ({number} of {len(places)})")
        steps.append(_step_seconds(config, networks[place], data, device))
    at("timing all that the first size takes")
    first = _timed(config, ladder, start, data, device)
    ratios = [seconds / steps[0] for seconds in by_macs(macs, places, steps)]
    return [Cost(ratio * first.epoch, ratio * first.look, ratio * first.once) for ratio in ratios]


def _step_seconds(config: RunConfig, architecture: Architecture, data: Data, device: torch.device) -> float:
    """Of a second epoch of two steps, with statistics and validation; the first one begins."""
    part = replace(data, train=data.train.take(np.arange(min(len(data.train), 2 * config.batch_size))))
    part = replace(part, validation=data.validation.take(np.arange(min(len(data.validation), config.batch_size // 4))))
    config = replace(config, worth_compiling=inf)
    state, trainer = fresh(config, architecture, device), Trainer(config, part, device, ALONE)
    trainer.epoch(state)
    started = time.perf_counter()
    trainer.epoch(state)
    return time.perf_counter() - started


def _timed(config: RunConfig, ladder: Ladder, architecture: Architecture, data: Data, device: torch.device) -> Cost:
    part, share = sample_of(data, num_macs(architecture.graph()), config.batch_size)
    config = replace(config, worth_compiling=share * config.worth_compiling)
    state = fresh(config, architecture, device)
    trainer, clock = Trainer(config, part, device, ALONE), Clock()
    for _ in range(NUM_EPOCHS - 1):
        clock(trainer.epoch(state))
    annealed, _ = trainer.anneal(state, lambda _, epoch: clock(epoch))
    once, epoch = once_and_again(clock.times, share)
    started = time.perf_counter()
    evaluate(annealed, part.test.to(device), part.preprocessing, len(part.classes))
    once += (time.perf_counter() - started) / share
    trainer = Trainer(config, data, device, ALONE)  # scores as many images as the run will
    look, seconds, started = trainer.look(state, at_once=True), 0.0, time.perf_counter()
    if ladder.is_due(look):
        # What comes once for a process, such as a library's choice of kernels, comes now.
        replace(ladder, score_samples=_SCORED_FIRST).propose(look)
        started = time.perf_counter()
        growth, seconds = trainer.propose(state, look)
        if growth is not None and growth.steps:
            trainer.expand(state, growth)
    once += time.perf_counter() - started - seconds
    return Cost(epoch, seconds, once)
