"""Plans a growing run to fit a time limit: which sizes it goes through, and in how many epochs.

A run that is cut off has trained its smallest networks only. So a few epochs of likely networks of up to three sizes
are timed first, real ones on a part of the images, with annealing, scoring and evaluation; then the most epochs are
chosen that fit. Where those are few, sizes are left out, and at last the largest. Distillation has what time is left
(`trainer.distil.plan`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from trainer.config import RunConfig
from trainer.data.datasets import Data
from trainer.loop.batches import fitted
from trainer.loop.epoch import evaluate
from trainer.loop.parallel import ALONE
from trainer.loop.state import first_network, fresh
from trainer.loop.timing import NUM_EPOCHS, TIMING, Clock, by_macs, once_and_again, sample_of, timed_batch, timed_within
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
# Images that are scored to time it, which costs several times as much as training on them.
_SCORED = 256


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


def few_epochs(config: RunConfig, num_train: int) -> int | None:
    """Of a ladder's trunk on so few images that its batches are made smaller, by its budget in steps; None: as the run
    has them."""
    ladder, size = config.recipe, fitted(config, num_train).batch_size
    if not isinstance(ladder, Ladder) or size == config.batch_size:
        return None
    epochs = round(ladder.steps_of_few_images / max(1, num_train // size))
    return epochs if epochs < config.epochs else None


def within(config: RunConfig, plan: Plan, seconds: float) -> RunConfig:
    """The run as it was planned; growth ends in so many seconds, however slow the machine has become."""
    assert isinstance(config.recipe, Ladder)
    recipe, limits = replace(config.recipe, sizes=plan.sizes), replace(config.limits, max_seconds=seconds)
    return replace(config, epochs=plan.epochs, recipe=recipe, limits=limits)


def planned(
    config: RunConfig,
    data: Data,
    device: torch.device,
    seconds: float,
    at: Callable[[str], None] = lambda _: None,
) -> Plan:
    """For at most `config.epochs`; of the seconds a tenth at most is for timing, of which `at` is told.

    Raises RunError where not even the smallest sizes fit, and for a run that does not grow from size to size.
    """
    ladder = config.recipe
    if not isinstance(ladder, Ladder):
        raise RunError(f"run {config.name} has no sizes to plan, so no --minutes; it has --max-seconds")
    started = time.monotonic()
    costs = measure(config, ladder, data, device, TIMING * seconds, at)
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
        needed = total(config, some, those, 2) / 60
        raise RunError(f"{seconds / 60:.1f} minutes are left for growth; the smallest sizes take {needed:.1f} or more")
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
    config: RunConfig,
    ladder: Ladder,
    data: Data,
    device: torch.device,
    seconds: float,
    at: Callable[[str], None] = lambda _: None,
) -> list[Cost]:
    """Of the network that the run starts with, and of a likely one of each size; see `timed_within`."""
    start = first_network(config, data)
    networks = [start, *ladder.likely(start, config.limits.allow)]
    macs = [num_macs(network.graph()) for network in networks]
    config = fitted(config, len(data.train))
    config = replace(config, batch_size=timed_batch(config.batch_size, device))
    timed = timed_within(
        seconds, data, macs, config.batch_size, lambda place: _timed(config, ladder, networks[place], data, device), at
    )
    places = tuple(timed)
    if len(places) > 1 and places[-1] == len(networks) - 1:  # from the last one nothing grows
        before, last = places[-2:]
        timed[last] = replace(timed[last], look=timed[before].look * macs[last] / macs[before])
    epochs, looks, once = (
        by_macs(macs, places, seconds)
        for seconds in zip(*((one.epoch, one.look, one.once) for one in timed.values()), strict=True)
    )
    return [Cost(*seconds) for seconds in zip(epochs, looks, once, strict=True)]


def _timed(config: RunConfig, ladder: Ladder, architecture: Architecture, data: Data, device: torch.device) -> Cost:
    part, share = sample_of(data, num_macs(architecture.graph()), config.batch_size)
    part_scored = replace(ladder, score_samples=min(_SCORED, ladder.score_samples))
    config = replace(config, recipe=part_scored, worth_compiling=share * config.worth_compiling)
    state = fresh(config, architecture, device)
    trainer, clock = Trainer(config, part, device, ALONE), Clock()
    for _ in range(NUM_EPOCHS - 1):
        clock(trainer.epoch(state))
    annealed, _ = trainer.anneal(state, lambda _, epoch: clock(epoch))
    once, epoch = once_and_again(clock.times, share)
    started = time.perf_counter()
    evaluate(annealed, part.test.to(device), part.preprocessing, len(part.classes))
    once += (time.perf_counter() - started) / share
    look, seconds, started = trainer.look(state, at_once=True), 0.0, time.perf_counter()
    if ladder.is_due(look):
        growth, seconds = trainer.propose(state, look)
        if growth is not None and growth.steps:
            trainer.expand(state, growth)
    once += time.perf_counter() - started - seconds
    samples = min(len(data.train), ladder.score_samples) / min(len(part.train), part_scored.score_samples)
    return Cost(epoch, samples * seconds, once)
