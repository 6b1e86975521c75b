"""Which levels an elastic run has: networks that lie one within the next, smallest first."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from trainer.config import RunConfig
from trainer.journal.origin import Origin
from zoo.checkpoint.descriptor import Descriptor
from zoo.checkpoint.nesting import shared_places
from zoo.errors import CheckpointError, DescriptorError, RunError
from zoo.network.cost import num_params
from zoo.network.families import blueprint
from zoo.network.families.family import Architecture, Change
from zoo.network.levels import NetworkBudget, levels_within, narrowed_to

MIN_LEVELS, MAX_LEVELS = 2, 5
Measure = Literal["params", "macs", "memory"]
Cut = Literal["growth", "widths"]
_BUDGETS: dict[Measure, Callable[[int], NetworkBudget]] = {
    "params": lambda most: NetworkBudget(max_params=most),
    "macs": lambda most: NetworkBudget(max_macs=most),
    "memory": lambda most: NetworkBudget(max_memory_bytes=most),
}

# Channels and layers of each stage. Of runs that grow: what they begin with is smaller than any level.
# grow: at most about 20 times in parameters, since a wider range costs the lower middle (docs/log.md).
_LADDERS = {
    "grow": (
        ((16, 2), (24, 2), (24, 3)),
        ((16, 3), (32, 3), (40, 4)),
        ((24, 3), (40, 4), (56, 5)),
        ((24, 4), (48, 5), (88, 6)),
        ((24, 5), (56, 6), (128, 6)),
    ),
    "digits": (
        ((8, 1), (12, 1)),
        ((12, 1), (20, 2)),
        ((16, 2), (32, 3)),
    ),
}
# Of a checkpoint that grew, unless it is told: parts of its parameters.
_SHARES = (0.064, 0.16, 0.4, 1.0)
# Of a run or checkpoint that did not, unless it is told: parts of its widths.
_WIDTHS = (0.25, 0.5, 0.75, 1.0)

_NUMBER = re.compile(r"(\d+(?:\.(\d+))?)([kM]?)")


@dataclass(frozen=True)
class Levels:
    """The networks, smallest first, and the checkpoint whose weights the largest begins with, if there is one."""

    architectures: tuple[Architecture, ...]
    origin: Origin | None = None

    def __post_init__(self) -> None:
        """Raises RunError where they are no levels of one elastic file."""
        found = " ".join(f"{num_params(one.graph()):,}" for one in self.architectures)
        if not MIN_LEVELS <= len(self.architectures) <= MAX_LEVELS:
            raise RunError(f"an elastic run has {MIN_LEVELS} to {MAX_LEVELS} levels, not {len(self.architectures)}")
        for small, large in pairwise(self.architectures):
            if num_params(small.graph()) >= num_params(large.graph()):
                raise RunError(f"each level should have more parameters than the one before it, they have {found}")
            try:
                shared_places(large.graph(), small.graph())
            except CheckpointError as error:
                raise RunError(
                    f"of levels with {found} parameters, one does not lie within the next: {error}"
                ) from None


def budgets_of(text: str) -> tuple[int, ...]:
    """Of "7k,16.4k,1M,34098": the most that rounds to each, 7,499 for 7k; a number without a letter is as it is.

    Raises RunError unless there are 2 to 5 of them, rising.
    """
    budgets = []
    for word in text.split(","):
        found = _NUMBER.fullmatch(word.strip())
        if found is None:
            raise RunError(f"--levels should be numbers like 7k,16k,34k or 34098, and {word.strip()!r} is none")
        unit = {"": 1, "k": 1_000, "M": 1_000_000}[found[3]]
        if unit == 1 and found[2]:
            raise RunError(f"--levels should be whole numbers or have a k or M, and {word.strip()} has neither")
        half = 0 if unit == 1 else unit / 10 ** len(found[2] or "") / 2 - 1
        budgets.append(round(float(found[1]) * unit + half))
    if not MIN_LEVELS <= len(budgets) <= MAX_LEVELS:
        raise RunError(f"--levels should be {MIN_LEVELS} to {MAX_LEVELS} numbers, smallest first, not {text}")
    if any(small >= large for small, large in pairwise(budgets)):
        raise RunError(f"--levels should rise, smallest first, and {text} do not")
    return tuple(budgets)


def levels_of(
    start: Origin | RunConfig,
    image_shape: tuple[int, int, int],
    num_classes: int,
    budgets: Sequence[int] | None = None,
    measure: Measure = "params",
    cut: Cut = "growth",
    beside: Iterable[Descriptor] = (),
) -> Levels:
    """The levels of a checkpoint, which is the largest or is cut to it, or of a named run from random weights.

    `cut` says how the smaller ones of a checkpoint follow from it: the networks that it was while it grew or, where it
    does not know them, those `beside` it in a zoo that are of its run and lie within it; below these, and where there
    are none, all widths cut alike. Or these alone. Without budgets the levels that the run has; of a checkpoint that
    grew four, each at most two fifths of the next; else a quarter, half and three quarters of all
    widths. Raises RunError where a budget cannot be met.
    """
    origin = start if isinstance(start, Origin) else None
    if isinstance(start, RunConfig) and budgets is None and start.name in _LADDERS:
        return Levels(tuple(_blueprint(stages, image_shape, num_classes) for stages in _LADDERS[start.name]))
    if isinstance(start, RunConfig):
        sizes = [_largest(start, image_shape, num_classes)]
    else:
        sizes = _sizes(start.descriptor, beside) if cut == "growth" else [start.descriptor.architecture]
    largest = sizes[0]
    try:
        if budgets is None and len(sizes) == 1:
            return Levels(tuple(narrowed_to(largest, part) for part in _WIDTHS), origin)
        if budgets is None:
            measure, most = "params", num_params(largest.graph())
            budgets = [int(share * most) for share in _SHARES]
        limits = [_BUDGETS[measure](most) for most in budgets]
        return Levels(tuple(_within(sizes, limits)), origin)
    except DescriptorError as error:
        raise RunError(f"networks of family {largest.family} cannot be cut to these levels: {error}") from None


def _sizes(descriptor: Descriptor, beside: Iterable[Descriptor]) -> list[Architecture]:
    """The network and what it was while it grew, largest first."""
    found = [descriptor.architecture]
    with suppress(DescriptorError):  # a family that cannot tell
        for step in reversed(descriptor.lineage.expansions):
            found.append(found[-1].before(Change(step.kind, step.block, step.layer_kind, step.channels_added)))
    if len(found) > 1:
        return found
    # One that was adapted to other images is of another run, as are the sizes that were adapted with it.
    run = descriptor.lineage.run, descriptor.lineage.seed, descriptor.dataset
    alike = [one.architecture for one in beside if (one.lineage.run, one.lineage.seed, one.dataset) == run]
    for architecture in sorted(alike, key=lambda one: num_params(one.graph()), reverse=True):
        if _lies_within(architecture, found[-1]):
            found.append(architecture)
    return found


def _lies_within(small: Architecture, large: Architecture) -> bool:
    if num_params(small.graph()) >= num_params(large.graph()):
        return False
    try:
        shared_places(large.graph(), small.graph())
    except CheckpointError:
        return False
    return True


def _largest(run: RunConfig, image_shape: tuple[int, int, int], num_classes: int) -> Architecture:
    if run.name in _LADDERS:
        return _blueprint(_LADDERS[run.name][-1], image_shape, num_classes)
    return run.start.network(image_shape, num_classes)


def _blueprint(
    stages: tuple[tuple[int, int], ...], image_shape: tuple[int, int, int], num_classes: int
) -> Architecture:
    channels, num_layers = zip(*stages, strict=True)
    return blueprint.start(input_shape=image_shape, num_classes=num_classes, channels=channels, num_layers=num_layers)


def _within(sizes: Sequence[Architecture], limits: Sequence[NetworkBudget]) -> list[Architecture]:
    """For each budget the largest of the sizes that meets it; where none does, the smallest is cut in its widths.

    `sizes` come largest first, `limits` smallest first.
    """
    found: list[Architecture] = []
    for number, limit in reversed(list(enumerate(limits))):
        met = next((one for one in sizes if limit.allows(one)), None)
        if met is None:
            return [*levels_within(sizes[-1], limits[: number + 1]), *found]
        if found and met is found[0]:
            raise RunError(
                f"a level within {limit} is the network of {num_params(met.graph()):,} parameters, and so is the next "
                "larger one: --levels should be further apart, and all but the last one below the largest network"
            )
        found.insert(0, met)
    return found
