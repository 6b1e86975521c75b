"""Groups of coupled channels: what can only be ranked, permuted or cut in all of its places at once.

A residual stage is one group: what its layers add to must have their channels in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zoo.errors import DescriptorError
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
    """Those of all nodes that mix channels, but for the logits, in node order; the input's channels are in none.

    A group's channels permuted alike in all its places leave the logits as they are, to rounding. Raises
    DescriptorError where two nodes share some of their channels and not all.
    """
    shapes = output_shapes(graph)
    channels = _Channels()
    of_value = {INPUT: channels.made(INPUT, graph.input_shape[0])}
    axes: dict[Axis, tuple[int, ...]] = {}
    for node in graph.nodes:
        inputs = [of_value[name] for name in node.inputs]
        if node.op.mixes_channels:
            outputs = channels.made(node.name, shapes[node.name][0])
        else:
            outputs = node.op.channels(inputs, [shapes[name] for name in node.inputs])
            for other in inputs[1:] if node.op.couples_inputs else ():
                channels.join(outputs, other)
        of_value[node.name] = outputs
        for name, tensor in node.op.tensors().items():
            axes[f"{node.name}.{name}", 0] = outputs
            if tensor.mixes:
                axes[f"{node.name}.{name}", 1] = inputs[0]
    fixed = {channels.root(channel) for channel in (*of_value[INPUT], *of_value[graph.output])}
    return [
        ChannelGroup(len(members), _places(axes, members, channels))
        for members in channels.groups()
        if not fixed & set(members)
    ]


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
        self._made: dict[str, tuple[int, ...]] = {}

    def made(self, node: str, number: int) -> tuple[int, ...]:
        """New ones, the outputs of a node."""
        self._made[node] = tuple(range(len(self._parents), len(self._parents) + number))
        self._parents += self._made[node]
        return self._made[node]

    def root(self, channel: int) -> int:
        while self._parents[channel] != channel:
            channel = self._parents[channel] = self._parents[self._parents[channel]]
        return channel

    def join(self, some: tuple[int, ...], others: tuple[int, ...]) -> None:
        for one, other in zip(some, others, strict=True):
            self._parents[self.root(other)] = self.root(one)

    def groups(self) -> list[tuple[int, ...]]:
        """The roots of each node's channels, once for those that share them."""
        found: dict[frozenset[int], tuple[int, ...]] = {}
        owners: dict[int, str] = {}
        for node, channels in self._made.items():
            roots = tuple(self.root(channel) for channel in channels)
            found.setdefault(frozenset(roots), roots)
            for root in roots:
                first = owners.setdefault(root, node)
                if frozenset(roots) != frozenset(self.root(channel) for channel in self._made[first]):
                    raise DescriptorError(f"{node} and {first} share some of their channels, and not all")
        return list(found.values())
