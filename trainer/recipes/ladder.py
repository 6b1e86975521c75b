"""Growth from size to size: what to add so that the network becomes the next size of its ladder.

All candidates are attached to the network at once and scored in one pass. Each begins with an output of zero, so
the network computes what it did before, and the gradient of every candidate is the one it would have alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from trainer.config import refuse_unless
from trainer.growth.expand import Exact, Initialization, expand, grid, new_entries, shrink_and_perturb
from trainer.growth.recipe import FROM_NOTHING, Allows, Beginning, Candidate, Growth, Look, Recipe, costs
from trainer.growth.scores.expansion_score import Score, diagonal_gains
from zoo.network.cost import num_params, training_flops
from zoo.network.families.family import Architecture, Change
from zoo.network.graph import Graph, parameter_shapes
from zoo.network.placement import placements
from zoo.runtime.module import GraphModule

GrowFor = Literal["params", "macs", "both"]

# A size is reached when this fraction of it is; the steps of growth are too coarse to meet it exactly.
_REACHED = 0.92
# A share of the epochs is this many times as long as the time between two looks at the candidates: scoring them costs
# as much as a few epochs of a small network.
_LOOKS = 4


@dataclass(frozen=True)
class Rung:
    """The size to grow to next; `share_left`: the fraction of its epochs that is left, from 1 to 0."""

    size: int
    share_left: float


@dataclass(frozen=True)
class Ladder(Recipe):
    """Growth from size to size: each expansion adds the changes that score best until the next size is reached.

    The run's epochs are shared out over the sizes. From half of its share on, a size may be left when the best
    change's gain, relative to the loss, clears a threshold that falls from `threshold` to 0 at the end of its share.
    """

    # Parameters at most after the 1st, 2nd, … expansion.
    sizes: tuple[int, ...]
    # What the gain of a change is divided by to rank it; "both" is the root of parameters times multiply-accumulates.
    grow_for: GrowFor = "both"
    threshold: float = 3.0
    # Below 1, an expanded network's kernels are multiplied by it and the rest is filled up with a fresh network's
    # (shrink and perturb: Ash and Adams, arXiv 1910.08475), which changes the logits.
    shrink: float = 1.0
    # A change whose gain is below this many times its standard error is noise, and not taken; but where there are fewer
    # images than are to be scored, once the time at a size is over.
    standard_errors: float = 2.0
    # A size's share of the epochs is in proportion to size ** -pace.
    pace: float = 0.25
    # Channels that a wider stage gains. Vector units work on 8 or 16 at a time: a step of 2 made epochs no faster.
    width_step: int = 8
    max_layers_per_stage: int = 16
    score_samples: int = 4096

    # Of the trunk, where images are so few that batches are made smaller: an epoch is then 8 to 15 steps, however few.
    # 3,000 are 250 for each network of `grow`, and half as many on its branch.
    steps_of_few_images: ClassVar[int] = 3_000

    # What a subclass may do otherwise (benchmarks/ablations.py does): scoring, and how new parameters begin.
    score: ClassVar[Score] = staticmethod(diagonal_gains)
    initialization: ClassVar[Initialization] = Exact()

    def __post_init__(self) -> None:
        refuse_unless(0 <= self.threshold < inf, "threshold", "a number from 0 on", self.threshold)

    @property
    def keeps_weights(self) -> bool:
        return self.shrink == 1

    def is_due(self, look: Look) -> bool:
        return self.rung(look) is not None

    def propose(self, look: Look) -> Growth:
        """Grows to the next size at most, and leaves the logits as they are unless the ladder shrinks.

        Some change must gain the threshold's part of the loss, and each that is taken `standard_errors` times its
        standard error, unless images are few. They are taken in the order of their gain per cost, so the first need not
        be the one that gains most. One pass scores them all, for what is added exactly changes no other's gradient.
        """
        rung = self.rung(look)
        assert rung is not None
        threshold = self.threshold * rung.share_left
        images, labels = look.sample(self.score_samples)
        candidates, flops = self.candidates(look, images, labels)
        ranks = {one.change: self.rank(one, look) for one in candidates}
        ranked = sorted(candidates, key=lambda one: ranks[one.change], reverse=True)
        # Few images tell no gain from noise, and a run that waits for one stays as small as it begins.
        is_over = rung.share_left == 0 and not look.at_once
        standard_errors = 0.0 if is_over and len(labels) < self.score_samples else self.standard_errors
        sound = [one for one in ranked if one.score > standard_errors * (one.standard_error or 0.0)]
        clears = any(one.score > threshold for one in sound)
        ranked_sound = {one: ranks[one.change] for one in sound}
        taken = self._taken(look.architecture, look.allows, ranked_sound, rung.size) if clears else []
        exact = isinstance(self.initialization, Exact) and self.keeps_weights
        return look.growth(taken, exact=exact, threshold=threshold, candidates=tuple(ranked), flops=flops)

    def expand(
        self, module: GraphModule, architecture: Architecture, images: Tensor, generator: torch.Generator
    ) -> GraphModule:
        new = expand(module, architecture.graph(), self.initialization, images, generator)
        if not self.keeps_weights:
            shrink_and_perturb(new, self.shrink, generator)
        return new

    # --- when -------------------------------------------------------------------------------------------------

    def next_size(self, params: int) -> int | None:
        """The smallest target size that a network of so many parameters has not reached; None at the top."""
        return next((size for size in self.sizes if params < _REACHED * size), None)

    def deadlines(self, epochs: int, begun: Beginning = FROM_NOTHING) -> list[int]:
        """The epoch by which each size, from the start network's on, is to be left; the last is the end of the run.

        A run that began with a checkpoint leaves its size at once, and shares out the epochs that are left.
        """
        weights = np.array([self.sizes[0], *self.sizes], dtype=float) ** -self.pace
        if begun.epoch > 0:
            num_reached = sum(begun.params >= _REACHED * size for size in self.sizes)
            weights[: min(num_reached, len(self.sizes) - 1) + 1] = 0
        ends = begun.epoch + (epochs - begun.epoch) * weights.cumsum() / weights.sum()
        return [round(float(end)) for end in ends]

    def rung(self, look: Look) -> Rung | None:
        """None at the top of the ladder, before half of the time at the present size is over, and between looks."""
        size = self.next_size(num_params(look.module.graph))
        if size is None or look.at_once:
            return None if size is None else Rung(size, 0.0)
        ends = [0, *self.deadlines(look.epochs, look.begun)]
        place = self.sizes.index(size)
        # Where no change fits a size, it is left out once the next one's time is up too.
        while place + 1 < len(self.sizes) and look.epoch >= ends[place + 2]:
            place += 1
        deadline, share = ends[place + 1], ends[place + 1] - ends[place]
        earliest = look.last_growth_epoch + max(1, round(share / 2))
        if look.epoch < max(look.last_growth_epoch + 1, min(earliest, deadline)):
            return None
        if (deadline - look.epoch) % max(1, round(share / _LOOKS)):
            return None
        left = max(0, deadline - look.epoch) / max(1, deadline - earliest)
        return Rung(self.sizes[place], min(1.0, left))

    # --- what -------------------------------------------------------------------------------------------------

    def changes(self, architecture: Architecture) -> list[Change]:
        """One layer more in each stage that has room, and each stage wider."""
        return architecture.changes(
            max_layers=self.max_layers_per_stage, layer_kind="residual", channels_added=self.width_step
        )

    def candidates(self, look: Look, images: Tensor, labels: Tensor) -> tuple[list[Candidate], int]:
        """Every change with its gain relative to the loss, and the operations that scoring took."""
        changes, graph = self.changes(look.architecture), look.module.graph
        everything = look.architecture
        for change in changes:
            everything = everything.grown(change, exact=True)
        alone = [look.architecture.grown(change, exact=True) for change in changes]
        new = [_entries_within(graph, one.graph(), everything.graph()) for one in alone]
        attached = expand(look.module, everything.graph(), Exact(), images, look.generator)
        _silence_between(graph, attached, new)
        loss, gains = self.score(attached, images, labels, new)
        unit = 2 * max(loss, torch.finfo(torch.float32).tiny)
        params, macs = costs(look.architecture)
        candidates = []
        for change, one, gain in zip(changes, alone, gains, strict=True):
            added_params, added_macs = costs(one)[0] - params, costs(one)[1] - macs
            scores = gain.value / unit, gain.standard_error / unit
            candidates.append(Candidate(change, added_params, added_macs, *scores))
        return candidates, training_flops(costs(everything)[1], len(labels))

    def rank(self, candidate: Candidate, look: Look) -> float:  # noqa: ARG002
        """Gain per cost; of each candidate it is asked once, in the order of `changes`."""
        match self.grow_for:
            case "params":
                return candidate.score / candidate.params_added
            case "macs":
                return candidate.score / candidate.macs_added
            case "both":
                return candidate.score / (candidate.params_added * candidate.macs_added) ** 0.5

    def likely(self, architecture: Architecture, allows: Allows) -> Iterator[Architecture]:
        """A network of each size, such as this one may become: to reckon with before there is one.

        Of all changes the one with the fewest multiply-accumulates is taken, in turn. What has grown by scores came to
        nearly as many: the shipped 19,834, 58,890 and 139,450 parameters to 3.0, 6.5 and 12.7 million, where these have
        2.4, 7.0 and 14.4.
        """
        for size in self.sizes:
            macs = costs(architecture)[1]
            changes = self.changes(architecture)
            ranks = {Candidate(one): 1 / (costs(architecture.grown(one, exact=True))[1] - macs) for one in changes}
            for taken in self._taken(architecture, allows, ranks, size):
                architecture = architecture.grown(taken.change, exact=True)
            yield architecture

    def _taken(
        self, architecture: Architecture, allows: Allows, ranks: Mapping[Candidate, float], size: int
    ) -> list[Candidate]:
        """Takes the best change that fits until the size is reached or none does.

        A score is that of the first time: a second time counts for half of it, a third for a third.
        """
        taken: list[Candidate] = []
        times: Counter[Change] = Counter()
        while costs(architecture)[0] < _REACHED * size:
            possible = self.changes(architecture)
            larger = {one: architecture.grown(one.change, exact=True) for one in ranks if one.change in possible}
            fitting = [one for one, grown in larger.items() if costs(grown)[0] <= size and allows(*costs(grown))]
            if not fitting:
                break
            best = max(fitting, key=lambda one: ranks[one] / (1 + times[one.change]))
            architecture = larger[best]
            times[best.change] += 1
            taken.append(best)
        return taken


@torch.no_grad()
def _silence_between(old: Graph, attached: GraphModule, changes: Sequence[Mapping[str, Bool[Tensor, "..."]]]) -> None:
    """Zero where one change's new channels would read another's: such weights belong to no change alone.

    The weight of a layer whose inputs changes A and B make wider, and whose outputs A does:

                       old inputs       new by A          new by B
        old outputs    as trained       A's, begin at 0   B's, begin at 0
        new by A       A's, drawn       A's, drawn        silenced
    """
    for name, mask in new_entries(old, attached.graph).items():
        parameter = attached.get_parameter(name)
        if parameter.ndim > 1:
            for own in changes:
                if name in own:
                    mask &= ~own[name]
            parameter.masked_fill_(mask.to(parameter.device), 0)


def _entries_within(old: Graph, alone: Graph, attached: Graph) -> dict[str, Bool[Tensor, "..."]]:
    """The entries that one change alone adds to `old`, marked where they lie in the network with all changes."""
    places = placements(alone, attached)
    shapes = parameter_shapes(attached)
    masks = {}
    for name, added in new_entries(old, alone).items():
        masks[name] = torch.zeros(shapes[name], dtype=torch.bool)
        masks[name][grid(places[name])] = added
    return masks
