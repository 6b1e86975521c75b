"""A network as pure data: typed operations and how they connect.

One graph has three readings: `runtime.module` trains it, `runtime.onnx_model` serves it, `network.cost` counts it.
Because all three walk the same nodes, they cannot disagree. Values are batched; shapes below leave the
batch dimension out: (channels, height, width) for images, (features,) after Flatten.
"""

from __future__ import annotations

from dataclasses import dataclass

from zoo.errors import DescriptorError

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Conv2d:
    """Square kernel, stride 1, zero padding that keeps the size ("same").

    With `groups` each output channel reads in_channels / groups input channels; depthwise: groups = in = out.
    """

    in_channels: int
    out_channels: int
    kernel_size: int
    bias: bool
    groups: int = 1


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """Per channel of an image, or per feature of a vector. eps is PyTorch's default."""

    num_features: int
    eps: float = 1e-5


@dataclass(frozen=True, slots=True)
class LeakyReLU:
    negative_slope: float


@dataclass(frozen=True, slots=True)
class SiLU:
    """x · sigmoid(x)"""


@dataclass(frozen=True, slots=True)
class Dropout:
    """Acts in training only; element-wise, also on images."""

    p: float


@dataclass(frozen=True, slots=True)
class MaxPool2d:
    """Window and stride are equal; a remainder at the edge is dropped."""

    kernel_size: int


@dataclass(frozen=True, slots=True)
class GlobalAveragePool:
    """(C, H, W) -> (C,)"""


@dataclass(frozen=True, slots=True)
class Flatten:
    """(C, H, W) -> (C·H·W,), channels slowest."""


@dataclass(frozen=True, slots=True)
class Linear:
    in_features: int
    out_features: int


@dataclass(frozen=True, slots=True)
class Concat:
    """Along the channels, in the order of the inputs."""


@dataclass(frozen=True, slots=True)
class Add:
    pass


Op = Conv2d | BatchNorm | LeakyReLU | SiLU | Dropout | MaxPool2d | GlobalAveragePool | Flatten | Linear | Concat | Add


@dataclass(frozen=True, slots=True)
class Node:
    """One operation. Its name is the prefix of its tensors ("blocks.0.layers.0.conv" + ".weight")."""

    name: str
    op: Op
    inputs: tuple[str, ...]


INPUT = "input"


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in an order in which they can run; the last one gives the logits."""

    input_shape: Shape
    nodes: tuple[Node, ...]

    @property
    def output(self) -> str:
        return self.nodes[-1].name


class GraphBuilder:
    """Appends nodes; `add` returns the new node's name, to be the input of the next."""

    def __init__(self, input_shape: Shape) -> None:
        self._input_shape = input_shape
        self._nodes: list[Node] = []

    def add(self, name: str, op: Op, *inputs: str) -> str:
        self._nodes.append(Node(name, op, inputs))
        return name

    def build(self) -> Graph:
        graph = Graph(self._input_shape, tuple(self._nodes))
        output_shapes(graph)
        return graph


def output_shapes(graph: Graph) -> dict[str, Shape]:
    """The shape of every value by name, the input's included. Raises DescriptorError where nodes do not fit."""
    shapes: dict[str, Shape] = {INPUT: graph.input_shape}
    for node in graph.nodes:
        try:
            inputs = [shapes[name] for name in node.inputs]
        except KeyError as missing:
            raise DescriptorError(f"{node.name} reads {missing}, which no earlier node produces") from None
        if node.name in shapes:
            raise DescriptorError(f"two nodes are named {node.name}")
        shapes[node.name] = _output_shape(node, inputs)
    return shapes


def _output_shape(node: Node, inputs: list[Shape]) -> Shape:
    first = inputs[0]
    match node.op:
        case Conv2d(in_channels=channels, out_channels=out, groups=groups):
            _expect(node, len(first) == 3 and first[0] == channels, f"({channels}, H, W)", first)
            _expect(node, channels % groups == out % groups == 0, f"channels in {groups} equal groups", first, (out,))
            return (out, *first[1:])
        case BatchNorm(num_features=features):
            _expect(node, first[0] == features, f"{features} channels or features", first)
            return first
        case Linear(in_features=features, out_features=out):
            _expect(node, first == (features,), f"({features},)", first)
            return (out,)
        case MaxPool2d(kernel_size=size):
            _expect(node, len(first) == 3 and min(first[1:]) >= size, f"at least {size}×{size} pixels", first)
            return (first[0], first[1] // size, first[2] // size)
        case GlobalAveragePool():
            _expect(node, len(first) == 3, "(C, H, W)", first)
            return (first[0],)
        case Flatten():
            _expect(node, len(first) == 3, "(C, H, W)", first)
            return (first[0] * first[1] * first[2],)
        case Concat():
            _expect(node, len({shape[1:] for shape in inputs}) == 1, "inputs of one size", *inputs)
            return (sum(shape[0] for shape in inputs), *first[1:])
        case Add():
            _expect(node, len(set(inputs)) == 1, "inputs of one shape", *inputs)
            return first
        case LeakyReLU() | SiLU() | Dropout():
            return first


def _expect(node: Node, holds: bool, expected: str, *found: Shape) -> None:
    if not holds:
        raise DescriptorError(f"{node.name} expects {expected}, gets {', '.join(map(str, found))}")


def parameter_shapes(graph: Graph) -> dict[str, Shape]:
    """Trainable tensors by name, in node order."""
    shapes: dict[str, Shape] = {}
    for node in graph.nodes:
        match node.op:
            case Conv2d(in_channels=inputs, out_channels=out, kernel_size=size, bias=bias, groups=groups):
                shapes[f"{node.name}.weight"] = (out, inputs // groups, size, size)
                if bias:
                    shapes[f"{node.name}.bias"] = (out,)
            case Linear(in_features=inputs, out_features=out):
                shapes[f"{node.name}.weight"] = (out, inputs)
                shapes[f"{node.name}.bias"] = (out,)
            case BatchNorm(num_features=features):
                shapes[f"{node.name}.weight"] = (features,)
                shapes[f"{node.name}.bias"] = (features,)
    return shapes


def buffer_shapes(graph: Graph) -> dict[str, Shape]:
    """Tensors that are stored but not trained: the running statistics of batch norm."""
    return {
        f"{node.name}.{statistic}": (node.op.num_features,)
        for node in graph.nodes
        if isinstance(node.op, BatchNorm)
        for statistic in ("running_mean", "running_var")
    }


def tensor_shapes(graph: Graph) -> dict[str, Shape]:
    """Exactly the tensors that a checkpoint of this graph holds, all float32."""
    return parameter_shapes(graph) | buffer_shapes(graph)
