"""Residual networks of blueprint separable convolutions (BSConv, arXiv 2003.13549) that grow in every stage.

    input ─ stem ─ stage 0 ─ enter 1 ─ stage 1 ─ … ─ head ─ logits

The stem is a 3×3 convolution, of stride 2 for larger images, and pools. A stage is a row of residual layers x +
depthwise(pointwise(SiLU(batch norm(x)))): a 1×1 convolution mixes the channels, a 3×3 convolution then filters each
by itself. Entering a stage, a 2×2 max-pool halves its sides and a 1×1 convolution sets its number of channels. The
head averages over the image. A layer adds C² + 11·C parameters to a stage of C channels, where a dense 3×3
convolution would add 9·C² + 2·C.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from zoo.errors import DescriptorError
from zoo.network.families.family import Architecture, Change, Frozen, LayerKind, StageOutline, deeper_or_wider, register
from zoo.network.graph import INPUT, Graph, GraphBuilder
from zoo.network.ops import Add, BatchNorm, Conv2d, GlobalAveragePool, Linear, MaxPool2d, SiLU


class Stage(Frozen):
    channels: Annotated[int, Field(ge=1, le=65536)]
    num_layers: Annotated[int, Field(ge=0, le=1024)]


@register
class BlueprintArchitecture(Architecture):
    """A network of the family, complete: with the shapes of its input it fixes every tensor."""

    family: Literal["blueprint"] = "blueprint"
    # Of the stem's convolution; 1 is left out, so that a file written before there was a choice keeps its bytes.
    stem_stride: Annotated[Literal[1, 2], Field(exclude_if=lambda value: value == 1)] = 1
    # Times that the sides are halved by pools after it, before the first stage.
    stem_pools: Annotated[int, Field(ge=0, le=12)]
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, max_length=16)]

    def graph(self) -> Graph:
        """Raises DescriptorError where the input is too small for the pools."""
        builder = GraphBuilder((self.input_channels, self.input_height, self.input_width))
        add = builder.add
        channels = self.stages[0].channels
        stem = Conv2d(self.input_channels, channels, kernel_size=3, bias=False, stride=self.stem_stride)
        value = add("stem.conv", stem, INPUT)
        for index in range(self.stem_pools):
            value = add(f"stem.pools.{index}", MaxPool2d(2), value)
        for s, stage in enumerate(self.stages):
            if s > 0:
                value = self._enter(builder, f"stages.{s}.enter", value, channels, stage.channels)
                channels = stage.channels
            for index in range(stage.num_layers):
                value = self._layer(builder, f"stages.{s}.layers.{index}", value, channels)
        value = add("head.norm", BatchNorm(channels), value)
        value = add("head.act", SiLU(), value)
        value = add("head.average", GlobalAveragePool(), value)
        add("head.output", Linear(channels, self.num_classes), value)
        return builder.build()

    @staticmethod
    def _enter(builder: GraphBuilder, name: str, value: str, inputs: int, outputs: int) -> str:
        value = builder.add(f"{name}.norm", BatchNorm(inputs), value)
        value = builder.add(f"{name}.act", SiLU(), value)
        value = builder.add(f"{name}.pool", MaxPool2d(2), value)
        return builder.add(f"{name}.conv", Conv2d(inputs, outputs, kernel_size=1, bias=False), value)

    @staticmethod
    def _layer(builder: GraphBuilder, name: str, value: str, channels: int) -> str:
        pointwise = Conv2d(channels, channels, kernel_size=1, bias=False)
        depthwise = Conv2d(channels, channels, kernel_size=3, bias=False, groups=channels)
        hidden = builder.add(f"{name}.norm", BatchNorm(channels), value)
        hidden = builder.add(f"{name}.act", SiLU(), hidden)
        hidden = builder.add(f"{name}.pointwise", pointwise, hidden)
        hidden = builder.add(f"{name}.depthwise", depthwise, hidden)
        return builder.add(f"{name}.add", Add(), value, hidden)

    def fitted(self, *, height: int, width: int, num_classes: int) -> BlueprintArchitecture:
        """The first stage sees images of another size about as large as it is used to: they are halved in the stem, as
        often as `start` halves them."""
        resized = super().fitted(height=height, width=width, num_classes=num_classes)
        if (height, width) == (self.input_height, self.input_width):
            return resized
        return resized.model_copy(update=_stem(max(height, width), max(self._first_sides())))

    def _first_sides(self) -> tuple[int, int]:
        """Pixels that the first stage sees: a convolution of stride 2 rounds up, a pool down."""
        height, width = (-(-side // self.stem_stride) for side in (self.input_height, self.input_width))
        return height // 2**self.stem_pools, width // 2**self.stem_pools

    def outline(self) -> tuple[StageOutline, ...]:
        height, width = self._first_sides()
        return tuple(
            StageOutline(
                channels=stage.channels,
                height=height // 2**s,
                width=width // 2**s,
                layers=(
                    "1×1 convolution after a 2×2 pool" if s else "3×3 convolution",
                    *("residual layer: 1×1, then 3×3 depthwise",) * stage.num_layers,
                ),
            )
            for s, stage in enumerate(self.stages)
        )

    def changes(self, *, max_layers: int, layer_kind: LayerKind, channels_added: int) -> list[Change]:
        return deeper_or_wider(
            [stage.num_layers for stage in self.stages],
            max_layers=max_layers,
            layer_kind=layer_kind,
            channels_added=channels_added,
        )

    def grown(self, change: Change, *, exact: bool) -> BlueprintArchitecture:
        """Each of its changes can leave the logits alone, and an inexact one leads to the same network."""
        del exact
        if change.kind == "deepen":
            return self.deepened(change.block)
        return self.widened(change.block, change.channels_added)

    def deepened(self, stage: int) -> BlueprintArchitecture:
        """One more layer at the end of the stage."""
        old = self.stages[stage]
        return self._with_stage(stage, Stage(channels=old.channels, num_layers=old.num_layers + 1))

    def widened(self, stage: int, num_channels: int) -> BlueprintArchitecture:
        """`num_channels` more channels throughout the stage."""
        old = self.stages[stage]
        return self._with_stage(stage, Stage(channels=old.channels + num_channels, num_layers=old.num_layers))

    def before(self, change: Change) -> BlueprintArchitecture:
        old = self.stages[change.block]
        channels, num_layers = old.channels - change.channels_added, old.num_layers - (change.kind == "deepen")
        if channels < 1 or num_layers < 0:
            raise DescriptorError(f"a stage of {old.channels} channels and {old.num_layers} layers has no {change}")
        return self._with_stage(change.block, Stage(channels=channels, num_layers=num_layers))

    def widths(self) -> tuple[int, ...]:
        return tuple(stage.channels for stage in self.stages)

    def _of_widths(self, widths: tuple[int, ...]) -> BlueprintArchitecture:
        stages = zip(self.stages, widths, strict=True)
        narrow = tuple(Stage(channels=width, num_layers=stage.num_layers) for stage, width in stages)
        return self.model_copy(update={"stages": narrow})

    def _with_stage(self, index: int, new: Stage) -> BlueprintArchitecture:
        stages = (*self.stages[:index], new, *self.stages[index + 1 :])
        return self.model_copy(update={"stages": stages})


def start(
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    channels: tuple[int, ...],
    num_layers: tuple[int, ...],
    max_side: int = 24,
) -> BlueprintArchitecture:
    """The network a run begins with. `input_shape` is (channels, height, width).

    Images with a side above 1.5 · `max_side` pixels are halved before the first stage until no side is: first by the
    stem's convolution, which saves three quarters of its work, then by pools.
    """
    return BlueprintArchitecture(
        input_channels=input_shape[0],
        input_height=input_shape[1],
        input_width=input_shape[2],
        num_classes=num_classes,
        **_stem(max(input_shape[1:]), max_side),
        stages=tuple(Stage(channels=c, num_layers=n) for c, n in zip(channels, num_layers, strict=True)),
    )


def _stem(side: int, max_side: int) -> dict[str, int]:
    """Stride and pools that halve this side until it is at most 1.5 · `max_side`."""
    stride = 2 if side > 1.5 * max_side else 1
    side, pools = -(-side // stride), 0
    while side > 1.5 * max_side:
        side, pools = side // 2, pools + 1
    return {"stem_stride": stride, "stem_pools": pools}
