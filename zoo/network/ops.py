"""The operations of which networks are made: one class each, with everything about it that needs no torch.

`network.graph` connects them, `network.cost` counts them, `network.placement` follows channels through them and
`runtime.onnx_model` writes them. A new operation is its class here and its row in `runtime.torch_ops`; nothing else is
edited (docs/adding.md). Shapes leave the batch dimension out: (channels, height, width) for images, (features,) after
Flatten.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar, NamedTuple, TypeVar

from zoo.errors import DescriptorError

Shape = tuple[int, ...]
Channel = TypeVar("Channel")
Attributes = dict[str, int | float | list[int]]


class TensorSpec(NamedTuple):
    """A tensor of an operation, float32. Its first axis is the operation's output channels.

    `mixes`: its second axis is all input channels. `is_trained`: whether the optimiser changes it.
    """

    shape: Shape
    mixes: bool = False
    is_trained: bool = True


@dataclass(frozen=True, slots=True)
class OnnxNode:
    """One node of an operation in ONNX. It reads the operation's inputs, and then `reads`: tensors of the operation, or
    the `output` of a node before it. An `output` of "" is the operation's own. A constant does not read the inputs."""

    kind: str
    reads: tuple[str, ...]
    attributes: Attributes
    output: str = ""
    reads_inputs: bool = True


def onnx_node(kind: str, *reads: str, output: str = "", **attributes: int | float | list[int]) -> OnnxNode:
    return OnnxNode(kind, reads, attributes, output)


class Op(ABC):
    """An operation: a frozen dataclass of its settings. Two of equal settings are equal.

    Example: `Conv2d(3, 16, kernel_size=3, bias=False).output_shape((3, 32, 32)) == (16, 32, 32)`.
    """

    __slots__ = ()

    couples_inputs: ClassVar[bool] = False
    """Whether a channel of the output is made of that channel of every input, as in an addition."""

    @abstractmethod
    def output_shape(self, *inputs: Shape) -> Shape:
        """Raises DescriptorError, "expects …, gets …", where the inputs do not fit."""

    @abstractmethod
    def onnx(self) -> Sequence[OnnxNode]:
        """The nodes that compute it at inference, in order; none where it then passes its input on."""

    def tensors(self) -> dict[str, TensorSpec]:
        """By the last part of their names: "weight" of node "stem.conv" is "stem.conv.weight"."""
        return {}

    def macs(self, output: Shape) -> int:  # noqa: ARG002, most operations count as none
        """Multiply-accumulates for one image."""
        return 0

    def channels(self, inputs: Sequence[tuple[Channel, ...]], shapes: Sequence[Shape]) -> tuple[Channel, ...]:
        """The output's channels (or features) but its own, each as the input channel that it is made of.

        `inputs` has the channels of each input, `shapes` their shapes. Not asked of an operation that mixes them.
        """
        del shapes
        return inputs[0]

    def num_own_channels(self, output: Shape) -> int:
        """How many of the output's channels, its last ones, are no input's: all where channels are mixed."""
        return output[0] if self.mixes_channels else 0

    @property
    def mixes_channels(self) -> bool:
        """Whether each output channel reads all input channels."""
        return any(tensor.mixes for tensor in self.tensors().values())


def _misfit(expected: str, *found: Shape) -> DescriptorError:
    return DescriptorError(f"expects {expected}, gets {', '.join(map(str, found))}")


