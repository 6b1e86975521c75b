"""What a network costs, counted from its graph."""

from __future__ import annotations

from math import prod

from zoo.network.graph import Graph, output_shapes, parameter_shapes, tensor_shapes

# The largest integer of SQLite, which a catalog keeps costs in.
MAX_COUNT = 2**63 - 1


def num_params(graph: Graph) -> int:
    """Trainable numbers, as the paper counts them: running statistics are not among them."""
    return sum(prod(shape) for shape in parameter_shapes(graph).values())


def num_macs(graph: Graph) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image.

    Batch norm is not counted: at inference it folds into the convolution beside it.
    """
    shapes = output_shapes(graph)
    return sum(node.op.macs(shapes[node.name]) for node in graph.nodes)


def forward_flops(macs: int, num_images: int) -> int:
    """Two operations per multiply-accumulate."""
    return 2 * macs * num_images


def activation_bytes(graph: Graph) -> int:
    """The most that values take at a time while one image runs in float32: each is kept until its last reader."""
    return max(live_bytes(graph))


def live_bytes(graph: Graph) -> list[int]:
    """What values take before the first node has run, and while each one runs."""
    shapes = output_shapes(graph)
    last_reader = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
    live = 4 * prod(graph.input_shape)
    found = [live]
    for index, node in enumerate(graph.nodes):
        live += 4 * prod(shapes[node.name])
        found.append(live)
        live -= sum(4 * prod(shapes[name]) for name in set(node.inputs) if last_reader[name] == index)
    return found


def ram_bytes(graph: Graph) -> int:
    """What one image takes at the least: all tensors, and the most activations that are alive at one time."""
    return activation_bytes(graph) + 4 * sum(prod(shape) for shape in tensor_shapes(graph).values())


def training_flops(macs: int, num_images: int) -> int:
    """Of a forward pass, and of a backward pass that costs two of them."""
    return 3 * forward_flops(macs, num_images)
