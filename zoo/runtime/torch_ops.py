"""The table of operations in torch: a row for each class of `network.ops`, which tests hold complete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.network import ops
from zoo.runtime import compiled_layers


class Concat(nn.Module):
    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, dim=1)


class Add(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first + second


class PadChannels(nn.Module):
    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self._padding = (0, 0, 0, 0, 0, num_channels)

    def forward(self, images: Tensor) -> Tensor:
        return functional.pad(images, self._padding)


class GlobalAveragePool(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


def _convolution(op: ops.Conv2d, _: int) -> nn.Module:
    return nn.Conv2d(
        op.in_channels,
        op.out_channels,
        op.kernel_size,
        stride=op.stride,
        padding=op.pad,
        groups=op.groups,
        bias=op.bias,
    )


# From an operation and the rank of its first input (3 for images, 1 for vectors) to the layer that computes it, which
# takes as many tensors as the operation has inputs, and whose own tensors have the names of the operation's.
LAYERS: dict[type[ops.Op], Callable[[Any, int], nn.Module]] = {
    ops.Conv2d: _convolution,
    ops.Linear: lambda op, _: nn.Linear(op.in_features, op.out_features),
    ops.BatchNorm: lambda op, rank: (nn.BatchNorm2d if rank == 3 else nn.BatchNorm1d)(op.num_features, eps=op.eps),
    ops.ReLU: lambda _, __: nn.ReLU(),
    ops.LeakyReLU: lambda op, _: nn.LeakyReLU(op.negative_slope),
    ops.SiLU: lambda _, __: compiled_layers.SiLU(),
    ops.Dropout: lambda op, _: compiled_layers.Dropout(op.p),
    ops.MaxPool2d: lambda op, _: compiled_layers.MaxPool2d(op.kernel_size, op.step),
    ops.AveragePool2d: lambda op, _: nn.AvgPool2d(op.kernel_size, op.step),
    ops.GlobalAveragePool: lambda _, __: GlobalAveragePool(),
    ops.Flatten: lambda _, __: nn.Flatten(),
    ops.Concat: lambda _, __: Concat(),
    ops.Add: lambda _, __: Add(),
    ops.PadChannels: lambda op, _: PadChannels(op.num_channels),
}
