"""Rules that pick one of several grown networks: the paper's ratio, its code's, and the gain of what is new."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from trainer.config import refuse_unless
from trainer.growth.expand import new_entries
from trainer.growth.recipe import Candidate
from trainer.growth.scores.batch_score import batch_score
from trainer.growth.scores.expansion_score import gain_of_new_parameters, natural_score, size_penalty
from trainer.growth.scores.fisher import GradientMoments, gradient_moments, statistics_of
from zoo.network.cost import num_params
from zoo.network.graph import Graph
from zoo.runtime.module import GraphModule

Images = Float[Tensor, "n channels height width"]
Labels = Int64[Tensor, " n"]


@dataclass(frozen=True)
class RatioRule:
    """The paper's rule: the best candidate's score must exceed τ times the current network's.

    η = gᵀ F⁻¹ g · exp(−λ Δp²), over all parameters of a candidate.
    """

    tau: float = 2.0
    # The paper's text gives no value for λ; its authors' code uses 1e-7.
    lambda_: float = 1e-7
    # Forward and backward passes that a score takes.
    num_passes: ClassVar[int] = 1

    def __post_init__(self) -> None:
        refuse_unless(0 <= self.tau < inf, "tau", "a number from 0 on", self.tau)

    def natural_score(self, module: GraphModule, images: Images, labels: Labels, generator: torch.Generator) -> float:  # noqa: ARG002
        """η, without the penalty."""
        return natural_score(_moments(module, images, labels))

    def measure(
        self, module: GraphModule, images: Images, labels: Labels, generator: torch.Generator
    ) -> tuple[float, float]:
        """Of the current network: what a score has to exceed, and the unit of scores."""
        return self.tau * self.natural_score(module, images, labels, generator), 1.0

    def score(
        self, old: Graph, new: GraphModule, images: Images, labels: Labels, unit: float, generator: torch.Generator
    ) -> tuple[float, float | None]:
        """Of a grown network, and its standard error where that is known."""
        score = self.natural_score(new, images, labels, generator) / unit
        return score * size_penalty(num_params(new.graph) - num_params(old), self.lambda_), None

    def rank(self, candidate: Candidate, threshold: float) -> float:
        """Above 0 for a candidate that clears the threshold; the highest is taken."""
        return candidate.score - threshold


@dataclass(frozen=True)
class BatchRatioRule(RatioRule):
    """As the paper's published code has it: F is the square of one batch's mean gradient and g that of a second
    reading of the same images, each with other flips; by the network's running statistics (growth.scores.batch_score).
    """

    # Added to F, and whether η is divided by the number of parameters.
    damping: float = 1e-5
    per_parameter: bool = False
    num_passes: ClassVar[int] = 2

    def natural_score(self, module: GraphModule, images: Images, labels: Labels, generator: torch.Generator) -> float:
        return batch_score(module, images, labels, generator, damping=self.damping, per_parameter=self.per_parameter)


@dataclass(frozen=True)
class GainRule:
    """Score new parameters only, with the part that sampling noise adds removed; the best gain per parameter wins.

    A candidate must gain at least `threshold` (an estimate of the loss it can take away, in nats, relative to the
    present loss) and `standard_errors` times the standard error of that gain.
    """

    threshold: float = 0.02
    standard_errors: float = 2.0
    num_passes: ClassVar[int] = 1

    def __post_init__(self) -> None:
        refuse_unless(0 <= self.threshold < inf, "threshold", "a number from 0 on", self.threshold)

    def measure(
        self, module: GraphModule, images: Images, labels: Labels, generator: torch.Generator
    ) -> tuple[float, float]:
        """Half of Δη is the loss a natural step would take off; relative to the loss, scores compare over a run."""
        del generator
        # A network that is certain of every image has a loss of exactly 0, and gradients of 0 with it.
        return self.threshold, 2 * max(_moments(module, images, labels).loss, torch.finfo(torch.float32).tiny)

    def score(
        self, old: Graph, new: GraphModule, images: Images, labels: Labels, unit: float, generator: torch.Generator
    ) -> tuple[float, float | None]:
        """As of `RatioRule`."""
        del generator
        gain = gain_of_new_parameters(_moments(new, images, labels), new_entries(old, new.graph))
        return gain.value / unit, gain.standard_error / unit

    def rank(self, candidate: Candidate, threshold: float) -> float:
        """As of `RatioRule`."""
        assert candidate.standard_error is not None
        clears = candidate.score > max(threshold, self.standard_errors * candidate.standard_error)
        return candidate.score / candidate.params_added if clears else 0.0


Rule = RatioRule | BatchRatioRule | GainRule


def _moments(module: GraphModule, images: Images, labels: Labels) -> GradientMoments:
    with statistics_of(module, images):
        return gradient_moments(module, images, labels)
