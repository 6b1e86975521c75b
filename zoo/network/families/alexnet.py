"""AlexNet for images of about 32×32 pixels: its five convolutions, with what later networks put in place of the rest.

The channels are those of the one-tower variant (arXiv 1404.5997): 64, 192, 384, 256, 256. The original's first layer
has 11×11 pixels and a stride of 4, for images of 224×224; of 32×32 it would leave 8×8, so here it has 5×5 and a
stride of 1. The second has 5×5 and the others 3×3, as in the original, and the image is halved where the original does
it, behind the first, the second and the fifth. Batch norm stands in place of local response normalisation and dropout,
and one linear layer behind the mean over the image in place of three, which have 59 of the original's 61 million
parameters. At 32×32 pixels and 10 classes: 2,454,986 parameters, 220,400,128 multiply-accumulates.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from zoo.network.families.family import input_fields, register
from zoo.network.families.plain import Channels, PlainArchitecture, plain_graph
from zoo.network.graph import Graph


@register
class AlexnetArchitecture(PlainArchitecture):
    """A network of the family."""

    family: Literal["alexnet"] = "alexnet"
    channels: Annotated[tuple[Channels, ...], Field(min_length=5, max_length=5)]

    def graph(self) -> Graph:
        return plain_graph(self, [5, 5, 3, 3, 3], (0, 1, 4))


def start(
    *, input_shape: tuple[int, int, int], num_classes: int, channels: tuple[int, ...] = (64, 192, 384, 256, 256)
) -> AlexnetArchitecture:
    """`input_shape` is (channels, height, width)."""
    return AlexnetArchitecture(**input_fields(input_shape, num_classes), channels=channels)
