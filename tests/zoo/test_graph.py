from __future__ import annotations

import pytest

from zoo.errors import DescriptorError
from zoo.network.cost import num_macs
from zoo.network.graph import (
    INPUT,
    Graph,
    GraphBuilder,
    Node,
    buffer_shapes,
    output_shapes,
    parameter_shapes,
    tensor_shapes,
)
from zoo.network.ops import Add, BatchNorm, Concat, Conv2d, Flatten, GlobalAveragePool, Linear, MaxPool2d, Op


def small_graph() -> Graph:
    builder = GraphBuilder((3, 9, 7))
    value = builder.add("conv", Conv2d(3, 4, kernel_size=3, bias=False), INPUT)
    value = builder.add("norm", BatchNorm(4), value)
    value = builder.add("both", Concat(), value, INPUT)
    value = builder.add("pool", MaxPool2d(2), value)
    flat = builder.add("flat", Flatten(), value)
    builder.add("output", Linear(7 * 4 * 3, 5), flat)
    return builder.build()


def test_shapes_follow_the_operations() -> None:
    assert output_shapes(small_graph()) == {
        "input": (3, 9, 7),
        "conv": (4, 9, 7),
        "norm": (4, 9, 7),
        "both": (7, 9, 7),
        "pool": (7, 4, 3),
        "flat": (84,),
        "output": (5,),
    }
    assert small_graph().output == "output"


@pytest.mark.parametrize(("groups", "kernel"), [(1, (4, 6, 3, 3)), (2, (4, 3, 3, 3))])
def test_a_grouped_convolution_reads_its_groups_channels(groups: int, kernel: tuple[int, ...]) -> None:
    graph = Graph((6, 4, 4), (Node("conv", Conv2d(6, 4, kernel_size=3, bias=True, groups=groups), (INPUT,)),))
    assert parameter_shapes(graph) == {"conv.weight": kernel, "conv.bias": (4,)}
    assert output_shapes(graph)["conv"] == (4, 4, 4)
    assert num_macs(graph) == 16 * 4 * 9 * 6 // groups


def test_a_checkpoint_holds_parameters_and_running_statistics() -> None:
    graph = small_graph()
    parameters = {
        "conv.weight": (4, 3, 3, 3),
        "norm.weight": (4,),
        "norm.bias": (4,),
        "output.weight": (5, 84),
        "output.bias": (5,),
    }
    buffers = {"norm.running_mean": (4,), "norm.running_var": (4,)}
    assert parameter_shapes(graph) == parameters
    assert buffer_shapes(graph) == buffers
    assert tensor_shapes(graph) == parameters | buffers


@pytest.mark.parametrize(
    ("op", "inputs", "message"),
    [
        (Conv2d(4, 8, 3, bias=True), ["image"], r"node expects \(4, H, W\), gets \(3, 4, 6\)"),
        (Conv2d(5, 8, 3, bias=True), ["vector"], r"node expects \(5, H, W\), gets \(5,\)"),
        (Conv2d(3, 4, 1, bias=False, groups=3), ["image"], r"channels in 3 equal groups, gets \(3, 4, 6\), \(4,\)"),
        (Conv2d(3, 4, 1, bias=False, groups=2), ["image"], r"channels in 2 equal groups, gets \(3, 4, 6\), \(4,\)"),
        (Conv2d(4, 4, 1, bias=False, groups=4), ["image"], r"node expects \(4, H, W\), gets \(3, 4, 6\)"),
        (BatchNorm(4), ["image"], r"node expects 4 channels or features, gets \(3, 4, 6\)"),
        (Linear(6, 2), ["vector"], r"node expects \(6,\), gets \(5,\)"),
        (Linear(3, 2), ["image"], r"node expects \(3,\), gets \(3, 4, 6\)"),
        (MaxPool2d(5), ["image"], r"node expects at least 5×5 pixels, gets \(3, 4, 6\)"),
        (GlobalAveragePool(), ["vector"], r"node expects \(C, H, W\), gets \(5,\)"),
        (Flatten(), ["vector"], r"node expects \(C, H, W\), gets \(5,\)"),
        (Concat(), ["image", "small"], r"node expects inputs of one size, gets \(3, 4, 6\), \(3, 2, 3\)"),
        (Add(), ["image", "small"], r"node expects inputs of one shape, gets \(3, 4, 6\), \(3, 2, 3\)"),
        (Add(), ["image", "nowhere"], "node reads 'nowhere', which no earlier node produces"),
    ],
)
def test_nodes_that_do_not_fit_are_refused(op: Op, inputs: list[str], message: str) -> None:
    builder = GraphBuilder((3, 4, 6))
    builder.add("image", Add(), INPUT, INPUT)
    builder.add("small", MaxPool2d(2), "image")
    builder.add("flat", Flatten(), "image")
    builder.add("vector", Linear(72, 5), "flat")
    builder.add("node", op, *inputs)
    with pytest.raises(DescriptorError, match=message):
        builder.build()


def test_a_name_may_be_used_once() -> None:
    with pytest.raises(DescriptorError, match="two nodes are named twice"):
        output_shapes(Graph((1, 2, 2), (Node("twice", Flatten(), (INPUT,)), Node("twice", Flatten(), (INPUT,)))))


def test_a_later_node_cannot_be_read() -> None:
    nodes = (Node("first", Add(), ("second", INPUT)), Node("second", Flatten(), (INPUT,)))
    with pytest.raises(DescriptorError, match="first reads 'second'"):
        output_shapes(Graph((1, 2, 2), nodes))
