"""Growth from size to size: what to add so that the network becomes the next size of its ladder.

All candidates are attached to the network at once and scored in one pass. Each begins with an output of zero, so
the network computes what it did before, and the gradient of every candidate is the one it would have alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from trainer.config import Ladder, Limits
from trainer.growth.expand import Initialization, expand, grid, new_entries
from trainer.growth.scores.expansion_score import gain_of_new_parameters
from trainer.growth.scores.fisher import GradientMoments, gradient_moments, statistics_of
from trainer.growth.scores.kfac import KroneckerMoments, kfac_gain_of_new_parameters, kronecker_moments
from trainer.journal.records import CandidateScore
from trainer.journal.state import FROM_NOTHING, Beginning
from zoo.network.cost import num_macs, num_params, training_flops
from zoo.network.families.family import Architecture, Change
from zoo.network.graph import Graph, parameter_shapes
from zoo.network.placement import placements
from zoo.runtime.module import GraphModule

_EXACT = Initialization(exact=True, noise_std=None)
# A size is reached when this fraction of it is; the steps of growth are too coarse to meet it exactly.
_REACHED = 0.92


@dataclass(frozen=True)
class Scored:
    """A change, what it would gain (relative to the loss), and what it costs."""

    change: Change
    score: float
    standard_error: float
    # What ranks it before costs: the score itself, or in an ablation something else.
    merit: float
    params_added: int
    macs_added: int

    def rank(self, ladder: Ladder) -> float:
        """Merit per cost; uniform growth has no regard for cost."""
        if ladder.choose == "uniform":
            return self.merit
        match ladder.grow_for:
            case "params":
                return self.merit / self.params_added
            case "macs":
                return self.merit / self.macs_added
            case "both":
                return self.merit / (self.params_added * self.macs_added) ** 0.5

    def record(self) -> CandidateScore:
        return CandidateScore(str(self.change), self.params_added, self.score, self.standard_error)


@dataclass(frozen=True)
class Taken:
    """A change that was made, with the network's parameters before and after it."""

    scored: Scored
    params_before: int
    params_after: int


@dataclass(frozen=True)
class Climb:
    """From one size to the next; `taken` is empty where nothing cleared the threshold or fitted.

    `scores` has every candidate.
    """

    architecture: Architecture
    module: GraphModule
    threshold: float
    scores: tuple[CandidateScore, ...]
    taken: tuple[Taken, ...]
    flops: int


def climb(
    architecture: Architecture,
    module: GraphModule,
    ladder: Ladder,
    size: int,
    limits: Limits,
    threshold: float,
    images: Float[Tensor, "n channels height width"],
    labels: Int64[Tensor, " n"],
    generator: torch.Generator,
) -> Climb:
    """Grows to at most `size` parameters; `module` is left alone, and so are the logits unless the ladder is inexact.

    Some change must gain `threshold` of the loss, and each that is taken `standard_errors` times its standard error.
    They are taken in the order of their gain per cost, so the first need not be the one that gains most. One pass
    scores them all, for what is added exactly changes no other's gradient.
    """
    calibration = images[: ladder.calibration_samples]
    ranked, flops = _score_all(architecture, module, ladder, images, labels, calibration, generator)
    scores = tuple(scored.record() for scored in ranked)
    sound = [scored for scored in ranked if scored.score > ladder.standard_errors * scored.standard_error]
    if not any(scored.score > threshold for scored in sound):
        return Climb(architecture, module, threshold, scores, (), flops)
    grown, taken = _grown(architecture, sound, ladder, size, limits)
    # From the trained network: what was attached to be scored was a trial.
    new = expand(module, grown.graph(), Initialization(ladder.exact, noise_std=None), calibration, generator)
    return Climb(grown, new if taken else module, threshold, scores, taken, flops)


def _grown(
    architecture: Architecture, sound: Sequence[Scored], ladder: Ladder, size: int, limits: Limits
) -> tuple[Architecture, tuple[Taken, ...]]:
    """Takes the best change that fits until the size is reached or none does.

    A score is that of the first time: a second time counts for half of it, a third for a third.
    """
    taken: list[Taken] = []
    times: Counter[Change] = Counter()
    while (before := _costs(architecture)[0]) < _REACHED * size:
        possible = options(architecture, ladder)
        larger = {one: architecture.grown(one.change, exact=True) for one in sound if one.change in possible}
        fitting = [one for one, grown in larger.items() if _fits(grown, size, limits)]
        if not fitting:
            break
        best = max(fitting, key=lambda one: one.rank(ladder) / (1 + times[one.change]))
        architecture = larger[best]
        times[best.change] += 1
        taken.append(Taken(best, before, _costs(architecture)[0]))
    return architecture, tuple(taken)


