"""Rows of convolutions without branches: what the families VGG-16 and AlexNet have in common.

    input ─ convolution ─ batch norm ─ ReLU ─ … ─ head ─ logits

Some convolutions are followed by a 2×2 max-pool. The head averages over the image and has one linear layer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, Self

from pydantic import Field

from zoo.network.families.family import Architecture
from zoo.network.graph import INPUT, Graph, GraphBuilder
from zoo.network.ops import BatchNorm, Conv2d, GlobalAveragePool, Linear, MaxPool2d, ReLU

Channels = Annotated[int, Field(ge=1, le=4096)]


class PlainArchitecture(Architecture):
    """A network of either family. `channels`: of each convolution, in order; each is a group of its own."""

    channels: tuple[Channels, ...]

    def widths(self) -> tuple[int, ...]:
        return self.channels

    def _of_widths(self, widths: tuple[int, ...]) -> Self:
        return self.model_copy(update={"channels": widths})


def plain_graph(network: PlainArchitecture, kernel_sizes: Sequence[int], pooled: Collection[int]) -> Graph:
    """`pooled`: the numbers of the convolutions, from 0, behind which the sides are halved. Where an image has become
    too small to be halved again it stays as it is, so that each family has a network for images of any size."""
    builder = GraphBuilder(network.input_shape)
    value, inputs, side = INPUT, network.input_channels, min(network.input_height, network.input_width)
    for index, (outputs, kernel_size) in enumerate(zip(network.channels, kernel_sizes, strict=True)):
        name = f"features.{index}"
        value = builder.add(f"{name}.conv", Conv2d(inputs, outputs, kernel_size, bias=False), value)
        value = builder.add(f"{name}.norm", BatchNorm(outputs), value)
        value = builder.add(f"{name}.act", ReLU(), value)
        inputs = outputs
        if index in pooled and side >= 2:
            value, side = builder.add(f"{name}.pool", MaxPool2d(2), value), side // 2
    value = builder.add("head.average", GlobalAveragePool(), value)
    builder.add("head.output", Linear(inputs, network.num_classes), value)
    return builder.build()
