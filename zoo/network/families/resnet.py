"""ResNet-20 and ResNet-56 for CIFAR-10 (He et al., arXiv 1512.03385, section 4.2).

    input ─ stem ─ stage 0 ─ stage 1 ─ stage 2 ─ head ─ logits

A layer is ReLU(x + norm(conv(ReLU(norm(conv(x)))))) of two 3×3 convolutions. The first layer of the second and of the
third stage has a stride of 2, and its shortcut is the paper's option A, which has no parameters: every second pixel,
and zeros in place of the channels that the stage adds. So the channels of a stage are those of the stage before it,
one group throughout, and a group of its own; the channels between a layer's two convolutions are a group, too.

With 16, 32 and 64 channels, at 32×32 pixels and 10 classes, ResNet-20 has 269,722 parameters and 40,551,040
multiply-accumulates, ResNet-56 853,018 and 125,485,696.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from zoo.network.families.family import Architecture, Frozen, input_fields, register
from zoo.network.graph import INPUT, Graph, GraphBuilder
from zoo.network.ops import Add, AveragePool2d, BatchNorm, Conv2d, GlobalAveragePool, Linear, PadChannels, ReLU

Channels = Annotated[int, Field(ge=1, le=4096)]


class ResidualStage(Frozen):
    """`channels` of what its layers add to, and of each layer those between its two convolutions."""

    channels: Channels
    hidden_channels: Annotated[tuple[Channels, ...], Field(min_length=1, max_length=9)]


class ResnetArchitecture(Architecture):
    """A network of either family."""

    family: str = ""
    layers_per_stage: ClassVar[int]

    stages: Annotated[tuple[ResidualStage, ...], Field(min_length=3, max_length=3)]

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        if any(len(stage.hidden_channels) != self.layers_per_stage for stage in self.stages):
            raise ValueError(f"each stage of {self.family} has {self.layers_per_stage} layers, a hidden width each")
        if not all(before.channels < after.channels for before, after in pairwise(self.stages)):
            raise ValueError("each stage must have more channels than the one before it: its shortcut adds them")
        return self

    def graph(self) -> Graph:
        builder = GraphBuilder(self.input_shape)
        channels = self.stages[0].channels
        value = _convolved(builder, "stem", "", INPUT, Conv2d(self.input_channels, channels, 3, bias=False))
        value = builder.add("stem.act", ReLU(), value)
        for s, stage in enumerate(self.stages):
            for index, hidden in enumerate(stage.hidden_channels):
                name = f"stages.{s}.layers.{index}"
                value = self._layer(builder, name, value, channels, hidden, stage.channels)
                channels = stage.channels
        value = builder.add("head.average", GlobalAveragePool(), value)
        builder.add("head.output", Linear(channels, self.num_classes), value)
        return builder.build()

    @staticmethod
    def _layer(builder: GraphBuilder, name: str, value: str, inputs: int, hidden: int, outputs: int) -> str:
        stride = 1 if inputs == outputs else 2
        branch = _convolved(builder, name, "1", value, Conv2d(inputs, hidden, 3, bias=False, stride=stride))
        branch = builder.add(f"{name}.act1", ReLU(), branch)
        branch = _convolved(builder, name, "2", branch, Conv2d(hidden, outputs, 3, bias=False))
        if inputs != outputs:
            # A window of one pixel, moved by two, takes every second one.
            value = builder.add(f"{name}.shortcut.pool", AveragePool2d(1, stride=2), value)
            value = builder.add(f"{name}.shortcut.pad", PadChannels(outputs - inputs), value)
        value = builder.add(f"{name}.add", Add(), value, branch)
        return builder.add(f"{name}.act2", ReLU(), value)

    def widths(self) -> tuple[int, ...]:
        """Of the first stage, what the second and the third add to it, then the hidden ones of each layer in order."""
        channels = [0, *(stage.channels for stage in self.stages)]
        hidden = (width for stage in self.stages for width in stage.hidden_channels)
        return (*(after - before for before, after in pairwise(channels)), *hidden)

    def _of_widths(self, widths: tuple[int, ...]) -> Self:
        hidden = iter(widths[3:])
        stages = tuple(
            ResidualStage(channels=channels, hidden_channels=tuple(next(hidden) for _ in range(self.layers_per_stage)))
            for channels in accumulate(widths[:3])
        )
        return self.model_copy(update={"stages": stages})


def _convolved(builder: GraphBuilder, name: str, number: str, value: str, convolution: Conv2d) -> str:
    value = builder.add(f"{name}.conv{number}", convolution, value)
    return builder.add(f"{name}.norm{number}", BatchNorm(convolution.out_channels), value)


@register
class Resnet20Architecture(ResnetArchitecture):
    """19 convolutions and a linear layer."""

    layers_per_stage = 3
    family: Literal["resnet20"] = "resnet20"


@register
class Resnet56Architecture(ResnetArchitecture):
    """55 convolutions and a linear layer."""

    layers_per_stage = 9
    family: Literal["resnet56"] = "resnet56"


def start(
    family: type[ResnetArchitecture] = Resnet20Architecture,
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    channels: tuple[int, ...] = (16, 32, 64),
) -> ResnetArchitecture:
    """`channels`: of each of the three stages, hidden ones too. `input_shape` is (channels, height, width)."""
    return family(
        **input_fields(input_shape, num_classes),
        stages=tuple(
            ResidualStage(channels=width, hidden_channels=(width,) * family.layers_per_stage) for width in channels
        ),
    )
