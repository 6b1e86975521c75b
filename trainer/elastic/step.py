"""One training step of several levels: a loss for each, one update; or of one level around a block that stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.elastic.module import ElasticModule
from trainer.growth.expand import grid
from trainer.loop.augment import Augmentation, cutout_of, mixup_of
from trainer.loop.step import Targets, TrainingStep
from zoo.checkpoint.nesting import shared_places
from zoo.network.cost import num_macs, num_params
from zoo.network.graph import Graph


class ElasticStep(TrainingStep):
    """Each level learns the labels and the softened answers of the next larger one, the largest those of a teacher if
    there is one. As in-place distillation of US-Nets (Yu and Huang, arXiv 1903.05134), but with labels too.

    All see the same images, but a small one whole where a large one has a part of each blacked out, or mixed with
    another, if that is what the run does with networks of these sizes. The next larger one then answers for what the
    small one sees, by a forward pass more.

    The losses are averaged, the largest's with a weight. Right answers are counted of the largest.
    """

    frozen: Block | None = None
    """Entries that keep their values, whatever the optimiser does."""

    def __init__(self, module: ElasticModule, *arguments: Any, largest_weight: float = 1.0, **options: Any) -> None:
        """`largest_weight`: how many times as much as another level's the largest's loss counts."""
        super().__init__(module, *arguments, **options)
        self._largest_weight = largest_weight
        sizes = [num_params(graph) for graph in module.graphs]
        # Whether a part is black, and whether images are mixed.
        changes = [(cutout_of(self.config, size) > 0, mixup_of(self.config, size) > 0) for size in sizes]
        self._views = list(dict.fromkeys(changes))
        self._places = module.views = tuple(map(self._views.index, changes))
        if self.config.distil_weight > 0:
            neighbours = enumerate(pairwise(self._places), start=1)
            module.asked = tuple(level for level, (before, view) in neighbours if before != view)
        self._asked = module.asked
        macs = [num_macs(graph) for graph in module.graphs]
        self.training_macs = sum(macs)
        """Of an image, forward, of all levels."""
        self.answering_macs = sum(macs[level] for level in self._asked)
        """Of an image, of levels that answer for what the one before them sees."""

    def shown(
        self,
        images: UInt8[Tensor, "batch channels height width"],
        labels: Int64[Tensor, " batch"],
        augmentation: Augmentation,
        place: slice,
    ) -> tuple[UInt8[Tensor, "batch *views channels height width"], Targets]:
        if len(self._views) == 1:
            return super().shown(images, labels, augmentation, place)
        views, targets = [], []
        for is_cut, is_mixed in self._views:
            changed = replace(augmentation, cutout=augmentation.cutout if is_cut else 0.0)
            view, classes = changed.of(images, place), F.one_hot(labels, self.num_classes).float()
            if is_mixed:
                view, classes = changed.mixed(view, labels, place, self.num_classes)
            views.append(view)
            targets.append(classes)
        return torch.stack(views, 1), torch.stack(targets, 1)

    def normalized(self, images: Tensor) -> tuple[Tensor, ...]:
        views = (images,) if images.ndim == 4 else images.unbind(1)
        return tuple(super(ElasticStep, self).normalized(view) for view in views)

    def objective(
        self, logits: Float[Tensor, "outputs batch classes"], targets: Tensor, answers: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`logits` are the levels', then answers to what the level before was shown; see `ElasticModule`."""
        classes = [targets[:, view] if targets.ndim == 3 else targets for view in self._places]
        count = len(self._places)
        answered = [*logits[count:].detach()]
        loss, correct = super().objective(logits[count - 1], classes[-1], answers)
        loss = loss * self._largest_weight
        for level in reversed(range(count - 1)):
            wanted = answered.pop() if level + 1 in self._asked else logits[level + 1].detach()
            taught = self.config.distil_weight > 0
            loss = loss + self.loss_of(logits[level], classes[level], wanted if taught else None)
        return loss / (count - 1 + self._largest_weight), correct

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
