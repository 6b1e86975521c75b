"""Growth with a part of the `grow` recipe replaced. Not a benchmark; imported by those beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from trainer.growth.expand import Noise
from trainer.growth.recipe import Candidate, Look
from trainer.growth.scores.expansion_score import Gain, gain_of_new_parameters
from trainer.growth.scores.fisher import gradient_moments, statistics_of
from trainer.growth.scores.kfac import kfac_gains
from trainer.loop import optim
from trainer.loop.state import RunState
from trainer.loop.trainer import Epoch, Trainer
from trainer.recipes.ladder import Ladder
from zoo.checkpoint.descriptor import Accuracy
from zoo.runtime.module import GraphModule


class Inexact(Ladder):
    """What is added begins as in a fresh network, and the logits change."""

    initialization = Noise(std=None)


class Kfac(Ladder):
    """Scored with a Kronecker-factored Fisher."""

    score = staticmethod(kfac_gains)


class Random(Ladder):
    """By chance, of what would gain more than the noise, and by cost as ever."""

    def rank(self, candidate: Candidate, look: Look) -> float:
        chance = torch.rand((), generator=look.generator).item()
        return super().rank(replace(candidate, score=chance), look)


class Uniform(Ladder):
    """Every stage becomes deeper and wider in turn, with no regard for cost."""

    def rank(self, candidate: Candidate, look: Look) -> float:
        change, stage = candidate.change, look.architecture.stages[candidate.change.block]
        return 1 / (1 + (stage.num_layers if change.kind == "deepen" else stage.channels // self.width_step))


# Squared gradients of the candidates of one look, in their order: `rank` is asked for each once, in that order.
_norms: list[float] = []


def _gains_and_norms(
    module: GraphModule, images: Tensor, labels: Tensor, new: Sequence[Mapping[str, Tensor]]
) -> tuple[float, list[Gain]]:
    with statistics_of(module, images):
        moments = gradient_moments(module, images, labels)
    _norms[:] = [
        sum(moments.by_name[name].mean[mask].square().sum().item() for name, mask in entries.items()) for entries in new
    ]
    return moments.loss, [gain_of_new_parameters(moments, entries) for entries in new]


class Gradient(Ladder):
    """Ranked by the squared norm of the mean gradient of what is new (GradMax's criterion)."""

    score = staticmethod(_gains_and_norms)

    def rank(self, candidate: Candidate, look: Look) -> float:
        return super().rank(replace(candidate, score=_norms.pop(0)), look)


CHOICES: dict[str, type[Ladder]] = {"score": Ladder, "gradient": Gradient, "random": Random, "uniform": Uniform}


class FromTrunk(Trainer):
    """The trunk goes on from where it was before a branch, whose epochs serve its checkpoint alone."""

    def anneal(self, state: RunState, tell: Callable[[RunState, Epoch], None]) -> tuple[GraphModule, Accuracy]:
        step = self.step_of(state)
        trunk, rate = step.snapshot(), optim.learning_rate(step.optimizer)
        module, validation = super().anneal(state, tell)
        step.restore(trunk)
        optim.set_learning_rate(step.optimizer, rate)
        return deepcopy(module), validation
