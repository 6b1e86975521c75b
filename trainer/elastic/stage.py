"""Levels that are trained together: all of an elastic run, or one around the smaller ones that stay as they are."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.config import RunConfig
from trainer.data.datasets import Data
from trainer.distil.answers import Answers
from trainer.elastic.module import ElasticModule
from trainer.elastic.step import Block, ElasticStep
from trainer.loop import optim
from trainer.loop.epoch import EpochResult, WeightAverage, evaluate, require_finite, train_epoch
from trainer.loop.parallel import Group
from trainer.loop.seeds import seed_epoch, seed_of
from trainer.loop.statistics import measure_on, num_for_checkpoint, num_for_epoch
from trainer.loop.step import pays_to_compile
from zoo.checkpoint.descriptor import Accuracy
from zoo.network.cost import forward_flops, num_macs, training_flops
from zoo.network.graph import Graph
from zoo.runtime.module import GraphModule


@dataclass(frozen=True)
class Epoch:
    """`validations` are of each level of the stage, smallest first."""

    result: EpochResult
    validations: tuple[Accuracy, ...]
    learning_rate: float
    seconds: float
    flops: int


@dataclass(frozen=True)
class Frozen:
    """The network of the level before, which lies in the first one of a stage and keeps its weights."""

    graph: Graph
    tensors: Mapping[str, Tensor]


class Stage:
    """All processes of a group call it alike. The learning rate rises for an epoch and then falls to 0."""

    def __init__(
        self,
        number: int,
        graphs: Sequence[Graph],
        start: Mapping[str, Tensor],
        config: RunConfig,
        data: Data,
        device: torch.device,
        group: Group,
        frozen: Frozen | None = None,
        answers: Answers | None = None,
        before: dict[str, Any] | None = None,
        largest_weight: float = 1.0,
    ) -> None:
        """`start` has tensors of the largest; `answers` are a teacher's; `before` is the `state` to go on from."""
        self.number = number
        self.config = config
        self._data, self._group, self._answers = data, group, answers
        self._train, self._validation = data.train.to(device), data.validation.to(device)
        module = ElasticModule(graphs).to(device)
        module.load_levels(start)
        optimizer = optim.make(module, config)
        # Before there is a step, which lays weights and moments out in memory.
        if before is not None:
            module.load_state_dict(before["module"])
            optim.load_state(optimizer, before["optimizer"])
        macs = sum(num_macs(graph) for graph in graphs)
        self._step = ElasticStep(
            module,
            optimizer,
            config,
            data.preprocessing,
            group,
            compiled=pays_to_compile(config, macs, len(self._train)),
            largest_weight=largest_weight,
        )
        if frozen is not None:
            self._step.frozen = Block(module, frozen.graph, frozen.tensors)
            self._step.frozen.restore()
        self._average = WeightAverage(self._step, config.average_decay)
        # The average of the epoch in which the levels were best on validation images, in the mean.
        self._best: tuple[float, dict[str, Tensor]] | None = None
        self.epochs_done = 0
        if before is not None:
            self._average.module.load_state_dict(before["average"])
            self._average.num_updates = before["num_updates"]
            self._best, self.epochs_done = before["best"], before["epochs_done"]

    def state(self) -> dict[str, Any]:
        """What it takes to go on from here."""
        return {
            "epochs_done": self.epochs_done,
            "module": self._step.module.state_dict(),
            "optimizer": self._step.optimizer.state_dict(),
            "average": self._average.module.state_dict(),
            "num_updates": self._average.num_updates,
            "best": self._best,
        }

    def epoch(self) -> Epoch:
        """Raises RunError where the loss is no number."""
        started = time.perf_counter()
        config, step, epochs = self.config, self._step, self.config.epochs
        index = self.number * epochs + self.epochs_done
        steps = step.num_steps(len(self._train))
        total, first = epochs * steps, self.epochs_done * steps
        rates = [
            config.learning_rate * min((number + 1) / steps, 1 - number / total)
            for number in range(first, first + steps)
        ]
        lesson = None
        if self._answers is not None:
            with self._group.first_alone():  # it answers, and keeps what the others then find there
                lesson = self._answers.lesson(index)
        generator = seed_epoch(config, index, "elastic batches", self._group)
        result = train_epoch(step, self._train, generator, learning_rates=rates, average=self._average, lesson=lesson)
        require_finite(result.loss, f"run {config.name}", index + 1, max(rates))
        num_images = num_for_epoch(len(self._train))
        validations = tuple(validation for _, validation in self._levels(self._average.module, index, num_images))
        mean = sum(one.accuracy for one in validations)
        if self._best is None or mean >= self._best[0]:
            self._best = mean, {name: tensor.clone() for name, tensor in self._average.module.state_dict().items()}
        self.epochs_done += 1
        flops = training_flops(step.training_macs, result.num_images) + forward_flops(
            step.answering_macs, result.num_images
        )
        flops += forward_flops(step.training_macs, num_images)
        return Epoch(result, validations, max(rates), time.perf_counter() - started, flops)

    def finished(self) -> list[tuple[GraphModule, Accuracy]]:
        """The levels of the best epoch, smallest first, with their statistics and validation accuracy."""
        assert self._best is not None
        best = deepcopy(self._average.module)
        best.load_state_dict(self._best[1])
        return self._levels(best, self.number * self.config.epochs, num_for_checkpoint(len(self._train)))

    def _levels(self, average: GraphModule, index: int, num_images: int) -> list[tuple[GraphModule, Accuracy]]:
        """Of averaged weights; their batch norms get the statistics of so many training images."""
        assert isinstance(average, ElasticModule)
        found = []
        preprocessing = self._data.preprocessing
        for level in range(len(average.graphs)):
            module = average.extracted(level)
            generator = torch.Generator().manual_seed(seed_of(self.config, index, f"statistics of level {level}"))
            measure_on(module, self._train, self.config, preprocessing, generator, num_images)
            validation = evaluate(module, self._validation, preprocessing, len(self._data.classes))
            # An image that rounds differently on another process must not choose another epoch there.
            found.append((module, self._group.shared(validation)))
        return found
