"""Where a network lies within a larger one that grew out of it."""

from __future__ import annotations

from zoo.network.graph import INPUT, Graph, output_shapes

Placement = tuple[tuple[int, ...], ...]
"""For each dimension of a new tensor, where the old tensor's entries lie in it, in order."""


def placements(old: Graph, new: Graph) -> dict[str, Placement]:
    """By name, for every tensor of `old`, its place in the tensor of that name in `new`.

    Follows the channels through `new`: a node that both graphs have appends its new channels at the end; a
    concatenation and a flattening move old channels to new positions, which the next layer's columns must follow. A
    node that is new altogether hands old channels on as they are.
    """
    before = {node.name: node.op for node in old.nodes}
    old_shapes, new_shapes = output_shapes(old), output_shapes(new)
    # Of each value's channels, whether the old network has them.
    is_old = {INPUT: (True,) * new.input_shape[0]}
    places: dict[str, Placement] = {}
    for node in new.nodes:
        inputs = [is_old[name] for name in node.inputs]
        if not node.op.mixes_channels:
            outputs = node.op.channels(inputs, [new_shapes[name] for name in node.inputs])
        elif node.name in before:
            number = old_shapes[node.name][0]
            outputs = (True,) * number + (False,) * (new_shapes[node.name][0] - number)
        else:
            outputs = inputs[0]
        is_old[node.name] = outputs
        if node.name in before:
            for name, tensor in before[node.name].tensors().items():
                rest = [tuple(range(size)) for size in tensor.shape]
                moved = [_places(outputs), _places(inputs[0])] if tensor.mixes else [_places(outputs)]
                places[f"{node.name}.{name}"] = (*moved, *rest[len(moved) :])
    return places


def _places(is_old: tuple[bool, ...]) -> tuple[int, ...]:
    return tuple(index for index, old in enumerate(is_old) if old)
