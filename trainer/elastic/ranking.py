"""The most important channels first, so that a smaller level, the first channels of each group, keeps them."""

from __future__ import annotations

import numpy as np

from zoo.checkpoint.file import Tensors
from zoo.network.channel_groups import channel_groups
from zoo.network.graph import Graph, parameter_shapes


def ranked(graph: Graph, tensors: Tensors) -> Tensors:
    """The tensors with each group's channels in the order of their norm, over all weights that are coupled to them.

    The logits stay as they are, to rounding.
    """
    result = {name: np.array(tensor) for name, tensor in tensors.items()}
    trained = parameter_shapes(graph)
    for group in channel_groups(graph):
        scores = np.zeros(group.num_channels)
        for (name, axis), places in group.places.items():
            if name in trained:
                others = tuple(other for other in range(result[name].ndim) if other != axis)
                squares = np.square(result[name], dtype=np.float64).sum(axis=others)
                scores += [squares[list(positions)].sum() for positions in places]
        order = np.argsort(-scores, kind="stable")
        for (name, axis), places in group.places.items():
            to = [position for positions in places for position in positions]
            come = [position for channel in order for position in places[channel]]
            moved = np.moveaxis(result[name], axis, 0)
            moved[to] = moved[come]
    return result
