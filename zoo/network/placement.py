"""Where a network lies within a larger one that grew out of it, or that it was cut from."""

from __future__ import annotations

from collections import Counter

from zoo.errors import DescriptorError
from zoo.network.channel_groups import own_groups
from zoo.network.graph import INPUT, Graph, output_shapes

Placement = tuple[tuple[int, ...], ...]
"""For each dimension of a new tensor, where the old tensor's entries lie in it, in order."""


def placements(old: Graph, new: Graph) -> dict[str, Placement]:
    """By name, for every tensor of `old`, its place in the tensor of that name in `new`.

    Follows the channels through `new`: a node that both graphs have appends its new channels at the end, of each of
    the groups that its channels are of; a concatenation and a flattening move old channels to new positions, which the
    next layer's columns must follow. A node that is new altogether hands old channels on as they are. Raises
    DescriptorError where `new` lacks a node or channels that `old` has.
    """
    before = {node.name: node.op for node in old.nodes}
    for missing in before.keys() - {node.name for node in new.nodes}:
        raise DescriptorError(f"the larger network has no {missing}, which the smaller one has")
    old_groups, new_groups = own_groups(old), own_groups(new)
    shapes = output_shapes(new)
    # Of each value's channels, whether the old network has them.
    is_old = {INPUT: (True,) * new.input_shape[0]}
    places: dict[str, Placement] = {}
    for node in new.nodes:
        inputs = [is_old[name] for name in node.inputs]
        if node.op.mixes_channels and node.name not in before:
            outputs = inputs[0]
        else:
            mixes = node.op.mixes_channels
            outputs = () if mixes else node.op.channels(inputs, [shapes[name] for name in node.inputs])
            # A depthwise convolution of one channel in the smaller network has it as its own, and does not here.
            if own := new_groups.get(node.name):
                outputs += _first_of_each(node.name, old_groups.get(node.name, ()), own)
        is_old[node.name] = outputs
        if node.name in before:
            for name, tensor in before[node.name].tensors().items():
                rest = [tuple(range(size)) for size in tensor.shape]
                moved = [_places(outputs), _places(inputs[0])] if tensor.mixes else [_places(outputs)]
                places[f"{node.name}.{name}"] = (*moved, *rest[len(moved) :])
    return places


def _first_of_each(name: str, old: tuple[int, ...], new: tuple[int, ...]) -> tuple[bool, ...]:
    """Whether the old network has a node's own channels, given the group of each: of a group, the first ones."""
    left = dict(zip(dict.fromkeys(new), Counter(old).values(), strict=False))
    has = []
    for group in new:
        has.append(left.get(group, 0) > 0)
        left[group] = left.get(group, 0) - 1
    if sum(has) != len(old):
        raise DescriptorError(
            f"{name} has {_counted(new)} channels in the larger network, {_counted(old)} in the smaller"
        )
    return tuple(has)


def _counted(groups: tuple[int, ...]) -> str:
    return " + ".join(map(str, Counter(groups).values())) or "no"


def _places(is_old: tuple[bool, ...]) -> tuple[int, ...]:
    return tuple(index for index, old in enumerate(is_old) if old)
