"""The interface of a recipe, which decides when a run grows and what it adds.

The product's recipes are in trainer/recipes/; docs/adding.md shows how to write another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.growth.expand import Exact, expand
from zoo.checkpoint.descriptor import ExpansionStep
from zoo.network.cost import num_macs, num_params
from zoo.network.families.family import Architecture, Change
from zoo.runtime.module import GraphModule

# Whether a network of so many parameters and multiply-accumulates is within the run's limits.
Allows = Callable[[int, int], bool]


@dataclass(frozen=True)
class Candidate:
    """One way to grow: its cost, and its score in the recipe's own unit."""

    change: Change
    params_added: int = 0
    macs_added: int = 0
    score: float = 0.0
    standard_error: float | None = None


@dataclass(frozen=True)
class Growth:
    """A proposed expansion: the larger network, and the steps to it; without steps, nothing was worth it.

    `flops` is what scoring the candidates took.
    """

    architecture: Architecture
    steps: tuple[ExpansionStep, ...]
    threshold: float = 0.0
    candidates: tuple[Candidate, ...] = ()
    flops: int = 0


@dataclass(frozen=True)
class Beginning:
    """What a run starts from: a checkpoint's epoch, size, cost so far, and device."""

    epoch: int = 0
    params: int = 0
    device: str = ""
    device_seconds: float = 0.0
    training_flops: int = 0


FROM_NOTHING = Beginning()


@dataclass(frozen=True)
class Look:
    """The state of a run between two epochs, as its recipe sees it (read-only)."""

    architecture: Architecture
    module: GraphModule
    # Of the trunk: so many of all of them are over.
    epoch: int
    epochs: int
    # Seeded by run and epoch: a run that is resumed takes the same decision again.
    generator: torch.Generator
    # So many training images (normalised) and their labels.
    sample: Callable[[int], tuple[Tensor, Tensor]]
    allows: Allows = lambda _params, _macs: True
    last_growth_epoch: int = 0
    begun: Beginning = FROM_NOTHING
    # As if all the time at the present size were over, whatever the epoch.
    at_once: bool = False

    def growth(
        self,
        taken: Sequence[Candidate],
        *,
        exact: bool = True,
        threshold: float = 0.0,
        candidates: tuple[Candidate, ...] = (),
        flops: int = 0,
    ) -> Growth:
        """These changes, one after the other; `exact`: the logits stay as they are."""
        architecture, steps = self.architecture, []
        for one in taken:
            before, architecture = architecture, architecture.grown(one.change, exact=exact)
            steps.append(
                ExpansionStep(
                    epoch=self.epoch,
                    **vars(one.change),
                    params_before=costs(before)[0],
                    params_after=costs(architecture)[0],
                    score=one.score,
                    threshold=threshold,
                    exact=exact,
                )
            )
        return Growth(architecture, tuple(steps), threshold, candidates, flops)


@runtime_checkable
class Recipe(Protocol):
    """A subclass is a frozen dataclass: its fields are the settings that a resumed run is to have again."""

    def is_due(self, look: Look) -> bool:
        """Whether the time to look for growth has come."""

    def propose(self, look: Look) -> Growth | None:
        """What to add, once it is due; None: nothing, and nothing was scored."""

    def expand(
        self,
        module: GraphModule,
        architecture: Architecture,
        images: Float[Tensor, "n channels height width"],
        generator: torch.Generator,
    ) -> GraphModule:
        """What was proposed for a network, done to what it has become since, with some training images at hand; the
        logits stay as they are, unless a recipe says otherwise."""
        return expand(module, architecture.graph(), Exact(), images, generator)

    @property
    def keeps_weights(self) -> bool:
        """Whether old weights stay what they were; otherwise the optimiser's moments are no longer theirs."""
        return True

    @property
    def scores_same(self) -> bool:
        """Whether all looks are at the same training images; else these are drawn anew."""
        return False


def costs(architecture: Architecture) -> tuple[int, int]:
    """Parameters, and multiply-accumulates of one image."""
    graph = architecture.graph()
    return num_params(graph), num_macs(graph)
