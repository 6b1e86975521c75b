"""VGG-16 (arXiv 1409.1556, configuration D) as it is used for CIFAR-10: with batch norm and one linear layer.

Thirteen 3×3 convolutions in five stages of 64, 128, 256, 512 and 512 channels, each of which ends in a 2×2 max-pool;
then the mean over the image, 1×1 pixel of 32×32 images, and one linear layer in place of the original's three, which
have 120 of its 138 million parameters. Convolutions have no bias, since a batch norm follows. At 32×32 pixels and 10
classes: 14,724,042 parameters, 313,201,664 multiply-accumulates.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from zoo.network.families.family import input_fields, register
from zoo.network.families.plain import Channels, PlainArchitecture, plain_graph
from zoo.network.graph import Graph

# Convolutions of each stage.
STAGES = (2, 2, 3, 3, 3)
_POOLED = (1, 3, 6, 9, 12)


@register
class Vgg16Architecture(PlainArchitecture):
    """A network of the family."""

    family: Literal["vgg16"] = "vgg16"
    channels: Annotated[tuple[Channels, ...], Field(min_length=13, max_length=13)]

    def graph(self) -> Graph:
        return plain_graph(self, [3] * 13, _POOLED)


def start(
    *, input_shape: tuple[int, int, int], num_classes: int, channels: tuple[int, ...] = (64, 128, 256, 512, 512)
) -> Vgg16Architecture:
    """`channels`: of each of the five stages. `input_shape` is (channels, height, width)."""
    return Vgg16Architecture(
        **input_fields(input_shape, num_classes),
        channels=tuple(width for width, number in zip(channels, STAGES, strict=True) for _ in range(number)),
    )
