"""The expansion score of the published code of arXiv 2401.05686: one batch's gradient in place of each sample's.

F = ḡ² of a batch and η = Σ ḡ'² / (F + damping), with ḡ' from a second reading of the same images under other flips.
Where a gradient is well above √damping its term is near 1, and where it is below near 0: η over the number of
parameters is about the share of parameters with a gradient above 0.003.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from zoo.runtime.module import GraphModule, evaluating


def batch_score(
    module: GraphModule,
    images: Float[Tensor, "n channels height width"],
    labels: Int64[Tensor, " n"],
    generator: torch.Generator,
    *,
    damping: float,
    per_parameter: bool,
) -> float:
    """η of the module in eval mode, by its own running statistics; the module is left as it was."""
    with evaluating(module):
        first, second = (_mean_gradient(module, _flipped(images, generator), labels) for _ in range(2))
    score = (second.square() / (first.square() + damping)).sum(dtype=torch.float64).item()
    return score / len(first) if per_parameter else score


def _flipped(images: Float[Tensor, "n channels height width"], generator: torch.Generator) -> Tensor:
    """Half of them mirrored."""
    mirrored = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)


def _mean_gradient(module: GraphModule, images: Tensor, labels: Tensor) -> Float[Tensor, " parameters"]:
    loss = F.cross_entropy(module(images.contiguous(memory_format=torch.channels_last)), labels)
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, list(module.parameters()))])
