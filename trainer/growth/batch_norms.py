"""Recalibrates a network's batch norms: their running statistics, measured again by forward passes alone."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo.runtime.module import evaluating


@torch.no_grad()
def measure(module: nn.Module, batches: Iterable[Float[Tensor, "batch channels height width"]]) -> None:
    """Gives the module's batch norms the mean and variance of these batches, each of the same weight.

    All else is in eval mode meanwhile: without dropout, as the network is used. Modes are left as they were.
    """
    norms = batch_norms(module)
    momenta = [layer.momentum for layer in norms]
    try:
        with evaluating(module):
            for layer in norms:
                layer.reset_running_stats()
                layer.momentum = None  # the plain average over batches
                layer.train()
            for batch in batches:
                module(batch.contiguous(memory_format=torch.channels_last))
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum


def batch_norms(module: nn.Module) -> list[nn.BatchNorm1d | nn.BatchNorm2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
