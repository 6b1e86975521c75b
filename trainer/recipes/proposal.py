"""Whether the time to grow has come, and what to add: one answer for the runs that take one change at a time and for
those that climb a ladder of sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from trainer.config import Expansion, Ladder, RunConfig
from trainer.growth.expand import Initialization, expand, shrink_and_perturb
from trainer.growth.scores.fisher import GradientMoments, gradient_moments, statistics_of
from trainer.journal.records import CandidateScore
from trainer.journal.state import Decided, RunState
from trainer.recipes.candidates import decide, initialization_of
from trainer.recipes.ladder import climb, deadlines, next_size
from zoo.checkpoint.descriptor import ExpansionStep
from zoo.network.cost import num_params
from zoo.network.families.family import Change
from zoo.runtime.module import GraphModule


@dataclass(frozen=True)
class Proposal:
    """`decided`, to where `changes` lead, is None where none cleared the threshold; `flops` is what scoring took."""

    threshold: float
    scores: tuple[CandidateScore, ...]
    flops: int
    decided: Decided | None
    changes: tuple[Change, ...]


def shrinks(expansion: Expansion | Ladder) -> bool:
    """Whether no weight stays what it was: then neither do logits, nor the optimiser's moments."""
    return isinstance(expansion, Ladder) and expansion.shrink < 1


def applied(
    decided: Decided,
    module: GraphModule,
    expansion: Expansion | Ladder,
    images: Float[Tensor, "n channels height width"],
    labels: Int64[Tensor, " n"],
    generator: torch.Generator,
) -> tuple[GraphModule, GradientMoments]:
    """What was decided for a network, done to what it has become since; on (normalised) training images.

    With the moments that its new parameters begin with.
    """
    calibration = images[: expansion.calibration_samples]
    if isinstance(expansion, Ladder):
        initialization = Initialization(expansion.exact, noise_std=None)
    else:
        initialization = initialization_of(expansion)
    new = expand(module, decided.architecture.graph(), initialization, calibration, generator)
    if shrinks(expansion):
        assert isinstance(expansion, Ladder)
        shrink_and_perturb(new, expansion.shrink, generator)
    with statistics_of(new, images):
        return new, gradient_moments(new, images, labels)


def may_grow(state: RunState, config: RunConfig) -> bool:
    """Unless it is too early to, or the network is as large as it may become."""
    expansion = config.expansion
    if isinstance(expansion, Expansion):
        is_first = not state.expansions and not expansion.cools_down_at_start
        return is_first or state.epoch - state.last_growth_epoch >= expansion.cooldown_epochs
    return _next_rung(state, expansion, config.epochs) is not None


def can_grow(state: RunState, config: RunConfig) -> bool:
    """Unless the network is at the top of its ladder; whatever the time."""
    return isinstance(config.expansion, Expansion) or _rung_at_once(state, config.expansion) is not None


def propose(
    state: RunState,
    config: RunConfig,
    images: Float[Tensor, "n channels height width"],
    labels: Int64[Tensor, " n"],
    generator: torch.Generator,
    *,
    at_once: bool = False,
) -> Proposal:
    """Scores the ways to grow on (normalised) training images; the state is left alone.

    `at_once`: as if all the time at the present size were over, whatever the epoch.
    """
    if isinstance(config.expansion, Expansion):
        return _propose_change(state, config, config.expansion, images, labels, generator)
    ladder = config.expansion
    rung = _rung_at_once(state, ladder) if at_once else _next_rung(state, ladder, config.epochs)
    assert rung is not None
    return _propose_climb(state, config, ladder, rung, images, labels, generator)


def _propose_change(
    state: RunState, config: RunConfig, expansion: Expansion, images: Tensor, labels: Tensor, generator: torch.Generator
) -> Proposal:
    decision = decide(state.architecture, state.module, expansion, images, labels, generator, config.limits)
    chosen = decision.chosen
    if chosen is None:
        return Proposal(decision.threshold, decision.scores, decision.flops, None, ())
    sizes = (num_params(state.module.graph), num_params(chosen.module.graph))
    step = _step(state.epoch, chosen.change, sizes, chosen.score, decision.threshold, exact=expansion.exact)
    decided = Decided(chosen.architecture, (step,))
    return Proposal(decision.threshold, decision.scores, decision.flops, decided, (chosen.change,))


def _propose_climb(
    state: RunState,
    config: RunConfig,
    ladder: Ladder,
    rung: _Rung,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
) -> Proposal:
    climbed = climb(
        state.architecture,
        state.module,
        ladder,
        rung.size,
        config.limits,
        ladder.threshold * rung.share_left,
        images,
        labels,
        generator,
    )
    steps = tuple(
        _step(
            state.epoch,
            taken.scored.change,
            (taken.params_before, taken.params_after),
            taken.scored.score,
            climbed.threshold,
            exact=ladder.exact and not shrinks(ladder),
        )
        for taken in climbed.taken
    )
    decided = Decided(climbed.architecture, steps) if steps else None
    changes = tuple(taken.scored.change for taken in climbed.taken)
    return Proposal(climbed.threshold, climbed.scores, climbed.flops, decided, changes)


# A share of the epochs is this many times as long as the time between two looks at the candidates: scoring them costs
# as much as a few epochs of a small network.
_LOOKS = 4


@dataclass(frozen=True)
class _Rung:
    """The size to grow to next; `share_left` falls from 1 to 0 while its time comes."""

    size: int
    share_left: float


def _rung_at_once(state: RunState, ladder: Ladder) -> _Rung | None:
    """None at the top of the ladder."""
    size = next_size(ladder, num_params(state.module.graph))
    return None if size is None else _Rung(size, 0.0)


def _next_rung(state: RunState, ladder: Ladder, epochs: int) -> _Rung | None:
    """None at the top of the ladder, before half of the time at the present size is over, and between looks."""
    size = next_size(ladder, num_params(state.module.graph))
    if size is None:
        return None
    ends = [0, *deadlines(ladder, epochs, state.begun)]
    place = ladder.sizes.index(size)
    # Where no change fits a size, it is left out once the next one's time is up too.
    while place + 1 < len(ladder.sizes) and state.epoch >= ends[place + 2]:
        place += 1
    deadline, share = ends[place + 1], ends[place + 1] - ends[place]
    earliest = state.last_growth_epoch + max(1, round(share / 2))
    if state.epoch < max(state.last_growth_epoch + 1, min(earliest, deadline)):
        return None
    if (deadline - state.epoch) % max(1, round(share / _LOOKS)):
        return None
    left = max(0, deadline - state.epoch) / max(1, deadline - earliest)
    return _Rung(ladder.sizes[place], min(1.0, left))


def _step(
    epoch: int, change: Change, params: tuple[int, int], score: float, threshold: float, *, exact: bool
) -> ExpansionStep:
    """`params`: before and after."""
    return ExpansionStep(
        epoch=epoch,
        kind=change.kind,
        block=change.block,
        layer_kind=change.layer_kind,
        channels_added=change.channels_added,
        params_before=params[0],
        params_after=params[1],
        score=score,
        threshold=threshold,
        exact=exact,
    )
