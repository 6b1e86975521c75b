"""What each channel of a group is worth, and the groups' channels in that order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from zoo.checkpoint.file import Tensors
from zoo.network.channel_groups import ChannelGroup, channel_groups
from zoo.network.graph import Graph, parameter_shapes
from zoo.runtime.module import GraphModule

Scores = list[npt.NDArray[np.float64]]
"""Of each group of `channel_groups`, what each of its channels is worth."""

# Training images for a Taylor score, and images of one of its batches.
TAYLOR_IMAGES = 4096
_BATCH = 128


def l2_scores(graph: Graph, tensors: Tensors) -> Scores:
    """The norm of all weights that are coupled to a channel: its filters, what reads them, its batch norms."""
    squares = {name: np.square(tensors[name], dtype=np.float64) for name in parameter_shapes(graph)}
    return [np.sqrt(sum(_sums(squares, group).values())) for group in channel_groups(graph)]


def taylor_scores(
    module: GraphModule, images: Float[Tensor, "n channels height width"], labels: Int64[Tensor, " n"]
) -> Scores:
    """How much the loss would change to first order without the channel: |Σ g·w| over each tensor that is coupled to
    it, g being a batch's gradient; summed over these, and averaged over batches (Molchanov et al., arXiv 1906.10771).

    The module is in eval mode; its images are normalised, and not augmented.
    """
    groups = channel_groups(module.graph)
    scores = [np.zeros(group.num_channels) for group in groups]
    parameters = dict(module.named_parameters())
    batches = list(zip(images.split(_BATCH), labels.split(_BATCH), strict=True))
    for some, answers in batches:
        gradients = torch.autograd.grad(F.cross_entropy(module(some), answers), list(parameters.values()))
        products = {
            name: (parameter.detach() * gradient).double().cpu().numpy()
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
        }
        for score, group in zip(scores, groups, strict=True):
            score += sum(map(np.abs, _sums(products, group).values())) / len(batches)
    return scores


def ranked(graph: Graph, tensors: Tensors, scores: Sequence[npt.NDArray[np.float64]] | None = None) -> Tensors:
    """The tensors with each group's channels in the order of their scores, the best first; by `l2_scores` without any.

    The logits stay as they are, to rounding.
    """
    result = {name: np.array(tensor) for name, tensor in tensors.items()}
    for group, values in zip(channel_groups(graph), scores or l2_scores(graph, tensors), strict=True):
        order = np.argsort(-values, kind="stable")
        for (name, axis), places in group.places.items():
            to = [position for positions in places for position in positions]
            come = [position for channel in order for position in places[channel]]
            moved = np.moveaxis(result[name], axis, 0)
            moved[to] = moved[come]
    return result


def _sums(
    values: Mapping[str, npt.NDArray[np.float64]], group: ChannelGroup
) -> dict[tuple[str, int], npt.NDArray[np.float64]]:
    """Of each axis that the group runs along, its channels' values summed."""
    found = {}
    for (name, axis), places in group.places.items():
        if name in values:
            along = values[name].sum(axis=tuple(other for other in range(values[name].ndim) if other != axis))
            found[name, axis] = np.array([along[list(positions)].sum() for positions in places])
    return found
