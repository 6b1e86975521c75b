"""Rows of convolutions without branches: what the families VGG-16 and AlexNet have in common.

    input ─ convolution ─ batch norm ─ ReLU ─ … ─ head ─ logits

Some convolutions are followed by a 2×2 max-pool. The head averages over the image and has one linear layer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from zoo.network.graph import INPUT, Graph, GraphBuilder
from zoo.network.ops import BatchNorm, Conv2d, GlobalAveragePool, Linear, MaxPool2d, ReLU


def plain_graph(
    input_shape: tuple[int, int, int],
    num_classes: int,
    channels: Sequence[int],
    kernel_sizes: Sequence[int],
    pooled: Collection[int],
) -> Graph:
    """`pooled`: the numbers of the convolutions, from 0, behind which the sides are halved. Where an image has become
    too small to be halved again it stays as it is, so that each family has a network for images of any size."""
    builder = GraphBuilder(input_shape)
    value, inputs, side = INPUT, input_shape[0], min(input_shape[1:])
    for index, (outputs, kernel_size) in enumerate(zip(channels, kernel_sizes, strict=True)):
        name = f"features.{index}"
        value = builder.add(f"{name}.conv", Conv2d(inputs, outputs, kernel_size, bias=False), value)
        value = builder.add(f"{name}.norm", BatchNorm(outputs), value)
        value = builder.add(f"{name}.act", ReLU(), value)
        inputs = outputs
        if index in pooled and side >= 2:
            value, side = builder.add(f"{name}.pool", MaxPool2d(2), value), side // 2
    value = builder.add("head.average", GlobalAveragePool(), value)
    builder.add("head.output", Linear(inputs, num_classes), value)
    return builder.build()
