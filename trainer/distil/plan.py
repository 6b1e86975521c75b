"""How many epochs, and of which sizes, fit into the time that there is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from trainer.config import RunConfig
from trainer.data.datasets import Data
from trainer.distil.answers import NUM_EPOCHS
from trainer.distil.lessons import Member
from trainer.loop import optim
from trainer.loop.step import TrainingStep
from zoo.errors import RunError
from zoo.runtime.module import normalize
from zoo.store.directory import write_atomically

# With fewer a size is not worth its time: sizes are left out first. With more, little is gained.
_FEWEST_EPOCHS, _MOST_EPOCHS = 10, 200
# Sizes that are kept, however short the time.
_FEWEST_SIZES = 3
_MEASURED_STEPS = 3
# Of the time there is; the rest is for what is not reckoned with.
_SHARE = 0.9


@dataclass(frozen=True)
class Costs:
    """Seconds, measured here: an epoch of training for each size, smallest first; the largest one's answers to an
    epoch of images; and what each size costs besides, when it is evaluated."""

    lessons: tuple[float, ...]
    answers: float
    evaluation: float

    def total(self, sizes: Sequence[int], epochs: int) -> float:
        lessons = sum(self.lessons[index] for index in sizes)
        return epochs * lessons + min(epochs, NUM_EPOCHS) * self.answers + len(sizes) * self.evaluation


@dataclass(frozen=True)
class Plan:
    """Which of the sizes, by their places, how many epochs of each, and how many seconds that takes."""

    sizes: tuple[int, ...]
    epochs: int
    seconds: float


def planned(members: Sequence[Member], data: Data, config: RunConfig, device: torch.device, seconds: float) -> Plan:
    """As long as that takes on this machine. `members`: smallest first. Raises RunError, see `plan`."""
    started = time.monotonic()
    costs = measure(members, data, config, device)
    return plan(costs, [member.params for member in members], seconds - (time.monotonic() - started))


def kept(path: Path, key: list[str], make: Callable[[], Plan]) -> Plan:
    """What the file says was planned for the same key; else what `make` returns, which is then kept there."""
    try:
        saved = _FILE.validate_json(path.read_bytes())
    except (OSError, ValidationError):  # not there, or damaged
        saved = None
    if saved is not None and saved[0] == key:
        return saved[1]
    made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _FILE.dump_json((key, made)))
    return made


def plan(costs: Costs, params: Sequence[int], seconds: float) -> Plan:
    """The most epochs in so many seconds. Where they are few, sizes are left out, of the two that are most alike the
    larger one, but never the smallest or the largest of all. Raises RunError where not even an epoch of three fits."""
    sizes = list(range(len(params)))
    while (epochs := _most_epochs(costs, sizes, _SHARE * seconds)) < _FEWEST_EPOCHS and len(sizes) > _FEWEST_SIZES:
        ratios = [params[after] / params[before] for before, after in pairwise(sizes[:-1])]
        del sizes[1 + ratios.index(min(ratios))]
    if epochs < 1:
        needed = costs.total(sizes, 1) / _SHARE
        raise RunError(f"{seconds / 60:.1f} minutes are left; an epoch of {len(sizes)} sizes takes {needed / 60:.1f}")
    return Plan(tuple(sizes), epochs, costs.total(sizes, epochs))


_FILE = TypeAdapter(tuple[list[str], Plan])


def _most_epochs(costs: Costs, sizes: Sequence[int], seconds: float) -> int:
    epochs = 0
    while epochs < _MOST_EPOCHS and costs.total(sizes, epochs + 1) <= seconds:
        epochs += 1
    return epochs


def measure(members: Sequence[Member], data: Data, config: RunConfig, device: torch.device) -> Costs:
    """`members`: smallest first. A few steps of copies of them, which are not compiled: what is, is no slower."""
    num_steps = max(1, len(data.train) // config.batch_size)
    images, labels = (part[: config.batch_size].to(device) for part in (data.train.images, data.train.labels))
    answers = torch.zeros(len(labels), len(data.classes), device=device)
    lessons, forward = [], 0.0
    for member in members:
        module = member.module(device).train()
        step = TrainingStep(module, optim.make(module, config), config, data.preprocessing)
        lessons.append(num_steps * _seconds(partial(step, images, labels, answers), device))
        module.eval()
        with torch.no_grad():
            forward = _seconds(partial(module, normalize(images, data.preprocessing)), device)
    evaluated = len(data.validation) + len(data.test)
    return Costs(tuple(lessons), num_steps * forward, evaluated / len(labels) * forward)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """Of one call, after one that does not count."""
    run()
    started = time.perf_counter()
    for _ in range(_MEASURED_STEPS):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / _MEASURED_STEPS
