"""Graph -> torch module: what the trainer trains. The only module of the zoo that imports torch."""

from __future__ import annotations

from math import e, log2
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from zoo.catalog.views import Prediction
from zoo.checkpoint.descriptor import Preprocessing
from zoo.checkpoint.file import Checkpoint, Tensors
from zoo.errors import ImageError
from zoo.images.inputs import Images
from zoo.network import graph as ops
from zoo.network.graph import INPUT, Graph, output_shapes, tensor_shapes
from zoo.runtime.classifier import Classifier, Pixels, pixel_batches


class GraphModule(nn.Module):
    """Runs a graph's nodes. Parameters are named as in the graph, which is how checkpoints store them."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        shapes = output_shapes(graph)
        self._layers: list[nn.Module | None] = []
        for node in graph.nodes:
            layer = _layer(node.op, rank=len(shapes[node.inputs[0]]))
            self._layers.append(layer)
            if layer is not None:
                self._attach(node.name, layer)

    def _attach(self, name: str, layer: nn.Module) -> None:
        """A node named "a.b.c" becomes attribute c of b of a; the containers on the way are made."""
        *path, last = name.split(".")
        parent: nn.Module = self
        for part in path:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(last, layer)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """`images` are normalised; see `normalize`."""
        values = {INPUT: images}
        for node, layer in zip(self.graph.nodes, self._layers, strict=True):
            inputs = [values[name] for name in node.inputs]
            if layer is not None:
                values[node.name] = layer(inputs[0])
                continue
            match node.op:
                case ops.Concat():
                    values[node.name] = torch.cat(inputs, dim=1)
                case ops.Add():
                    values[node.name] = inputs[0] + inputs[1]
                case ops.GlobalAveragePool():
                    values[node.name] = inputs[0].mean(dim=(2, 3))
        return values[self.graph.output]

    def tensors(self) -> Tensors:
        """Weights and running statistics as a checkpoint holds them: a copy, on the CPU."""
        state = self.state_dict()
        return {
            name: state[name].detach().to("cpu", torch.float32).numpy().copy() for name in tensor_shapes(self.graph)
        }

    def load_tensors(self, tensors: Tensors) -> None:
        """Names and shapes must be the graph's (as `checkpoint.load` has checked)."""
        state = {name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}
        result = self.load_state_dict(state, strict=False)
        # Torch counts batches per batch norm; with a fixed momentum the count has no effect, so none is stored.
        assert all(name.endswith("num_batches_tracked") for name in result.missing_keys), result
        assert not result.unexpected_keys, result


def _layer(op: ops.Op, rank: int) -> nn.Module | None:
    match op:
        case ops.Conv2d():
            padding = op.kernel_size // 2
            return nn.Conv2d(
                op.in_channels, op.out_channels, op.kernel_size, padding=padding, bias=op.bias, groups=op.groups
            )
        case ops.BatchNorm() if rank == 3:
            return nn.BatchNorm2d(op.num_features, eps=op.eps)
        case ops.BatchNorm():
            return nn.BatchNorm1d(op.num_features, eps=op.eps)
        case ops.LeakyReLU():
            return nn.LeakyReLU(op.negative_slope)
        case ops.SiLU():
            return _SiLU()
        case ops.Dropout():
            return _Dropout(op.p)
        case ops.MaxPool2d():
            return _MaxPool2d(op.kernel_size)
        case ops.Flatten():
            return nn.Flatten()
        case ops.Linear():
            return nn.Linear(op.in_features, op.out_features)
        case ops.Concat() | ops.Add() | ops.GlobalAveragePool():
            return None


class _SiLU(nn.SiLU):
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


class _Dropout(nn.Dropout):
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


class _MaxPool2d(nn.MaxPool2d):
    """In a compiled step on a CPU, 2×2 maxima in a form that compiles to vector code.

    The compiler's own gradient looks every maximum up by its index, one number at a time: half the time of a step.
    """

    def forward(self, images: Tensor) -> Tensor:
        even = images.shape[2] % 2 == images.shape[3] % 2 == 0
        if torch.compiler.is_compiling() and images.device.type == "cpu" and self.kernel_size == 2 and even:
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


def normalize(
    images: UInt8[Tensor, "batch channels height width"], preprocessing: Preprocessing
) -> Float[Tensor, "batch channels height width"]:
    """Pixels to the network's input: (pixel / 255 - mean) / std per channel."""
    mean = torch.tensor(preprocessing.mean, device=images.device).view(1, -1, 1, 1)
    std = torch.tensor(preprocessing.std, device=images.device).view(1, -1, 1, 1)
    return (images.float() / 255 - mean) / std


def module_of(checkpoint: Checkpoint) -> GraphModule:
    """The checkpoint's network, in eval mode."""
    module = GraphModule(checkpoint.descriptor.architecture.graph())
    module.load_tensors(checkpoint.tensors)
    return module.eval()


class TorchClassifier(Classifier, nn.Module):
    """An ordinary module, in eval mode: to move, tune or take apart."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.descriptor = checkpoint.descriptor
        self.network = module_of(checkpoint)
        self.eval()

    def forward(self, images: Images | UInt8[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits. Raises ImageError."""
        if not isinstance(images, Tensor):
            batches = map(torch.from_numpy, pixel_batches(images, self.descriptor))
            return torch.cat([self._logits(pixels.permute(0, 3, 1, 2)) for pixels in batches])
        expected = self.network.graph.input_shape
        if images.dtype != torch.uint8 or images.shape[1:] != expected:
            raise ImageError(
                f"{self.descriptor.name} takes tensors of uint8 (batch, {', '.join(map(str, expected))}), not "
                f"{images.dtype} {tuple(images.shape)}"
            )
        return self._logits(images)

    def _logits(self, pixels: UInt8[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        device = next(self.parameters()).device
        logits: Tensor = self.network(normalize(pixels.to(device), self.descriptor.preprocessing))
        return logits

    @torch.inference_mode()
    def _best(self, pixels: Pixels, top_k: int) -> list[list[Prediction]]:
        classes = self.descriptor.classes
        best = self(pixels).softmax(1).topk(min(top_k, len(classes)))
        return [
            [Prediction(label=classes[index], score=score, index=index) for score, index in zip(*row, strict=True)]
            for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
