"""Groups of coupled channels: what can only be ranked, permuted or cut in all of its places at once.

A residual stage is one group: what its layers add to must have their channels in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zoo.network.graph import INPUT, Graph, output_shapes

Axis = tuple[str, int]
"""A tensor's name and one of its dimensions."""


@dataclass(frozen=True)
class ChannelGroup:
    """`places` has, for each axis that a group runs along, the positions there of each of its channels.

    Behind a flattening a channel has several positions; behind a concatenation a group has some positions of the axis.
    """

    num_channels: int
    places: Mapping[Axis, tuple[tuple[int, ...], ...]]


def channel_groups(graph: Graph) -> list[ChannelGroup]:
    """All but those that hold a channel of the input or a logit, in node order.

    A group's channels permuted alike in all its places leave the logits as they are, to rounding.
    """
    channels, of_value, axes = _followed(graph)
    fixed = {channels.root(channel) for channel in (*of_value[INPUT], *of_value[graph.output])}
    return [
        ChannelGroup(len(members), _places(axes, members, channels))
        for members in channels.groups()
        if not fixed & set(members)
    ]


def own_groups(graph: Graph) -> dict[str, tuple[int, ...]]:
    """For each node with channels of its own (`Op.num_own_channels`), the number of each one's group, any numbers."""
    channels, _, _ = _followed(graph)
    number = {root: index for index, members in enumerate(channels.groups()) for root in members}
    return {name: tuple(number[channels.root(one)] for one in own) for name, own in channels.own.items()}


def _followed(graph: Graph) -> tuple[_Channels, dict[str, tuple[int, ...]], dict[Axis, tuple[int, ...]]]:
    """All channels, joined where they are coupled; those of each value, and along each axis of each tensor."""
    shapes = output_shapes(graph)
    channels = _Channels()
    of_value = {INPUT: channels.made(INPUT, graph.input_shape[0])}
    axes: dict[Axis, tuple[int, ...]] = {}
    for node in graph.nodes:
        op, inputs = node.op, [of_value[name] for name in node.inputs]
        kept = () if op.mixes_channels else op.channels(inputs, [shapes[name] for name in node.inputs])
        outputs = kept + channels.made(node.name, op.num_own_channels(shapes[node.name]))
        for other in inputs[1:] if op.couples_inputs else ():
            channels.join(outputs, other)
        of_value[node.name] = outputs
        for name, tensor in op.tensors().items():
            axes[f"{node.name}.{name}", 0] = outputs
            if tensor.mixes:
                axes[f"{node.name}.{name}", 1] = inputs[0]
    return channels, of_value, axes


def _places(
    axes: Mapping[Axis, tuple[int, ...]], members: tuple[int, ...], channels: _Channels
) -> dict[Axis, tuple[tuple[int, ...], ...]]:
    places = {}
    for axis, along in axes.items():
        found: dict[int, tuple[int, ...]] = dict.fromkeys(members, ())
        for position, channel in enumerate(along):
            root = channels.root(channel)
            if root in found:
                found[root] += (position,)
        if any(found.values()):
            places[axis] = tuple(found.values())
    return places


class _Channels:
    """Channels by number, joined to sets by union-find."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self.own: dict[str, tuple[int, ...]] = {}
        """By node, those that it does not hand on from its inputs."""

    def made(self, node: str, number: int) -> tuple[int, ...]:
        """New ones of a node."""
        found = tuple(range(len(self._parents), len(self._parents) + number))
        self._parents += found
        if found:
            self.own[node] = found
        return found

    def root(self, channel: int) -> int:
        while self._parents[channel] != channel:
            channel = self._parents[channel] = self._parents[self._parents[channel]]
        return channel

    def join(self, some: tuple[int, ...], others: tuple[int, ...]) -> None:
        for one, other in zip(some, others, strict=True):
            self._parents[self.root(other)] = self.root(one)

    def groups(self) -> list[tuple[int, ...]]:
        """Roots that are channels of the same nodes, together.

        Behind a shortcut that pads zeros, a stage's are two groups: those of the stage before it, and what it adds.
        """
        nodes: dict[int, tuple[str, ...]] = {}
        for node, channels in self.own.items():
            for root in dict.fromkeys(map(self.root, channels)):
                nodes[root] = (*nodes.get(root, ()), node)
        found: dict[tuple[str, ...], list[int]] = {}
        for root, owners in nodes.items():
            found.setdefault(owners, []).append(root)
        return [tuple(members) for members in found.values()]
