"""VGG-16 (arXiv 1409.1556, configuration D) as it is used for CIFAR-10: with batch norm and one linear layer.

Thirteen 3×3 convolutions in five stages of 64, 128, 256, 512 and 512 channels, each of which ends in a 2×2 max-pool;
then the mean over the image, 1×1 pixel of 32×32 images, and one linear layer in place of the original's three, which
have 120 of its 138 million parameters. Convolutions have no bias, since a batch norm follows. At 32×32 pixels and 10
classes: 14,724,042 parameters, 313,201,664 multiply-accumulates.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from zoo.network.families.family import Architecture, register
from zoo.network.families.plain import plain_graph
from zoo.network.graph import Graph

Channels = Annotated[int, Field(ge=1, le=4096)]

# Convolutions of each stage.
STAGES = (2, 2, 3, 3, 3)
_POOLED = (1, 3, 6, 9, 12)


@register
class Vgg16Architecture(Architecture):
    """A network of the family. `channels`: of each convolution, in order; each is a group of its own."""

    family: Literal["vgg16"] = "vgg16"
    channels: Annotated[tuple[Channels, ...], Field(min_length=13, max_length=13)]

    def graph(self) -> Graph:
        shape = (self.input_channels, self.input_height, self.input_width)
        return plain_graph(shape, self.num_classes, self.channels, [3] * 13, _POOLED)

    def widths(self) -> tuple[int, ...]:
        return self.channels

    def _of_widths(self, widths: tuple[int, ...]) -> Vgg16Architecture:
        return self.model_copy(update={"channels": widths})


def start(
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    channels: tuple[int, ...] = (64, 128, 256, 512, 512),
) -> Vgg16Architecture:
    """`channels`: of each of the five stages. `input_shape` is (channels, height, width)."""
    return Vgg16Architecture(
        input_channels=input_shape[0],
        input_height=input_shape[1],
        input_width=input_shape[2],
        num_classes=num_classes,
        channels=tuple(width for width, number in zip(channels, STAGES, strict=True) for _ in range(number)),
    )
