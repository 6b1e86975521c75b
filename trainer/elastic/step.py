"""One training step of several levels: a loss for each, one update; or of one level around a block that stays."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from trainer.elastic.module import ElasticModule
from trainer.growth.expand import grid
from trainer.loop.step import TrainingStep
from zoo.checkpoint.nesting import shared_places
from zoo.network.graph import Graph


class ElasticStep(TrainingStep):
    """Each level learns the labels and the softened answers of the next larger one, the largest those of a teacher if
    there is one. As in-place distillation of US-Nets (Yu and Huang, arXiv 1903.05134), but with labels too.

    The losses are averaged. Right answers are counted of the largest.
    """

    frozen: Block | None = None
    """Entries that keep their values, whatever the optimiser does."""

    def objective(
        self, logits: Float[Tensor, "levels batch classes"], targets: Tensor, answers: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        loss, correct = super().objective(logits[-1], targets, answers)
        for level in reversed(range(len(logits) - 1)):
            taught = self.config.distil_weight > 0
            loss = loss + self.loss_of(logits[level], targets, logits[level + 1].detach() if taught else None)
        return loss / len(logits), correct

    def update(self) -> None:
        if self.frozen is None:
            super().update()
            return
        self.frozen.hold_gradients()
        super().update()
        self.frozen.restore()


class Block:
    """The part of a level's tensors that a smaller level shares with it, as that level has them."""

    def __init__(self, module: ElasticModule, small: Graph, tensors: Mapping[str, Tensor]) -> None:
        """`tensors` are the smaller level's."""
        parameters = dict(module.named_parameters())
        # Of each parameter: which entries are held, and a tensor that has their values there. Masks, because a CUDA
        # graph cannot take an index along that is not on the device.
        self._held: list[tuple[nn.Parameter, Bool[Tensor, "..."], Tensor]] = []
        for name, place in shared_places(module.graph, small).items():
            parameter = parameters[name]
            mask, values = torch.zeros(parameter.shape, dtype=torch.bool), torch.zeros(parameter.shape)
            mask[grid(place)] = True
            values[grid(place)] = tensors[name].cpu()
            self._held.append((parameter, mask.to(parameter.device), values.to(parameter.device)))

    @torch.no_grad()
    def hold_gradients(self) -> None:
        """So that they move no other weight: Muon's steps depend on a whole matrix."""
        for parameter, mask, _ in self._held:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(mask, 0.0)

    @torch.no_grad()
    def restore(self) -> None:
        """Undoes what weight decay and momentum did, bit for bit."""
        for parameter, mask, values in self._held:
            parameter.copy_(torch.where(mask, values, parameter))
