"""One network, trained by itself from random weights. Not a benchmark; imported by those beside it."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import cos, isfinite, pi
from pathlib import Path
from typing import Any

import torch
from machine import joules_so_far, synchronize
from torch import nn

from trainer.config import RunConfig
from trainer.data.datasets import Data
from trainer.loop import optim
from trainer.loop.epoch import WeightAverage, evaluate, train_epoch
from trainer.loop.seeds import seed_epoch
from trainer.loop.statistics import measure_on, num_for_checkpoint
from trainer.loop.step import TrainingStep, pays_to_compile
from zoo.errors import RunError
from zoo.network.cost import training_flops
from zoo.store.directory import write_atomically


@dataclass(frozen=True)
class Trained:
    """Accuracies are of the network at the end; the test split was read this once.

    `seconds` and `joules` are those of training, compilation included, evaluation not; `seconds_per_image` leaves the
    first epoch out where there is another.
    """

    validation: float
    test: float
    epochs: int
    flops: int
    seconds: float
    seconds_per_image: float
    joules: float | None


def cosine(peak: float, num_steps: int) -> list[float]:
    """The learning rate of each step: from `peak` to 0 along half a cosine."""
    return [peak * (1 + cos(pi * step / num_steps)) / 2 for step in range(num_steps)]


def late_decay(peak: float, warmup_steps: int, num_steps: int) -> list[float]:
    """The learning rate of each step: `peak` after the warm-up, linearly to 0 over the last half."""
    return [
        peak * min(1.0, (step + 1) / max(1, warmup_steps), 2 * (num_steps - step) / num_steps)
        for step in range(num_steps)
    ]


def train(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: RunConfig,
    data: Data,
    macs: int,
    epochs: int,
    schedule: Callable[[int], Sequence[float]],
    *,
    average_from: float | None = None,
    kept: Path | None = None,
) -> Trained:
    """With the batches, augmentation and compiled step of `trainer.grow`.

    `schedule` has the learning rate of each of so many steps.

    From the fraction `average_from` of the epochs on, weights are averaged as in the annealing of a growth run, and it
    is the average that is evaluated. `config.seed` seeds batches and dropout; the caller seeds the weights.

    A training that does not average may be interrupted: each epoch's end is `kept` in that file, from which the same
    call goes on. Raises RunError where the file is of another training, and where the loss is no number any more.
    """
    assert kept is None or average_from is None, "no average is kept"
    device = next(module.parameters()).device
    of = json.loads(json.dumps({"epochs": epochs, "config": asdict(config), "dataset": data.record().model_dump()}))
    before = _load(kept, of, module, optimizer) if kept is not None and kept.exists() else _Done()
    train_split = data.train.to(device)
    compiled = pays_to_compile(config, macs, len(train_split))
    step = TrainingStep(module, optimizer, config, data.preprocessing, compiled=compiled)
    steps = step.num_steps(len(train_split))
    rates = schedule(epochs * steps)
    average = None
    seconds, images = list(before.seconds), before.images
    joules = joules_so_far(device)
    for epoch in range(len(seconds), epochs):
        if average is None and average_from is not None and epoch >= average_from * epochs:
            average = WeightAverage(step, config.average_decay)
        started = time.perf_counter()
        result = train_epoch(
            step,
            train_split,
            seed_epoch(config, epoch, "from scratch"),
            learning_rates=rates[epoch * steps : (epoch + 1) * steps],
            average=average,
        )
        synchronize(device)
        if not isfinite(result.loss):
            raise RunError(f"training diverged: the loss of epoch {epoch + 1} is {result.loss}")
        seconds.append(time.perf_counter() - started)
        images += result.num_images
        if kept is not None:
            _save(kept, of, module, optimizer, _Done(seconds, images, _drawn(before, joules, device)))
        print(
            f"epoch {epoch + 1} of {epochs}: loss {result.loss:.3f}, {100 * result.accuracy:.1f} % of the training "
            f"images, {seconds[-1]:.1f} s",
            file=sys.stderr,
        )
    drawn = _drawn(before, joules, device)
    final = module if average is None else average.module
    if average is not None:  # as a growth run's checkpoints
        generator = seed_epoch(config, epochs, "statistics")
        num_images = num_for_checkpoint(len(train_split))
        measure_on(final, train_split, config, data.preprocessing, generator, num_images)
    num_classes = len(data.classes)
    validation, test = (
        evaluate(final, split.to(device), data.preprocessing, num_classes).accuracy
        for split in (data.validation, data.test)
    )
    steady = seconds[1:] or seconds
    return Trained(
        validation=validation,
        test=test,
        epochs=epochs,
        flops=training_flops(macs, images),
        seconds=sum(seconds),
        seconds_per_image=sum(steady) / (images / epochs * len(steady)),
        joules=drawn,
    )


@dataclass(frozen=True)
class _Done:
    """What an interrupted training has spent: seconds of each epoch, images, joules where they can be read."""

    seconds: Sequence[float] = ()
    images: int = 0
    joules: float | None = 0.0


def _drawn(before: _Done, start: float | None, device: torch.device) -> float | None:
    """Joules, from a counter that stood at `start`, and those of before."""
    now = joules_so_far(device)
    return None if before.joules is None or start is None or now is None else before.joules + now - start


def _save(path: Path, of: dict[str, Any], module: nn.Module, optimizer: torch.optim.Optimizer, done: _Done) -> None:
    buffer = io.BytesIO()
    training = {"of": of, "module": module.state_dict(), "optimizer": optimizer.state_dict(), "done": asdict(done)}
    torch.save(training, buffer)
    write_atomically(path, buffer.getvalue())


def _load(path: Path, of: dict[str, Any], module: nn.Module, optimizer: torch.optim.Optimizer) -> _Done:
    training = torch.load(path, map_location=next(module.parameters()).device, weights_only=True)
    if differing := [key for key in of if training["of"][key] != of[key]]:
        raise RunError(f"{path} has other {' and '.join(differing)}: --resume with the same, or another --out")
    module.load_state_dict(training["module"])
    optim.load_state(optimizer, training["optimizer"])
    return _Done(**training["done"])
