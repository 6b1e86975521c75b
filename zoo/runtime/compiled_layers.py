"""Layers of torch that take another form inside `torch.compile` on a CPU, where the usual one is slow.

They compute what torch's own do, whose parameters they have; everywhere else they are torch's own.
"""

from __future__ import annotations

from math import e, log2
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx


class SiLU(nn.SiLU):
    """In a compiled step on a CPU, in a form that the compiler computes again in the backward pass.

    It keeps whatever took an exp or a sigmoid, for later, in memory; and memory is what such a step waits for.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, the name torch gives it
        if torch.compiler.is_compiling() and input.device.type == "cpu":
            return _RecomputedSiLU.apply(input)
        return super().forward(input)


class _RecomputedSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return values / _one_plus_exp(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (values,) = ctx.saved_tensors
        sigmoid = 1 / _one_plus_exp(values)
        return gradient * (sigmoid * (1 + values * (1 - sigmoid)))


def _one_plus_exp(values: Tensor) -> Tensor:
    """1 + exp(-x), the reciprocal of the sigmoid."""
    return 1 + torch.exp2(values * -log2(e))


class Dropout(nn.Dropout):
    """In a compiled step on a CPU, by random numbers that vector units compute.

    Torch draws them one after the other: half the time of a step of the paper's network.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        if self.training and 0 < self.p < 1 and torch.compiler.is_compiling() and input.device.type == "cpu":
            return _HashedDropout.apply(input, self.p)
        return super().forward(input)


class _HashedDropout(torch.autograd.Function):
    """One number is drawn from torch's generator; each element's own is a hash of that and of its place."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, p: float) -> Tensor:
        draw = torch.randint(-(2**31), 2**31 - 1, (), dtype=torch.int32)
        ctx.save_for_backward(draw)
        ctx.p = p
        return _dropped(values, draw, p)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (draw,) = ctx.saved_tensors
        return _dropped(gradient, draw, ctx.p), None


def _dropped(values: Tensor, draw: Tensor, p: float) -> Tensor:
    """0 with probability p, else divided by 1 - p."""
    places = torch.arange(values.numel(), dtype=torch.int32)
    if values.ndim == 4:  # in the order in which they lie in memory
        batch, channels, height, width = values.shape
        places = places.view(batch, height, width, channels).permute(0, 3, 1, 2)
    # Spread over all 32 bits first, so that two draws differ in more than the order of their numbers.
    numbers = _hash(places.reshape(values.shape) * (0x9E3779B1 - 2**32) ^ draw)
    return torch.where(numbers >= round(p * 2**32) - 2**31, values / (1 - p), 0)


def _hash(numbers: Tensor) -> Tensor:
    """Signed 32 bits, mixed by shifts and products; each bit of the result depends on all of them."""
    numbers = (numbers ^ (numbers >> 16 & 0xFFFF)) * 0x7FEB352D
    numbers = (numbers ^ (numbers >> 15 & 0x1FFFF)) * (0x846CA68B - 2**32)
    return numbers ^ (numbers >> 16 & 0xFFFF)


class MaxPool2d(nn.MaxPool2d):
    """In a compiled step on a CPU, 2×2 maxima in a form that compiles to vector code.

    The compiler's own gradient looks every maximum up by its index, one number at a time: half the time of a step.
    """

    def forward(self, images: Tensor) -> Tensor:
        even = images.shape[2] % 2 == images.shape[3] % 2 == 0
        if (
            torch.compiler.is_compiling()
            and images.device.type == "cpu"
            and self.kernel_size == self.stride == 2
            and even
        ):
            return _VectorMaxPool2x2.apply(images)
        return super().forward(images)


class _VectorMaxPool2x2(torch.autograd.Function):
    """The gradient goes to the largest of four; several that are equal share it.

    Equal but for rounding: in bfloat16 the compiler keeps the maximum rounded and computes the four again unrounded,
    none of which may be exactly that (pytorch/pytorch#195214).
    """

    @staticmethod
    def forward(ctx: FunctionCtx, images: Tensor) -> Tensor:
        first, second, third, fourth = _quarters(images)
        maxima = torch.maximum(torch.maximum(first, second), torch.maximum(third, fourth))
        ctx.save_for_backward(images, maxima)
        return maxima

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        images, maxima = ctx.saved_tensors
        least = maxima - torch.finfo(maxima.dtype).eps * maxima.abs()
        num_equal = sum((quarter >= least).to(gradient.dtype) for quarter in _quarters(images))
        return torch.where(images >= _doubled(least), _doubled(gradient / num_equal), 0)


def _quarters(images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four corners of each square of 2×2 pixels, each at half the resolution."""
    return images[:, :, ::2, ::2], images[:, :, ::2, 1::2], images[:, :, 1::2, ::2], images[:, :, 1::2, 1::2]


def _doubled(images: Tensor) -> Tensor:
    """Each pixel as a square of 2×2, in channels_last."""
    batch, channels, height, width = images.shape
    squares = images.permute(0, 2, 3, 1)[:, :, None, :, None].expand(batch, height, 2, width, 2, channels)
    return squares.reshape(batch, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)
