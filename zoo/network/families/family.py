"""What a family of networks is: the settings that a descriptor holds of one, and what follows from them.

A new family is one file in this folder: a class decorated with `register` that has `graph`, and the two methods of
growth if its networks grow (docs/adding.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from zoo.errors import DescriptorError
from zoo.network.graph import Graph, output_shapes
from zoo.network.ops import Conv2d

LayerKind = Literal["conv", "residual"]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Change:
    """One way to grow: a layer at the end of a block, or more channels throughout it."""

    kind: Literal["deepen", "widen"]
    block: int
    layer_kind: LayerKind | None = None
    channels_added: int = 0

    def __str__(self) -> str:
        if self.kind == "deepen":
            return f"block {self.block}: one more layer"
        return f"block {self.block}: {self.channels_added} more channels"


class StageOutline(Frozen):
    """A stage of a network as a picture shows it; the stages of a picture are the blocks of its growth, in order."""

    channels: int
    height: int
    width: int
    layers: tuple[str, ...] = Field(description="Each in a few words; growth appends them.")
    feeds_head: bool = Field(default=False, description="Whether its output goes straight to the head, too.")


class Architecture(Frozen, ABC):
    """A network of one family, complete: with the shapes of its input it fixes every tensor.

    Its fields are what a descriptor says of it, `family` first: a `Literal` of the family's name, with that default.
    """

    family: str
    input_channels: Annotated[int, Field(ge=1, le=4)]
    input_height: Annotated[int, Field(ge=1, le=4096)]
    input_width: Annotated[int, Field(ge=1, le=4096)]
    num_classes: Annotated[int, Field(ge=2, le=65536)]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)"""
        return self.input_channels, self.input_height, self.input_width

    @abstractmethod
    def graph(self) -> Graph:
        """Raises DescriptorError where there is no such network: where the input is too small, mostly."""

    def fitted(self, *, height: int, width: int, num_classes: int) -> Self:
        """The network for images of another size and other classes. Its weights, but for the last layer's, fit.

        Example: `cifar10.fitted(height=96, width=96, num_classes=6)`.
        """
        return self.model_copy(update={"input_height": height, "input_width": width, "num_classes": num_classes})

    def outline(self) -> tuple[StageOutline, ...]:
        """The stages of its picture; unless a family knows better, convolutions that make images of one size."""
        graph = self.graph()
        shapes = output_shapes(graph)
        stages: list[StageOutline] = []
        for node in graph.nodes:
            if isinstance(node.op, Conv2d):
                channels, height, width = shapes[node.name]
                layers: tuple[str, ...] = (f"{node.op.kernel_size}×{node.op.kernel_size} convolution",)
                if stages and (stages[-1].height, stages[-1].width) == (height, width):
                    layers = stages.pop().layers + layers
                stages.append(StageOutline(channels=channels, height=height, width=width, layers=layers))
        return tuple(stages)

    def changes(self, *, max_layers: int, layer_kind: LayerKind, channels_added: int) -> list[Change]:
        """The ways to grow from here; none, unless the family grows.

        Blocks have at most `max_layers` layers; a new layer is of `layer_kind` where the family has several.
        """
        del max_layers, layer_kind, channels_added
        return []

    def grown(self, change: Change, *, exact: bool) -> Self:
        """The network after one of its `changes`. `exact`: it shall be able to compute what this one does."""
        del exact
        raise DescriptorError(f"networks of family {self.family} do not grow, so no {change}")

    def before(self, change: Change) -> Self:
        """The network that `change` made into this one, as far as its tensors go. Raises DescriptorError where there
        is none, or the family cannot tell."""
        raise DescriptorError(f"networks of family {self.family} do not shrink by steps of growth, so not by {change}")

    def widths(self) -> tuple[int, ...]:
        """The number of channels of each group (`channel_groups`), or of several that the family sets together.

        None, unless the family can be `narrowed`.
        """
        return ()

    def narrowed(self, widths: Sequence[int]) -> Self:
        """The network of the family with so many of the first channels of each of its `widths`.

        `placement.placements` says where its tensors lie in those of this one. Raises DescriptorError for another
        number of widths, and for one that is not from 1 to what it is here.

        Example: `blueprint.narrowed([width // 2 for width in blueprint.widths()])`.
        """
        own = self.widths()
        if len(widths) != len(own) or not all(1 <= new <= old for new, old in zip(widths, own, strict=True)):
            found = ", ".join(map(str, widths))
            raise DescriptorError(f"a narrower network has from 1 to {own} channels in its groups, not {found}")
        return self._of_widths(tuple(widths))

    def _of_widths(self, widths: tuple[int, ...]) -> Self:
        """Of checked widths; whoever has `widths` has this too."""
        assert not widths
        return self


def input_fields(input_shape: tuple[int, int, int], num_classes: int) -> dict[str, Any]:
    """The fields of an Architecture for images of (channels, height, width)."""
    names = ("input_channels", "input_height", "input_width", "num_classes")
    return dict(zip(names, (*input_shape, num_classes), strict=True))


def deeper_or_wider(
    num_layers: Sequence[int], *, max_layers: int, layer_kind: LayerKind, channels_added: int
) -> list[Change]:
    """For each block, of which `num_layers` has the layers: one layer more, unless at capacity, and more channels."""
    found = []
    for block, number in enumerate(num_layers):
        if number < max_layers:
            found.append(Change("deepen", block, layer_kind=layer_kind))
        found.append(Change("widen", block, channels_added=channels_added))
    return found


FAMILIES: dict[str, type[Architecture]] = {}
"""By name. `registry` reads the modules of this folder, so whoever asks it finds them all."""

Registered = TypeVar("Registered", bound=Architecture)


def register(family: type[Registered]) -> type[Registered]:
    """Makes descriptors with this `family` readable. Two families of one name are an error in the program."""
    name = family.model_fields["family"].default
    assert isinstance(name, str), f"{family.__name__}.family needs its name as default"
    assert FAMILIES.setdefault(name, family) is family, f"{FAMILIES[name].__name__} is family {name}, too"
    return family