@dataclass(frozen=True, slots=True)
class Conv2d(Op):
    """Square kernel, zero padding; without `padding`, that which keeps the size at stride 1 ("same").

    With `groups` each output channel reads in_channels / groups input channels; depthwise: groups = in = out.
    """

    in_channels: int
    out_channels: int
    kernel_size: int
    bias: bool
    groups: int = 1
    stride: int = 1
    padding: int | None = None

    @property
    def pad(self) -> int:
        """Rows and columns of zeros on each side."""
        return self.kernel_size // 2 if self.padding is None else self.padding

    def output_shape(self, *inputs: Shape) -> Shape:
        (image,) = inputs
        channels, out, groups = self.in_channels, self.out_channels, self.groups
        if len(image) != 3 or image[0] != channels:
            raise _misfit(f"({channels}, H, W)", image)
        if channels % groups or out % groups:
            raise _misfit(f"channels in {groups} equal groups", image, (out,))
        _, height, width = image
        least = self.kernel_size - 2 * self.pad
        if min(height, width) < least:
            raise _misfit(f"at least {least}×{least} pixels", image)
        return (out, (height - least) // self.stride + 1, (width - least) // self.stride + 1)

    def tensors(self) -> dict[str, TensorSpec]:
        kernel = (self.out_channels, self.in_channels // self.groups, self.kernel_size, self.kernel_size)
        weight = TensorSpec(kernel, mixes=self.groups == 1)
        return {"weight": weight, "bias": TensorSpec((self.out_channels,))} if self.bias else {"weight": weight}

    def macs(self, output: Shape) -> int:
        return prod(output) * (self.in_channels // self.groups) * self.kernel_size**2

    def channels(self, inputs: Sequence[tuple[Channel, ...]], shapes: Sequence[Shape]) -> tuple[Channel, ...]:
        del shapes
        if not self.groups == self.in_channels == self.out_channels:
            counts = (self.in_channels, self.out_channels, self.groups)
            raise _misfit("one group, or one for each channel, to follow channels through it", counts)
        return inputs[0]

    def onnx(self) -> Sequence[OnnxNode]:
        attributes: Attributes = {"kernel_shape": [self.kernel_size] * 2, "pads": [self.pad] * 4, "group": self.groups}
        if self.stride != 1:
            attributes["strides"] = [self.stride] * 2
        return [OnnxNode("Conv", tuple(self.tensors()), attributes)]


@dataclass(frozen=True, slots=True)
class Linear(Op):
    in_features: int
    out_features: int

    def output_shape(self, *inputs: Shape) -> Shape:
        if inputs[0] != (self.in_features,):
            raise _misfit(f"({self.in_features},)", *inputs)
        return (self.out_features,)

    def tensors(self) -> dict[str, TensorSpec]:
        weight = TensorSpec((self.out_features, self.in_features), mixes=True)
        return {"weight": weight, "bias": TensorSpec((self.out_features,))}

    def macs(self, output: Shape) -> int:
        return self.in_features * output[0]

    def onnx(self) -> Sequence[OnnxNode]:
        return [onnx_node("Gemm", "weight", "bias", transB=1)]


@dataclass(frozen=True, slots=True)
class BatchNorm(Op):
    """Per channel of an image, or per feature of a vector. eps is PyTorch's default."""

    num_features: int
    eps: float = 1e-5

    def output_shape(self, *inputs: Shape) -> Shape:
        if inputs[0][0] != self.num_features:
            raise _misfit(f"{self.num_features} channels or features", *inputs)
        return inputs[0]

    def tensors(self) -> dict[str, TensorSpec]:
        trained = TensorSpec((self.num_features,))
        counted = TensorSpec((self.num_features,), is_trained=False)
        return {"weight": trained, "bias": trained, "running_mean": counted, "running_var": counted}

    def onnx(self) -> Sequence[OnnxNode]:
        return [OnnxNode("BatchNormalization", tuple(self.tensors()), {"epsilon": self.eps})]


class _Elementwise(Op):
    __slots__ = ()

    def output_shape(self, *inputs: Shape) -> Shape:
        return inputs[0]


@dataclass(frozen=True, slots=True)
class ReLU(_Elementwise):
    def onnx(self) -> Sequence[OnnxNode]:
        return [onnx_node("Relu")]


@dataclass(frozen=True, slots=True)
class LeakyReLU(_Elementwise):
    negative_slope: float

    def onnx(self) -> Sequence[OnnxNode]:
        return [onnx_node("LeakyRelu", alpha=self.negative_slope)]


@dataclass(frozen=True, slots=True)
class SiLU(_Elementwise):
    """x · sigmoid(x)"""

    def onnx(self) -> Sequence[OnnxNode]:
        return [onnx_node("Sigmoid", output="gate"), onnx_node("Mul", "gate")]


@dataclass(frozen=True, slots=True)
class Dropout(_Elementwise):
    """Acts in training only; element-wise, also on images."""

    p: float

    def onnx(self) -> Sequence[OnnxNode]:
        return []


@dataclass(frozen=True, slots=True)
class _Pool2d(Op):
    """A window of `kernel_size` pixels each way, moved by `stride`, by default its own size.

    No padding; a remainder at the edge is dropped.
    """

    kernel_size: int
    stride: int | None = None

    @property
    def step(self) -> int:
        return self.kernel_size if self.stride is None else self.stride

    def output_shape(self, *inputs: Shape) -> Shape:
        image, size = inputs[0], self.kernel_size
        if len(image) != 3 or min(image[1:]) < size:
            raise _misfit(f"at least {size}×{size} pixels", image)
        channels, height, width = image
        return (channels, (height - size) // self.step + 1, (width - size) // self.step + 1)

    def _window(self) -> Attributes:
        return {"kernel_shape": [self.kernel_size] * 2, "strides": [self.step] * 2}


@dataclass(frozen=True, slots=True)
class MaxPool2d(_Pool2d):
    def onnx(self) -> Sequence[OnnxNode]:
        return [OnnxNode("MaxPool", (), self._window())]


@dataclass(frozen=True, slots=True)
class AveragePool2d(_Pool2d):
    def onnx(self) -> Sequence[OnnxNode]:
        return [OnnxNode("AveragePool", (), self._window())]


@dataclass(frozen=True, slots=True)
class GlobalAveragePool(Op):
    """(C, H, W) -> (C,)"""

    def output_shape(self, *inputs: Shape) -> Shape:
        if len(inputs[0]) != 3:
            raise _misfit("(C, H, W)", *inputs)
        return inputs[0][:1]

    def onnx(self) -> Sequence[OnnxNode]:
        return [onnx_node("ReduceMean", axes=[2, 3], keepdims=0)]


@dataclass(frozen=True, slots=True)
class Flatten(Op):
    """(C, H, W) -> (C·H·W,), channels slowest."""

    def output_shape(self, *inputs: Shape) -> Shape:
        if len(inputs[0]) != 3:
            raise _misfit("(C, H, W)", *inputs)
        return (prod(inputs[0]),)

    def channels(self, inputs: Sequence[tuple[Channel, ...]], shapes: Sequence[Shape]) -> tuple[Channel, ...]:
        return tuple(channel for channel in inputs[0] for _ in range(prod(shapes[0][1:])))

    def onnx(self) -> Sequence[OnnxNode]:
        return [onnx_node("Flatten")]


@dataclass(frozen=True, slots=True)
class Concat(Op):
    """Along the channels, in the order of the inputs."""

    def output_shape(self, *inputs: Shape) -> Shape:
        if len({shape[1:] for shape in inputs}) != 1:
            raise _misfit("inputs of one size", *inputs)
        return (sum(shape[0] for shape in inputs), *inputs[0][1:])

    def channels(self, inputs: Sequence[tuple[Channel, ...]], shapes: Sequence[Shape]) -> tuple[Channel, ...]:
        del shapes
        return tuple(channel for channels in inputs for channel in channels)

    def onnx(self) -> Sequence[OnnxNode]:
        return [onnx_node("Concat", axis=1)]


@dataclass(frozen=True, slots=True)
class Add(Op):
    """Of two inputs of one shape."""

    couples_inputs: ClassVar[bool] = True

    def output_shape(self, *inputs: Shape) -> Shape:
        if len(inputs) != 2 or inputs[0] != inputs[1]:
            raise _misfit("inputs of one shape", *inputs)
        return inputs[0]

    def onnx(self) -> Sequence[OnnxNode]:
        return [onnx_node("Add")]


@dataclass(frozen=True, slots=True)
class PadChannels(Op):
    """Appends channels of zeros: with strides in front of it the shortcut "A" of He et al. (arXiv 1512.03385)."""

    num_channels: int

    def output_shape(self, *inputs: Shape) -> Shape:
        if len(inputs[0]) != 3:
            raise _misfit("(C, H, W)", *inputs)
        channels, height, width = inputs[0]
        return (channels + self.num_channels, height, width)

    def num_own_channels(self, output: Shape) -> int:
        del output
        return self.num_channels

    def onnx(self) -> Sequence[OnnxNode]:
        # In front of each dimension, then behind it: only behind the channels.
        pads: Attributes = {"value_ints": [0, 0, 0, 0, 0, self.num_channels, 0, 0]}
        return [OnnxNode("Constant", (), pads, "pads", reads_inputs=False), onnx_node("Pad", "pads")]
