"""Narrower networks within a budget of parameters, multiply-accumulates or memory, each within the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

from zoo.errors import DescriptorError
from zoo.network.channel_groups import channel_groups
from zoo.network.cost import activation_bytes, live_bytes, num_macs, num_params
from zoo.network.families.family import Architecture
from zoo.network.graph import Graph
from zoo.network.placement import placements

Scores = Sequence[Sequence[float]]
"""Of each group of `channel_groups`, what each of its channels is worth, in any order."""

# Of each width at least this part stays where scores decide: a layer of a channel or two is a bottleneck that no score
# of single channels sees.
_LEAST_SHARE = 0.1
# How much of what is too much one round takes away, before what channels save is counted again.
_ROUND_SHARE = 0.25


@dataclass(frozen=True)
class NetworkBudget:
    """The most that a network may cost; None: any amount. `max_memory_bytes` is what the activations of one image take
    at their peak."""

    max_params: int | None = None
    max_macs: int | None = None
    max_memory_bytes: int | None = None

    def __str__(self) -> str:
        words = {"parameters": self.max_params, "multiply-accumulates": self.max_macs, "bytes": self.max_memory_bytes}
        return ", ".join(f"{limit:,} {unit}" for unit, limit in words.items() if limit is not None)

    def allows(self, architecture: Architecture) -> bool:
        return self._worst(architecture)[0] <= 1

    def _worst(self, architecture: Architecture) -> tuple[float, Callable[[Graph], float]]:
        """What it has most of, as a multiple of what is allowed, and how to count what a channel saves of it."""
        graph = architecture.graph()
        counts = (
            (self.max_params, num_params, num_params),
            (self.max_macs, num_macs, num_macs),
            (self.max_memory_bytes, activation_bytes, _smooth_peak),
        )
        found = [(count(graph) / limit, smooth) for limit, count, smooth in counts if limit is not None]
        return max(found, key=lambda one: one[0])


def _smooth_peak(graph: Graph) -> float:
    """Near the peak of the activations. Of several equal peaks no channel lowers all, but each lowers this."""
    live = live_bytes(graph)
    most = max(live)
    return float(most * sum((one / most) ** 8 for one in live) ** (1 / 8))


def levels_within(
    architecture: Architecture, budgets: Sequence[NetworkBudget], scores: Scores | None = None
) -> list[Architecture]:
    """For each budget, smallest first, a network of the family that meets it and lies within the next one.

    Without scores all widths are cut alike, to the widest that fits. With them, channels that are worth least for what
    they save of what there is too much of go first: of parameters, multiply-accumulates or memory, as the budget says.
    Raises DescriptorError where a budget cannot be met.

    Example: `levels_within(resnet20, [NetworkBudget(max_macs=10_000_000), NetworkBudget(max_macs=20_000_000)])`.
    """
    worth = None if scores is None else _worth_of_widths(architecture, scores)
    least = [ceil(_LEAST_SHARE * width) if worth else 1 for width in architecture.widths()]
    found: list[Architecture] = []
    for budget in reversed(budgets):
        if not budget.allows(architecture.narrowed(least)):
            raise DescriptorError(f"no network within {budget}: with {least} channels it has more")
        architecture = _cut_alike(architecture, budget) if worth is None else _cut(architecture, budget, worth, least)
        found.append(architecture)
    return found[::-1]


def narrowed_to(architecture: Architecture, part: float) -> Architecture:
    """With this part of each of its widths."""
    return architecture.narrowed([max(1, int(part * width + 1e-9)) for width in architecture.widths()])


def _cut_alike(architecture: Architecture, budget: NetworkBudget) -> Architecture:
    if budget.allows(architecture):
        return architecture
    enough, too_much = 0.0, 1.0
    for _ in range(30):
        part = (enough + too_much) / 2
        enough, too_much = (part, too_much) if budget.allows(narrowed_to(architecture, part)) else (enough, part)
    return narrowed_to(architecture, enough)


def _cut(
    architecture: Architecture, budget: NetworkBudget, worth: Sequence[Sequence[float]], least: Sequence[int]
) -> Architecture:
    while True:
        excess, count = budget._worst(architecture)
        if excess <= 1:
            return architecture
        widths = list(architecture.widths())
        before = count(architecture.graph())
        savings = {
            index: before - count(architecture.narrowed([*widths[:index], width - 1, *widths[index + 1 :]]).graph())
            for index, width in enumerate(widths)
            if width > least[index]
        }
        # A width's last channels are worth least, so they come first in this order too.
        candidates = sorted(
            (worth[index][channel] / max(saving, 1e-9), -channel, index)
            for index, saving in savings.items()
            for channel in range(least[index], widths[index])
        )
        left = _ROUND_SHARE * before * (1 - 1 / excess)
        for _, _, index in candidates:
            widths[index] -= 1
            left -= savings[index]
            if left <= 0:
                break
        architecture = architecture.narrowed(widths)


def _worth_of_widths(architecture: Architecture, scores: Scores) -> list[list[float]]:
    """Of each width what its channels are worth, the best first; of the groups that it sets together the sum.

    That is a channel's part of its group's scores, for each tensor that the group runs along: scores of two groups
    compare in no other way, and a residual stage's channels, which many layers read, are worth more than one layer's.
    """
    graph, widths = architecture.graph(), architecture.widths()
    groups = channel_groups(graph)
    worth = []
    for index, width in enumerate(widths):
        shares = [0.0] * width
        # Which groups are narrower where it is. A width of 1 cannot be cut, so nobody asks what it is worth.
        narrow = architecture.narrowed([*widths[:index], max(1, width - 1), *widths[index + 1 :]])
        places = placements(narrow.graph(), graph)
        for group, values in zip(groups, scores, strict=True):
            (name, axis), positions = next(iter(group.places.items()))
            kept = set(places[name][axis])
            if not all(kept.issuperset(one) for one in positions):
                total = sum(values) / len(group.places) or 1.0
                best_first = sorted(values, reverse=True)
                shares = [share + value / total for share, value in zip(shares, best_first, strict=True)]
        worth.append(shares)
    return worth
