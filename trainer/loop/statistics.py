"""Recalibrated batch norms: statistics of a network's present weights, measured by forward passes alone.

Running statistics trail behind the weights, by tens of steps, and an average of weights has those of no network at all.
Where an epoch is a few steps, a checkpoint with them can be at chance whose weights know four fifths of the images. So
whatever is validated, chosen or taught by gets its own first: the plain average over batches of training images, as
torch.optim.swa_utils.update_bn takes it (Izmailov et al., arXiv 1803.05407, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainer.config import RunConfig
from trainer.data.datasets import Split
from trainer.growth.batch_norms import measure
from trainer.loop.augment import augmentation_of
from zoo.checkpoint.descriptor import Preprocessing
from zoo.runtime.module import normalize

# Images at once, and bytes of their pixels: each batch is normalised by its own statistics, as in training.
_MAX_BATCH = 512
_MAX_BYTES = 2**24


def num_for_checkpoint(num_train: int) -> int:
    """Images whose statistics a checkpoint gets: of few training images several epochs' worth, each drawn anew."""
    return min(5_000, max(4 * num_train, 512))


def num_for_epoch(num_train: int) -> int:
    """Images for a network that is only validated, not saved: at most a third of the cost of its epoch."""
    return min(512, num_train)


def measure_on(
    module: nn.Module,
    train: Split,
    config: RunConfig,
    preprocessing: Preprocessing,
    generator: torch.Generator,
    num_images: int,
) -> None:
    """Gives the module's batch norms the statistics of so many training images, augmented as the run does it.

    Every image is taken as often as any other, up to one. The processes of a group, whose batch norms see the
    batches of all, call it alike.
    """
    rounds = ceil(num_images / len(train))
    order = torch.cat([torch.randperm(len(train), generator=generator) for _ in range(rounds)])[:num_images]
    measure(module, _augmented(module, train, order.to(train.labels.device), config, preprocessing, generator))


def _augmented(
    module: nn.Module,
    train: Split,
    order: Tensor,
    config: RunConfig,
    preprocessing: Preprocessing,
    generator: torch.Generator,
) -> Iterator[Float[Tensor, "batch channels height width"]]:
    num_params = sum(parameter.numel() for parameter in module.parameters())
    augmentation = augmentation_of(config, num_params, train.images.shape[2:], len(order), generator, order.device)
    at_once = min(_MAX_BATCH, _MAX_BYTES // train.images[0].numel())
    position = 0
    # Pieces of one size, but for one image: each has the same weight. Batch norm needs two.
    for indices in order.tensor_split(ceil(len(order) / max(2, at_once))):
        place = slice(position, position + len(indices))
        position = place.stop
        images = augmentation.of(train.images[indices], place)
        if augmentation.kept is not None:
            images, _ = augmentation.mixed(images, train.labels[indices], place, 1 + int(train.labels.max()))
        yield normalize(images, preprocessing)
