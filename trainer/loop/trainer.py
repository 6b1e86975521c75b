"""The steps of a run: an epoch, an annealing, an evaluation, an expansion. Nothing is written to disk here."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.config import RunConfig
from trainer.data.datasets import Data
from trainer.growth.recipe import Growth, Look
from trainer.growth.scores.fisher import gradient_moments, statistics_of
from trainer.loop import optim
from trainer.loop.epoch import (
    EpochResult,
    WeightAverage,
    chance_of,
    evaluate,
    is_at_chance,
    mean_loss,
    require_finite,
    train_epoch,
)
from trainer.loop.parallel import Group
from trainer.loop.seeds import seed_epoch, seed_of
from trainer.loop.state import Branch, RunState, plateau
from trainer.loop.statistics import measure_on, num_for_checkpoint, num_for_epoch
from trainer.loop.step import TrainingStep, pays_to_compile
from zoo.checkpoint.descriptor import Accuracy
from zoo.network.cost import forward_flops, num_macs, training_flops
from zoo.runtime.module import GraphModule, normalize

# Training images for the second moments that new parameters begin with.
_MOMENT_SAMPLES = 512


@dataclass(frozen=True)
class Epoch:
    """An epoch of the trunk, or the `branch_epoch`-th of an annealing's `branch_epochs`."""

    result: EpochResult
    validation: Accuracy
    learning_rate: float
    seconds: float
    branch_epoch: int = 0
    branch_epochs: int = 0