def _fits(architecture: Architecture, size: int, limits: Limits) -> bool:
    params, macs = _costs(architecture)
    return params <= size and limits.allow(params, macs)


def next_size(ladder: Ladder, params: int) -> int | None:
    """The lowest size that the network has not reached; None at the top."""
    return next((size for size in ladder.sizes if params < _REACHED * size), None)


def deadlines(ladder: Ladder, epochs: int, begun: Beginning = FROM_NOTHING) -> list[int]:
    """The epoch by which each size, from the start network's on, is to be left; the last one is the end of the run.

    A run that began with a checkpoint leaves its size at once, and shares out the epochs that are left.
    """
    weights = np.array([ladder.sizes[0], *ladder.sizes], dtype=float) ** -ladder.pace
    if begun.epoch > 0:
        num_reached = sum(begun.params >= _REACHED * size for size in ladder.sizes)
        weights[: min(num_reached, len(ladder.sizes) - 1) + 1] = 0
    ends = begun.epoch + (epochs - begun.epoch) * weights.cumsum() / weights.sum()
    return [round(float(end)) for end in ends]


def options(architecture: Architecture, ladder: Ladder) -> list[Change]:
    """One layer more in each stage that has room, and each stage wider."""
    return architecture.changes(
        max_layers=ladder.max_layers_per_stage, layer_kind="residual", channels_added=ladder.width_step
    )


def _score_all(
    architecture: Architecture,
    module: GraphModule,
    ladder: Ladder,
    images: Tensor,
    labels: Tensor,
    calibration: Tensor,
    generator: torch.Generator,
) -> tuple[list[Scored], int]:
    """Every option, best gain per cost first, and the operations that scoring took."""
    changes = options(architecture, ladder)
    everything = architecture
    for change in changes:
        everything = everything.grown(change, exact=True)
    graph = everything.graph()
    alone = {change: architecture.grown(change, exact=True) for change in changes}
    new = {change: _entries_within(module.graph, one.graph(), graph) for change, one in alone.items()}
    attached = expand(module, graph, _EXACT, calibration, generator)
    _silence_between(module.graph, attached, list(new.values()))
    measure = kronecker_moments if ladder.curvature == "kfac" else gradient_moments
    with statistics_of(attached, images):
        moments = measure(attached, images, labels)
    params, macs = _costs(architecture)
    unit = 2 * max(moments.loss, torch.finfo(torch.float32).tiny)
    ranked = []
    for change in changes:
        if isinstance(moments, KroneckerMoments):
            gain = kfac_gain_of_new_parameters(moments, new[change])
        else:
            gain = gain_of_new_parameters(moments, new[change])
        new_params, new_macs = _costs(alone[change])
        score = gain.value / unit
        merit = _merit(ladder, change, architecture, score, moments, new[change], generator)
        ranked.append(Scored(change, score, gain.standard_error / unit, merit, new_params - params, new_macs - macs))
    ranked.sort(key=lambda one: one.rank(ladder), reverse=True)
    return ranked, training_flops(num_macs(graph), len(labels))


@torch.no_grad()
def _silence_between(old: Graph, attached: GraphModule, changes: list[dict[str, Bool[Tensor, "..."]]]) -> None:
    """Zero where one change's new channels would read another's: such weights belong to no change alone."""
    for name, mask in new_entries(old, attached.graph).items():
        parameter = attached.get_parameter(name)
        if parameter.ndim > 1:
            for own in changes:
                if name in own:
                    mask &= ~own[name]
            parameter.masked_fill_(mask.to(parameter.device), 0)


def _merit(
    ladder: Ladder,
    change: Change,
    architecture: Architecture,
    score: float,
    moments: GradientMoments,
    new: Mapping[str, Bool[Tensor, "..."]],
    generator: torch.Generator,
) -> float:
    match ladder.choose:
        case "score":
            return score
        case "gradient":
            return sum(moments.by_name[name].mean[mask].square().sum().item() for name, mask in new.items())
        case "random":
            return torch.rand((), generator=generator).item()
        case "uniform":
            stage = architecture.outline()[change.block]
            return 1 / (len(stage.layers) if change.kind == "deepen" else 1 + stage.channels // ladder.width_step)


def _entries_within(old: Graph, alone: Graph, attached: Graph) -> dict[str, Bool[Tensor, "..."]]:
    """The entries that one change alone adds to `old`, marked where they lie in the network with all changes."""
    places = placements(alone, attached)
    shapes = parameter_shapes(attached)
    masks = {}
    for name, added in new_entries(old, alone).items():
        masks[name] = torch.zeros(shapes[name], dtype=torch.bool)
        masks[name][grid(places[name])] = added
    return masks


def _costs(architecture: Architecture) -> tuple[int, int]:
    graph = architecture.graph()
    return num_params(graph), num_macs(graph)
