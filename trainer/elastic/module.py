"""Several networks, each inside the next, in one set of parameters.

The largest owns all tensors that are shared; a smaller one computes with its part of each, where
`zoo.network.placement.placements` says, and has only its batch norms to itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from trainer.growth.expand import grid
from zoo.checkpoint.nesting import shared_places
from zoo.network.graph import INPUT, Graph
from zoo.network.placement import placements
from zoo.runtime.module import GraphModule

# For each dimension, which of its entries: neighbours as one slice.
Part = tuple[tuple[slice, ...], ...]


class ElasticModule(GraphModule):
    """The levels' networks, smallest first; the last owns what they share. Trained as one module.

    >>> module = ElasticModule([small.graph(), large.graph()])
    >>> module(images).shape
    torch.Size([2, 512, 10])
    """

    def __init__(self, graphs: Sequence[Graph]) -> None:
        super().__init__(graphs[-1])
        self._smaller = [_Level(graph, self) for graph in graphs[:-1]]
        self.levels = nn.ModuleList(self._smaller)
        self.views = (0,) * len(graphs)
        """Which of the views of the images each level sees."""
        self.asked: tuple[int, ...] = ()
        """Levels that also answer for what the one before them sees."""

    def forward(
        self, views: Float[Tensor, "batch channels height width"] | tuple[Tensor, ...]
    ) -> Float[Tensor, "outputs batch classes"]:
        """`views` are normalised: the images, or several views of them. The logits of every level; then the answers of
        those that are `asked`, without gradients."""
        views = views if isinstance(views, tuple) else (views,)
        logits = [self._answers(level, views[view]) for level, view in enumerate(self.views)]
        with torch.no_grad():
            logits += [self._answers(level, views[self.views[level - 1]]) for level in self.asked]
        return torch.stack(logits)

    def _answers(self, level: int, images: Tensor) -> Tensor:
        return self._smaller[level](images) if level < len(self._smaller) else super().forward(images)

    @property
    def graphs(self) -> list[Graph]:
        return [*(level.graph for level in self._smaller), self.graph]

    def extracted(self, level: int) -> GraphModule:
        """A copy of one level as an ordinary network, in eval mode and on the same device."""
        graph, everything = self.graphs[level], self.state_dict()
        own = self._smaller[level].state_dict() if level < len(self._smaller) else everything
        shared = {name: everything[name][grid(place)] for name, place in shared_places(self.graph, graph).items()}
        module = GraphModule(graph).to(next(self.parameters()).device)
        module.load_state_dict({name: (own | shared)[name] for name in module.state_dict()})
        return module.eval()

    @torch.no_grad()
    def load_levels(self, tensors: Mapping[str, Tensor]) -> None:
        """Gives every level its part of the largest network's tensors, batch norms too."""
        mine = self.state_dict()
        for name, tensor in tensors.items():
            mine[name].copy_(tensor)
        for level in self._smaller:
            own = level.state_dict()
            for name, place in placements(level.graph, self.graph).items():
                if name in own:
                    own[name].copy_(tensors[name][grid(place)])


class _Level(GraphModule):
    """A smaller network. Of its layers only batch norms have tensors; the others borrow them for each forward pass."""

    def __init__(self, graph: Graph, owner: GraphModule) -> None:
        super().__init__(graph)
        parts: dict[str, dict[str, Part]] = {}
        for name, place in shared_places(owner.graph, graph).items():
            node, _, tensor = name.rpartition(".")
            parts.setdefault(node, {})[tensor] = tuple(map(_runs, place))
        # The owner's layers, in a list so that they are not this module's too.
        self._lenders = [
            (owner.get_submodule(node.name), parts[node.name]) if node.name in parts else None for node in graph.nodes
        ]
        for node_name, tensors in parts.items():
            for tensor in tensors:
                del self.get_submodule(node_name)._parameters[tensor]

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        values = {INPUT: images}
        for node, layer, lender in zip(self.graph.nodes, self._layers, self._lenders, strict=True):
            inputs = tuple(values[name] for name in node.inputs)
            if lender is None:
                values[node.name] = layer(*inputs)
            else:
                owner, parts = lender
                tensors = {name: _part(getattr(owner, name), part) for name, part in parts.items()}
                values[node.name] = functional_call(layer, tensors, inputs)
        return values[self.graph.output]


def _runs(axis: tuple[int, ...]) -> tuple[slice, ...]:
    runs: list[slice] = []
    for position in axis:
        if runs and runs[-1].stop == position:
            runs[-1] = slice(runs[-1].start, position + 1)
        else:
            runs.append(slice(position, position + 1))
    return tuple(runs)


def _part(tensor: Tensor, part: Part) -> Tensor:
    """A view where entries are neighbours. Without index tensors, which would have to be on the device."""
    for dimension, runs in enumerate(part):
        pieces = [tensor.narrow(dimension, run.start, run.stop - run.start) for run in runs]
        tensor = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dimension)
    return tensor
