"""Whether a network knows more than which class is the commonest."""

from __future__ import annotations

from jaxtyping import Int64
from torch import Tensor

from zoo.checkpoint.descriptor import Accuracy


def chance_of(labels: Int64[Tensor, " n"]) -> float:
    """The accuracy of always naming the commonest of these classes."""
    return labels.bincount().max().item() / len(labels)


def is_at_chance(measured: Accuracy, chance: float, standard_errors: float) -> bool:
    """Whether the accuracy is not above chance by so many standard errors of a guesser's."""
    return measured.accuracy <= chance + standard_errors * (chance * (1 - chance) / measured.n) ** 0.5
