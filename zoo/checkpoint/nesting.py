"""What a network adds to a smaller one that lies within it, as one row of numbers.

    values of the larger one    of each tensor but those of batch norms, in node order: new rows, then what is new in
                                old rows; then its batch norms, whole

Which values are old `zoo.network.placement` says. Each network has batch norms of its own, since what reaches a channel
has other statistics where there are other channels; all else is shared, bit for bit.
"""

from __future__ import annotations

from math import prod

import numpy as np
import numpy.typing as npt

from zoo.checkpoint.file import Tensors
from zoo.errors import CheckpointError, DescriptorError
from zoo.network.graph import Graph
from zoo.network.ops import BatchNorm, Shape
from zoo.network.placement import Placement, placements

Values = npt.NDArray[np.float32]
# A network and its tensors.
Network = tuple[Graph, Tensors]


def num_added(larger: Graph, smaller: Graph | None) -> int:
    """How many values `added` has; negative where `smaller` cannot lie within it."""
    shared, own = _shapes(larger)
    old, _ = _shapes(smaller) if smaller else ({}, {})
    return sum(map(prod, (*shared.values(), *own.values()))) - sum(map(prod, old.values()))


def added(larger: Network, smaller: Network | None) -> Values:
    """What `restored` needs beside the smaller network, which is None for the smallest of all: float32, flat.

    Raises CheckpointError, with the tensor's name, where the smaller one does not lie within the larger, bit for bit.
    """
    graph, tensors = larger
    places = shared_places(graph, smaller[0]) if smaller else {}
    shared, own = _shapes(graph)
    parts = []
    for name, shape in shared.items():
        if smaller and name in places:
            here, before = tensors[name][np.ix_(*places[name])], smaller[1][name]
            if (here.shape, here.tobytes()) != (before.shape, before.tobytes()):
                raise CheckpointError(f"{name} is another one than in the level before")
        parts += [tensors[name][where] for where in _new(shape, places.get(name))]
    return np.concatenate([part.ravel() for part in (*parts, *(tensors[name] for name in own))]).astype("<f4")


def restored(graph: Graph, values: Values, smaller: Network | None) -> Tensors:
    """The tensors of the larger network. Raises CheckpointError where these are not the values of such a one."""
    if len(values) != (expected := num_added(graph, smaller[0] if smaller else None)):
        raise CheckpointError(f"it adds {expected} values to the level before, {len(values)} came")
    places = shared_places(graph, smaller[0]) if smaller else {}
    shared, own = _shapes(graph)
    tensors, taken = {}, 0
    for name, shape in shared.items():
        tensor = tensors[name] = np.empty(shape, np.float32)
        if smaller and name in places:
            tensor[np.ix_(*places[name])] = smaller[1][name]
        for where in _new(shape, places.get(name)):
            count = tensor[where].size
            tensor[where] = values[taken : taken + count].reshape(tensor[where].shape)
            taken += count
    for name, shape in own.items():
        tensors[name] = values[taken : taken + prod(shape)].reshape(shape).astype(np.float32)
        taken += prod(shape)
    return tensors


def _shapes(graph: Graph) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """Of the tensors that levels share, and of those that each has of its own, in node order."""
    shared: dict[str, Shape] = {}
    own: dict[str, Shape] = {}
    for node in graph.nodes:
        of_node = own if isinstance(node.op, BatchNorm) else shared
        of_node.update({f"{node.name}.{name}": tensor.shape for name, tensor in node.op.tensors().items()})
    return shared, own


def shared_places(larger: Graph, smaller: Graph) -> dict[str, Placement]:
    """By name, where the tensors that both share, all but those of batch norms, lie in the larger one's.

    Raises CheckpointError, with the tensor's name, where the smaller one does not lie within the larger.
    """
    (old, _), (new, _) = _shapes(smaller), _shapes(larger)
    try:
        places = placements(smaller, larger)
    except DescriptorError as error:
        raise CheckpointError(f"the level before has no place in it: {error}") from error
    for name, shape in old.items():
        place, within = places.get(name, ()), new.get(name, ())
        if tuple(map(len, place)) != shape or len(within) != len(shape):
            raise CheckpointError(f"{name} of the level before has no place in it")
        if any(axis[-1] >= size for axis, size in zip(place, within, strict=True)):
            raise CheckpointError(f"{name} is smaller than in the level before: {within} after {shape}")
    return {name: places[name] for name in old}


def _new(shape: Shape, place: Placement | None) -> list[tuple[npt.NDArray[np.intp], ...]]:
    """Indices of what is new: of new rows, then of old ones; each in C order."""
    is_new = np.ones(shape, dtype=bool)
    if place is None:
        return [is_new.nonzero()]
    is_old_row = np.zeros(shape, dtype=bool)
    is_old_row[list(place[0])] = True
    is_new[np.ix_(*place)] = False
    return [(~is_old_row).nonzero(), (is_old_row & is_new).nonzero()]
