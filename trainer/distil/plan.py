"""Plans distillation to fit a time limit: how many epochs, and of which sizes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from trainer.config import RunConfig
from trainer.data.datasets import Data
from trainer.distil.answers import NUM_EPOCHS
from trainer.distil.growth_plan import most_alike, without
from trainer.distil.lessons import Lessons, save
from trainer.distil.pretrained import PretrainedAnswers
from trainer.journal.origin import Member
from trainer.loop.epoch import evaluate
from trainer.loop.timing import NUM_EPOCHS as TIMED_EPOCHS
from trainer.loop.timing import TIMING, Clock, by_macs, once_and_again, sample_of, timed_batch, timed_within
from zoo.checkpoint.descriptor import PretrainedTeacher
from zoo.errors import RunError
from zoo.store.directory import Directory

# With fewer a size is not worth its time: sizes are left out first. With more, little is gained.
_FEWEST_EPOCHS, _MOST_EPOCHS = 10, 200
# Sizes that are kept, however short the time.
_FEWEST_SIZES = 3
# Of the time there is; the rest is for what is not reckoned with.
_SHARE = 0.9
_NOBODY = PretrainedTeacher(name="nobody", weights="0" * 64)


@dataclass(frozen=True)
class Costs:
    """Seconds, measured here: an epoch of training for each size, smallest first; the largest one's answers to an
    epoch of images; and what each size costs besides, to begin with and when it is tested and saved."""

    lessons: tuple[float, ...]
    answers: float
    once: tuple[float, ...]

    def total(self, sizes: Sequence[int], epochs: int) -> float:
        lessons = sum(self.lessons[index] for index in sizes)
        return epochs * lessons + min(epochs, NUM_EPOCHS) * self.answers + sum(self.once[index] for index in sizes)


@dataclass(frozen=True)
class Plan:
    """Which of the sizes, by their places, how many epochs of each, and how many seconds that takes."""

    sizes: tuple[int, ...]
    epochs: int
    seconds: float


def planned(
    members: Sequence[Member],
    data: Data,
    config: RunConfig,
    device: torch.device,
    seconds: float,
    at: Callable[[str], None] = lambda _: None,
) -> Plan:
    """As long as that takes on this machine. `members`: smallest first. `at` is told what is timed.

    Raises RunError, see `plan`.
    """
    started = time.monotonic()
    costs = measure(members, data, config, device, TIMING * seconds, at)
    return plan(costs, [member.params for member in members], seconds - (time.monotonic() - started))


def epochs_within(
    members: Sequence[Member],
    data: Data,
    config: RunConfig,
    device: torch.device,
    seconds: float,
    at: Callable[[str], None] = lambda _: None,
) -> int:
    """For which the last of the members, the best, can teach the others in so many seconds; 0: none."""
    started = time.monotonic()
    if len(members) < 2:
        return 0
    costs = measure(members, data, config, device, TIMING * seconds, at)
    left = seconds - (time.monotonic() - started)
    return _most_epochs(costs, range(len(members) - 1), left)


def plan(costs: Costs, params: Sequence[int], seconds: float) -> Plan:
    """The most epochs in so many seconds. Where they are few, sizes are left out that lie between two others, never the
    smallest or the largest. Raises RunError where not even an epoch of three fits."""
    sizes = tuple(range(len(params)))
    while (epochs := _most_epochs(costs, sizes, _SHARE * seconds)) < _FEWEST_EPOCHS and len(sizes) > _FEWEST_SIZES:
        sizes = without(sizes, most_alike([params[index] for index in sizes]))
    if epochs < 1:
        needed, left = costs.total(sizes, 1) / _SHARE / 60, max(seconds, 0) / 60
        raise RunError(f"{left:.1f} minutes are left; an epoch of {len(sizes)} sizes takes {needed:.1f}")
    return Plan(sizes, epochs, costs.total(sizes, epochs))


def _most_epochs(costs: Costs, sizes: Sequence[int], seconds: float) -> int:
    """That so many seconds allow; 0: none."""
    epochs = 0
    while epochs < _MOST_EPOCHS and costs.total(sizes, epochs + 1) <= seconds:
        epochs += 1
    return epochs


def measure(
    members: Sequence[Member],
    data: Data,
    config: RunConfig,
    device: torch.device,
    seconds: float,
    at: Callable[[str], None] = lambda _: None,
) -> Costs:
    """`members`: smallest first; the last teaches. Up to three of them are taught for some epochs, with all that
    belongs to it, of the images or a part of them, see `timed_within`; the others take as long as their
    multiply-accumulates say."""
    *_, largest = members
    macs = [member.macs for member in members]
    config = replace(config, batch_size=timed_batch(config.batch_size, device))
    with TemporaryDirectory() as folder:

        def time_one(place: int) -> tuple[float, float]:
            return _timed(members[place], members[place] is not largest, data, config, device, folder)

        timed = timed_within(seconds, data, macs, config.batch_size, time_one, at)
        at("timing the teacher's answers")
        part, share = sample_of(data, largest.macs, config.batch_size)
        started = time.perf_counter()
        if len(members) > 1:
            Lessons(config, part, [largest], device, Path(folder)).lesson(0)
        answers = (time.perf_counter() - started) / 2 / share  # of a pair of epochs
    lessons_seconds, once_seconds = (by_macs(macs, timed, each) for each in zip(*timed.values(), strict=True))
    return Costs(lessons_seconds, answers, once_seconds)


def _timed(
    member: Member, is_taught: bool, data: Data, config: RunConfig, device: torch.device, folder: str
) -> tuple[float, float]:
    """Seconds of an epoch, and of what comes once."""
    part, share = sample_of(data, member.macs, config.batch_size)
    config = replace(config, distil_epochs=TIMED_EPOCHS, worth_compiling=share * config.worth_compiling)
    # Answers that are there already, whatever they say.
    given = PretrainedAnswers(_NOBODY, torch.zeros(len(part.train), len(data.classes))) if is_taught else None
    lessons, clock = Lessons(config, part, [], device, Path(folder), pretrained=given), Clock()
    module, epochs = lessons.teach(member, clock)
    once, epoch = once_and_again(clock.times, share)
    started = time.perf_counter()
    validation = evaluate(module, part.validation.to(device), data.preprocessing, len(data.classes))
    save(Directory(Path(folder)), module, validation, member, None, part, epochs, device)
    return epoch, once + (time.perf_counter() - started) / share
