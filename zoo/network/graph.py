"""A network as pure data: operations and how they connect.

One graph has three readings: `runtime.module` trains it, `runtime.onnx_model` serves it, `network.cost` counts it.
Because all three walk the same nodes, they cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass

from zoo.errors import DescriptorError
from zoo.network.ops import Op, Shape, TensorSpec


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
    """Appends nodes; `add` returns the new node's name, to be the input of the next.

        builder = GraphBuilder((3, 32, 32))
        value = builder.add("conv", Conv2d(3, 16, kernel_size=3, bias=True), INPUT)
        value = builder.add("average", GlobalAveragePool(), value)
        builder.add("output", Linear(16, 10), value)
        graph = builder.build()

    `build` raises DescriptorError where shapes do not fit.
    """

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
        try:
            shapes[node.name] = node.op.output_shape(*inputs)
        except DescriptorError as error:
            raise DescriptorError(f"{node.name} {error}") from None
    return shapes


def parameter_shapes(graph: Graph) -> dict[str, Shape]:
    """Trainable tensors by name, in node order."""
    return {name: tensor.shape for name, tensor in _tensors(graph) if tensor.is_trained}


def buffer_shapes(graph: Graph) -> dict[str, Shape]:
    """Tensors that are stored but not trained: the running statistics of batch norm."""
    return {name: tensor.shape for name, tensor in _tensors(graph) if not tensor.is_trained}


def tensor_shapes(graph: Graph) -> dict[str, Shape]:
    """Exactly the tensors that a checkpoint of this graph holds, all float32; those that are trained first."""
    return {name: tensor.shape for name, tensor in sorted(_tensors(graph), key=lambda one: not one[1].is_trained)}


def _tensors(graph: Graph) -> list[tuple[str, TensorSpec]]:
    return [(f"{node.name}.{name}", tensor) for node in graph.nodes for name, tensor in node.op.tensors().items()]
