"""Which way to grow, if any: builds every candidate, scores it, applies the run's rule."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from trainer.config import NO_LIMITS, Expansion, GainRule, Limits, RatioRule
from trainer.growth.expand import Initialization, expand, new_entries
from trainer.growth.scores.batch_score import batch_score
from trainer.growth.scores.expansion_score import gain_of_new_parameters, natural_score, size_penalty
from trainer.growth.scores.fisher import GradientMoments, gradient_moments, statistics_of
from trainer.journal.records import CandidateScore
from zoo.network.cost import num_macs, num_params, training_flops
from zoo.network.families.family import Architecture, Change
from zoo.runtime.module import GraphModule


@dataclass(frozen=True)
class Candidate:
    """A grown network as it was scored; `rank` orders the ones that clear the threshold."""

    change: Change
    architecture: Architecture
    module: GraphModule
    score: float
    standard_error: float | None
    rank: float

    @property
    def clears(self) -> bool:
        return self.rank > 0


@dataclass(frozen=True)
class Decision:
    threshold: float
    scores: tuple[CandidateScore, ...]
    chosen: Candidate | None
    flops: int


def decide(
    architecture: Architecture,
    module: GraphModule,
    expansion: Expansion,
    images: Float[Tensor, "n channels height width"],
    labels: Int64[Tensor, " n"],
    generator: torch.Generator,
    limits: Limits = NO_LIMITS,
) -> Decision:
    """Scores every change within the limits on the given (normalised) training images; `module` is not changed."""
    initialization = initialization_of(expansion)
    calibration = images[: expansion.calibration_samples]
    rule = expansion.rule
    if isinstance(rule, RatioRule) and rule.fisher == "batch":
        return _decide_by_batch(architecture, module, expansion, rule, images, labels, generator, limits)
    with statistics_of(module, images):
        current = gradient_moments(module, images, labels)
    threshold = rule.tau * natural_score(current) if isinstance(rule, RatioRule) else rule.threshold
    flops = training_flops(num_macs(module.graph), len(labels))
    candidates = []
    for change in changes(architecture, expansion):
        grown = architecture.grown(change, exact=expansion.exact)
        graph = grown.graph()
        if not limits.allow(num_params(graph), num_macs(graph)):
            continue
        new = expand(module, graph, initialization, calibration, generator)
        with statistics_of(new, images):
            moments = gradient_moments(new, images, labels)
        flops += training_flops(num_macs(graph), len(labels))
        added = num_params(graph) - num_params(module.graph)
        score, error, rank = _score(rule, moments, threshold, added, module, new, current.loss)
        candidates.append(Candidate(change, grown, new, score, error, rank))
    return _decision(threshold, candidates, module, flops)


def initialization_of(expansion: Expansion) -> Initialization:
    return Initialization(
        expansion.exact, expansion.noise_std, box_identity=expansion.box_identity, resets=expansion.resets_widened
    )


def _decision(threshold: float, candidates: list[Candidate], module: GraphModule, flops: int) -> Decision:
    """The best of the candidates, if it clears the threshold."""
    scores = tuple(
        CandidateScore(
            str(candidate.change),
            num_params(candidate.module.graph) - num_params(module.graph),
            candidate.score,
            candidate.standard_error,
        )
        for candidate in candidates
    )
    best = max(candidates, key=lambda candidate: candidate.rank, default=None)
    return Decision(threshold, scores, best if best is not None and best.clears else None, flops)


def _decide_by_batch(
    architecture: Architecture,
    module: GraphModule,
    expansion: Expansion,
    rule: RatioRule,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    limits: Limits,
) -> Decision:
    """As the published code decides: by one batch's gradient, and each network's running statistics."""
    threshold = rule.tau * batch_score(module, images, labels, rule, generator)
    flops = 2 * training_flops(num_macs(module.graph), len(labels))
    candidates = []
    for change in changes(architecture, expansion):
        grown = architecture.grown(change, exact=False)
        graph = grown.graph()
        if not limits.allow(num_params(graph), num_macs(graph)):
            continue
        new = expand(module, graph, initialization_of(expansion), images, generator)
        flops += 2 * training_flops(num_macs(graph), len(labels))
        added = num_params(graph) - num_params(module.graph)
        score = batch_score(new, images, labels, rule, generator) * size_penalty(added, rule.lambda_)
        candidates.append(Candidate(change, grown, new, score, None, score - threshold))
    return _decision(threshold, candidates, module, flops)


def changes(architecture: Architecture, expansion: Expansion) -> list[Change]:
    """The ways to grow that the run allows."""
    return architecture.changes(
        max_layers=expansion.max_layers_per_block,
        layer_kind=expansion.layer_kind,
        channels_added=expansion.channels_added,
    )


def _score(
    rule: RatioRule | GainRule,
    moments: GradientMoments,
    threshold: float,
    params_added: int,
    module: GraphModule,
    new: GraphModule,
    loss: float,
) -> tuple[float, float | None, float]:
    """(score, its standard error, rank); a rank above 0 clears the threshold."""
    if isinstance(rule, RatioRule):
        score = natural_score(moments) * size_penalty(params_added, rule.lambda_)
        return score, None, score - threshold
    gain = gain_of_new_parameters(moments, new_entries(module.graph, new.graph))
    # Half of Δη is the loss a natural step would take off; relative to the loss, scores compare over a run.
    # A network that is certain of every image has a loss of exactly 0, and gradients of 0 with it.
    unit = 2 * max(loss, torch.finfo(torch.float32).tiny)
    score, error = gain.value / unit, gain.standard_error / unit
    clears = score > threshold and score > rule.standard_errors * error
    return score, error, score / params_added if clears else 0.0
