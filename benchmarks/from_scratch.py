"""One network, trained by itself from random weights. Not a benchmark; imported by those beside it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, pi

import torch
from machine import joules_so_far, synchronize
from torch import nn

from trainer.config import RunConfig
from trainer.data import Data
from trainer.loop import WeightAverage, evaluate, train_epoch
from trainer.seeds import seed_epoch
from trainer.step import TrainingStep, pays_to_compile
from zoo.cost import training_flops


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
) -> Trained:
    """With the batches, augmentation and compiled step of `trainer.grow`.

    `schedule` has the learning rate of each of so many steps.

    From the fraction `average_from` of the epochs on, weights are averaged as in the annealing of a growth run, and it
    is the average that is evaluated. `config.seed` seeds batches and dropout; the caller seeds the weights.
    """
    device = next(module.parameters()).device
    train_split = data.train.to(device)
    compiled = pays_to_compile(config, macs, len(train_split))
    step = TrainingStep(module, optimizer, config, data.preprocessing, compiled=compiled)
    steps = step.num_steps(len(train_split))
    rates = schedule(epochs * steps)
    average = None
    seconds, images = [], 0
    joules = joules_so_far(device)
    for epoch in range(epochs):
        if average is None and average_from is not None and epoch >= average_from * epochs:
            average = WeightAverage(module, config.average_decay)
        started = time.perf_counter()
        result = train_epoch(
            step,
            train_split,
            seed_epoch(config, epoch, "from scratch"),
            learning_rates=rates[epoch * steps : (epoch + 1) * steps],
            average=average,
        )
        synchronize(device)
        seconds.append(time.perf_counter() - started)
        images += result.num_images
        print(
            f"epoch {epoch + 1} of {epochs}: loss {result.loss:.3f}, {100 * result.accuracy:.1f} % of the training "
            f"images, {seconds[-1]:.1f} s",
            file=sys.stderr,
        )
    drawn = joules_so_far(device)
    final = module if average is None else average.module
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
        joules=None if joules is None or drawn is None else drawn - joules,
    )
