"""The natural expansion score: how much a network would gain from a natural-gradient step (SENN, SECNN).

η = gᵀ F⁻¹ g with F the diagonal of the empirical Fisher. To second order, a natural step takes η/2 off the
loss, if the parameters did not overlap; the diagonal ignores that they do, so η ranks, it does not predict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from trainer.growth.scores.fisher import GradientMoments, gradient_moments, group_bounds, statistics_of
from zoo.runtime.module import GraphModule

# Keeps a parameter without any gradient out of the sum; gradients that matter have squares far above.
_EPSILON = 1e-12


def natural_score(moments: GradientMoments) -> float:
    """η over all parameters, as the paper has it. Sampling noise alone contributes (parameters / samples)."""
    # All tensors as one: a GPU takes longer to be asked for many small sums than to do them.
    tensors = moments.by_name.values()
    means = torch.cat([tensor.mean.flatten() for tensor in tensors])
    fisher = torch.cat([tensor.mean_square.flatten() for tensor in tensors])
    return (means.square() / (fisher + _EPSILON)).sum(dtype=torch.float64).item()


def size_penalty(params_added: int, lambda_: float) -> float:
    """exp(−λ Δp²), by which the paper multiplies a candidate's score."""
    return exp(-lambda_ * params_added**2)


@dataclass(frozen=True)
class Gain:
    """Δη of new parameters without the noise's share, and its standard error."""

    value: float
    standard_error: float


def gain_of_new_parameters(moments: GradientMoments, new: Mapping[str, Bool[Tensor, "..."]]) -> Gain:
    """Δη = Σ [ḡ² − (E[g²] − ḡ²)/(N−1)] / E[g²] over the entries that `new` marks, by tensor name.

    The bracket estimates (E g)² without bias. The standard error comes from a jackknife over groups of samples,
    with E[g²] held fixed.
    """
    num_samples = torch.tensor([moments.num_samples])
    remaining = num_samples - torch.tensor(group_bounds(moments.num_samples)).diff()
    groups = len(remaining)
    whole, left_out = 0.0, torch.zeros(groups)
    for name, mask in new.items():
        tensor = moments.by_name[name]
        fisher = tensor.mean_square[mask]
        sums = tensor.group_sums[:, mask]  # (groups, new entries)
        total = sums.sum(0, keepdim=True)
        whole += _debiased(total, fisher, num_samples).item()
        left_out += _debiased(total - sums, fisher, remaining).cpu()
    variance = (groups - 1) / groups * (left_out - left_out.mean()).square().sum().item()
    return Gain(whole, variance**0.5)


def _debiased(
    sums: Float[Tensor, "rows entries"], fisher: Float[Tensor, " entries"], num_samples: Int64[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """Δη from each row of gradient sums over that row's number of samples."""
    counts = num_samples[:, None].to(sums.device)
    mean_squared = (sums / counts).square()
    noise = (fisher - mean_squared) / (counts - 1)
    return ((mean_squared - noise) / (fisher + _EPSILON)).sum(1)


class Score(Protocol):
    """How much sets of new parameters would gain, all attached to one network and measured in one pass."""

    def __call__(
        self,
        module: GraphModule,
        images: Float[Tensor, "n channels height width"],
        labels: Int64[Tensor, " n"],
        new: Sequence[Mapping[str, Bool[Tensor, "..."]]],
    ) -> tuple[float, list[Gain]]:
        """The mean loss, and the gain of each set of entries, which are marked by tensor name."""


def diagonal_gains(
    module: GraphModule,
    images: Float[Tensor, "n channels height width"],
    labels: Int64[Tensor, " n"],
    new: Sequence[Mapping[str, Bool[Tensor, "..."]]],
) -> tuple[float, list[Gain]]:
    """A `Score` by the diagonal of the empirical Fisher."""
    with statistics_of(module, images):
        moments = gradient_moments(module, images, labels)
    return moments.loss, [gain_of_new_parameters(moments, entries) for entries in new]