class Trainer:
    """Advances a run's state. All processes of a group make the same calls. `at` is told the present activity."""

    def __init__(
        self,
        config: RunConfig,
        data: Data,
        device: torch.device,
        group: Group,
        at: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.config = config
        self.data = data
        self.device = device
        self.group = group
        self.at = at
        self.train = data.train.to(device)
        self.validation = data.validation.to(device)
        self.chance = chance_of(data.validation.labels)
        self._step: TrainingStep | None = None

    # --- training ---------------------------------------------------------------------------------------------

    def epoch(self, state: RunState) -> Epoch:
        """Trains an epoch of the trunk and validates. Raises RunError where the loss diverges (NaN or infinite)."""
        started = time.perf_counter()
        state.finished_branch = None
        config = self.config
        rate = optim.learning_rate(state.optimizer)
        generator = seed_epoch(config, state.epoch, "batches", self.group)
        step = self.step_of(state)
        self.at(step.activity)
        result = train_epoch(step, self.train, generator, learning_rates=self._warmup(state))
        require_finite(result.loss, f"run {self.config.name}", state.epoch + 1, rate)
        measured = deepcopy(state.module)
        state.validation = self.validated(state, measured, "the trunk", num_for_epoch(len(self.train)))
        if config.plateau and config.plateau_on == "accuracy":
            state.scheduler.step(state.validation.accuracy)
        elif config.plateau:
            loss = mean_loss(measured, self.validation, self.data.preprocessing)
            state.scheduler.step(self.group.shared(loss))
        state.epoch += 1
        return self._spent(state, result, state.validation, rate, started)

    def anneal(self, state: RunState, tell: Callable[[RunState, Epoch], None]) -> tuple[GraphModule, Accuracy]:
        """The network of a checkpoint: after a branch, whose learning rate falls to 0, the average of its weights.

        The trunk goes on from there, at its own learning rate. Each epoch is told of; while there are more to come,
        `state.branch` holds what it takes to go on with them. A run without branches has a copy of the trunk.
        """
        if not self.config.anneal_share:
            return self._copied(state)
        config, step, before = self.config, self.step_of(state), state.branch
        rate = optim.learning_rate(step.optimizer) if before is None else before.learning_rate
        epochs_done = 0 if before is None else before.epochs_done
        steps, epochs = step.num_steps(len(self.train)), self.branch_epochs(state, state.epoch)
        average = WeightAverage(step, config.average_decay, epochs_done * steps)
        if before is not None:
            average.module.load_state_dict(before.average)
        rates = [rate * (1 - number / (epochs * steps)) for number in range(epochs * steps)]
        for index in range(epochs_done, epochs):
            started = time.perf_counter()
            self.at(step.activity)
            generator = seed_epoch(config, state.epoch, f"branch epoch {index}", self.group)
            of_epoch = rates[index * steps : (index + 1) * steps]
            result = train_epoch(step, self.train, generator, learning_rates=of_epoch, average=average)
            require_finite(result.loss, f"run {self.config.name}", state.epoch, max(of_epoch))
            is_last = index + 1 == epochs
            # A checkpoint keeps the last ones.
            num_images = num_for_checkpoint(len(self.train)) if is_last else num_for_epoch(len(self.train))
            validation = self.validated(state, average.module, f"branch epoch {index}", num_images)
            state.branch = None if is_last else Branch(index + 1, rate, average.module.state_dict())
            tell(state, self._spent(state, result, validation, of_epoch[-1], started, index + 1, epochs))
        state.module.load_state_dict(average.module.state_dict())
        optim.set_learning_rate(step.optimizer, rate)
        return average.module, validation

    def branch_epochs(self, state: RunState, epoch: int) -> int:
        """Of a branch that leaves the trunk after its given epoch."""
        if not self.config.anneal_share:
            return 0
        return max(1, round(self.config.anneal_share * (epoch - state.checkpoint_epoch)))

    def step_of(self, state: RunState) -> TrainingStep:
        """The step of the state's network and optimiser. It also gives them the memory format they train in."""
        step = self._step
        if step is None or step.module is not state.module or step.optimizer is not state.optimizer:
            compiled = pays_to_compile(self.config, num_macs(state.module.graph), len(self.train))
            step = TrainingStep(
                state.module, state.optimizer, self.config, self.data.preprocessing, self.group, compiled=compiled
            )
            self._step = step
        return step

    # --- evaluation -------------------------------------------------------------------------------------------

    def validated(self, state: RunState, module: GraphModule, of: str, num_images: int) -> Accuracy:
        """Of the module, whose batch norms get the statistics of its weights first, of so many images."""
        generator = torch.Generator().manual_seed(seed_of(self.config, state.epoch, f"statistics of {of}"))
        self.at("measuring batch norms")
        measure_on(module, self.train, self.config, self.data.preprocessing, generator, num_images)
        state.training_flops += forward_flops(num_macs(module.graph), num_images)
        self.at("evaluating")
        validation = evaluate(module, self.validation, self.data.preprocessing, len(self.data.classes))
        # An image that rounds differently on another GPU must not give it another learning rate.
        return self.group.shared(validation)

    def is_at_chance(self, validation: Accuracy | None) -> bool:
        """Whether validation accuracy is within noise of the majority-class baseline: then nothing grows."""
        return validation is not None and is_at_chance(validation, self.chance, self.config.chance_errors)

    def is_over(self, state: RunState) -> bool:
        """Whether all epochs are behind the run, or its time does not allow another one and a last checkpoint."""
        limit = self.config.limits.max_seconds
        if state.epoch >= self.config.epochs or limit is None or state.epoch == state.begun.epoch:
            return state.epoch >= self.config.epochs
        # Another epoch, and the branch of the last checkpoint after it; time goes with multiply-accumulates.
        macs, num_images = num_macs(state.module.graph), self.step_of(state).num_trained(len(self.train))
        epoch_flops = training_flops(macs, num_images) + forward_flops(macs, num_for_epoch(len(self.train)))
        ahead = (1 + self.branch_epochs(state, state.epoch + 1)) * epoch_flops
        seconds = state.device_seconds - state.begun.device_seconds
        flops = state.training_flops - state.begun.training_flops
        return self.group.shared(seconds * (1 + ahead / flops) > limit * self.group.size)

    # --- growth -----------------------------------------------------------------------------------------------

    def look(self, state: RunState, *, at_once: bool = False) -> Look:
        """The state as a recipe sees it; `at_once` as if all the time at the present size were over."""
        self.step_of(state)  # a resumed run's scores round alike
        generator = self._generator(state.epoch, "growth")
        return Look(
            architecture=state.architecture,
            module=state.module,
            epoch=state.epoch,
            epochs=self.config.epochs,
            generator=generator,
            sample=lambda count: self._sample(generator, count),
            allows=self.config.limits.allow,
            last_growth_epoch=state.last_growth_epoch,
            begun=state.begun,
            at_once=at_once,
        )

    def propose(self, state: RunState, look: Look) -> tuple[Growth | None, float]:
        """The recipe's proposal, and the seconds that scoring took."""
        started = time.perf_counter()
        self.at("scoring ways to grow")
        growth = self.group.shared(self.config.recipe.propose(look))
        seconds = time.perf_counter() - started
        state.training_flops += growth.flops if growth is not None else 0
        state.device_seconds += seconds * self.group.size
        return growth, seconds

    def expand(self, state: RunState, growth: Growth) -> None:
        """Makes the network what was proposed, and carries the optimiser's state along."""
        started = time.perf_counter()
        self.at("growing")
        recipe, generator = self.config.recipe, self._generator(state.epoch, "growth as decided")
        images, labels = self._sample(generator, _MOMENT_SAMPLES)
        module = recipe.expand(state.module, growth.architecture, images, generator)
        with statistics_of(module, images):
            moments = gradient_moments(module, images, labels)
        optimizer = optim.carried(
            state.optimizer, state.module, module, moments, self.config, all_new=not recipe.keeps_weights
        )
        # Sums of gradients may round differently on each GPU.
        self.group.unify(module.state_dict().values())
        self.group.unify(values["exp_avg_sq"] for values in optimizer.state.values() if "exp_avg_sq" in values)
        scheduler = plateau(optimizer, self.config)
        scheduler.load_state_dict(state.scheduler.state_dict())
        state.architecture, state.module = growth.architecture, module
        state.optimizer, state.scheduler = optimizer, scheduler
        state.expansions = (*state.expansions, *growth.steps)
        state.growth = None
        state.training_flops += training_flops(num_macs(module.graph), len(labels))
        state.device_seconds += (time.perf_counter() - started) * self.group.size

    # ----------------------------------------------------------------------------------------------------------

    def _copied(self, state: RunState) -> tuple[GraphModule, Accuracy]:
        """A copy of the trunk, which goes on as it is."""
        started = time.perf_counter()
        module = deepcopy(state.module)
        validation = self.validated(state, module, "the checkpoint", num_for_checkpoint(len(self.train)))
        state.device_seconds += (time.perf_counter() - started) * self.group.size
        return module, validation

    def _generator(self, epoch: int, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(seed_of(self.config, epoch, purpose))

    def _sample(self, generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Training images, normalised but not augmented, and their labels."""
        if self.config.recipe.scores_same:
            generator = self._generator(0, "images to score")
        indices = torch.randperm(len(self.train), generator=generator)[:count].to(self.device)
        return normalize(self.train.images[indices], self.data.preprocessing), self.train.labels[indices]

    def _warmup(self, state: RunState) -> list[float] | None:
        """The learning rate of each step, while it still rises."""
        config, epoch = self.config, state.epoch
        steps = self.step_of(state).num_steps(len(self.train))
        if epoch * steps >= config.warmup_steps:
            return None
        numbers = range(epoch * steps + 1, (epoch + 1) * steps + 1)
        return [config.learning_rate * min(1.0, number / config.warmup_steps) for number in numbers]

    def _spent(
        self,
        state: RunState,
        result: EpochResult,
        validation: Accuracy,
        learning_rate: float,
        started: float,
        branch_epoch: int = 0,
        branch_epochs: int = 0,
    ) -> Epoch:
        """Adds an epoch's cost to the state."""
        state.num_epochs += 1
        state.training_flops += training_flops(num_macs(state.module.graph), result.num_images)
        seconds = time.perf_counter() - started
        state.device_seconds += seconds * self.group.size
        return Epoch(result, validation, learning_rate, seconds, branch_epoch, branch_epochs)
