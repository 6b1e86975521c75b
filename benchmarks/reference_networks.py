"""Small CIFAR-10 networks that others have published, as plain modules. Not a benchmark; trained by references.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil

import torch
from torch import Tensor, nn


class ResNet8(nn.Module):
    """The image classification reference of MLPerf Tiny (github.com/mlcommons/tiny): 78,186 trainable parameters.

    MLPerf's figure of 78,666 counts the 480 running statistics too. Its convolutions have biases, its shortcuts no
    batch norm; both are kept.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.stem = _conv_norm(in_channels, 16, 1)
        self.stacks = nn.Sequential(_Stack(16, 16, 1), _Stack(16, 32, 2), _Stack(32, 64, 2))
        self.output = nn.Linear(64, num_classes)
        _initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.output(self.stacks(self.stem(images).relu()).mean(dim=(2, 3)))


class _Stack(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _conv_norm(inputs, outputs, stride)
        self.second = _conv_norm(outputs, outputs, 1)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, value: Tensor) -> Tensor:
        return (self.shortcut(value) + self.second(self.first(value).relu())).relu()


def _conv_norm(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.BatchNorm2d(outputs))


class SubspaceBlueprintConv(nn.Sequential):
    """BSConv-S of arXiv 2003.13549 in place of a 3×3 convolution: 1×1 to a subspace, 1×1 out of it, 3×3 depthwise.

    The subspace has a quarter of the input channels, at least 4 and at most all of them, as in the authors' code
    (github.com/zeiss-microscopy/BSConv); each 1×1 is followed by batch norm.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        middle = min(inputs, max(4, ceil(inputs / 4)))
        super().__init__(
            nn.Conv2d(inputs, middle, 1, bias=False),
            nn.BatchNorm2d(middle),
            nn.Conv2d(middle, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, padding=1, groups=outputs, bias=False),
        )


class BlueprintWideResNet(nn.Module):
    """A wide residual network (arXiv 1605.07146) with every 3×3 convolution, the first too, replaced by BSConv-S.

    As in the authors' code, the input has a batch norm of its own. Depth-width 16-1, 16-2, 28-1, 28-2 and 40-2 have
    18,663, 60,647, 35,463, 115,751 and 170,855 trainable parameters; reported are 18.7, 60.6, 35.5, 115.8 and 170.9 k.
    The authors' training also pulls the first 1×1 kernels towards orthonormal rows; here that term is left out.
    """

    def __init__(self, in_channels: int, num_classes: int, depth: int = 16, width: int = 2) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.BatchNorm2d(in_channels), SubspaceBlueprintConv(in_channels, 16, 1))
        units, channels = [], 16
        for stage, stage_channels in enumerate((16 * width, 32 * width, 64 * width)):
            for index in range((depth - 4) // 6):
                units.append(_Unit(channels, stage_channels, 2 if stage and not index else 1))
                channels = stage_channels
        self.units = nn.Sequential(*units)
        self.norm = nn.BatchNorm2d(channels)
        self.output = nn.Linear(channels, num_classes)
        _initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.output(self.norm(self.units(self.stem(images))).relu().mean(dim=(2, 3)))


class _Unit(nn.Module):
    """Batch norm and ReLU come before each convolution; where the shape changes, before the shortcut too."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = SubspaceBlueprintConv(inputs, outputs, stride)
        self.conv2 = SubspaceBlueprintConv(outputs, outputs, 1)
        changes = inputs != outputs or stride != 1
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, value: Tensor) -> Tensor:
        active = self.norm1(value).relu()
        short = value if self.shortcut is None else self.shortcut(active)
        return short + self.conv2(self.norm2(self.conv1(active)).relu())


def _initialize(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


@dataclass(frozen=True)
class Reference:
    """`make(input channels, classes)`; the published test accuracy on CIFAR-10."""

    make: Callable[[int, int], nn.Module]
    published: float


REFERENCES = {
    "bsconv-s-wrn-16-1": Reference(partial(BlueprintWideResNet, width=1), 0.873),
    "mlperf-tiny-resnet8": Reference(ResNet8, 0.87),
    "bsconv-s-wrn-16-2": Reference(BlueprintWideResNet, 0.916),
}


def num_params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def num_macs(module: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image, as `zoo.network.cost` counts them."""
    macs = 0

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal macs
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        macs += output[0].numel() * layer.weight[0].numel()

    hooks = [
        layer.register_forward_hook(count) for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    was_training = module.training
    with torch.no_grad():
        module.eval()(torch.zeros(1, *image_shape))
    module.train(was_training)
    for hook in hooks:
        hook.remove()
    return macs
