"""The network of Self-Expanding CNN (arXiv 2401.05686), and the ways in which it can grow.

    input ─ block 0 ─ block 1 ─ … ─ block n ─┐
               └──── pooled to size ──── concat ─ 1×1 conv ─ head ─ logits

A block is a row of 3×3 convolution layers and a 2×2 max-pool. The first layer changes the number of
channels; each further layer keeps it and is what an expansion inserts:
- `conv`:     conv → dropout → batch norm → LeakyReLU, the paper's layer;
- `residual`: x + conv(LeakyReLU(batch norm(x))), which with conv = 0 changes nothing at all.
Both add C·C·9 + 2·C parameters to a block of C channels: 2,336 for 16, as in the paper's table.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from zoo.network.families.family import Architecture, Change, Frozen, LayerKind, StageOutline, deeper_or_wider, register
from zoo.network.graph import INPUT, Graph, GraphBuilder
from zoo.network.ops import (
    Add,
    BatchNorm,
    Concat,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAveragePool,
    LeakyReLU,
    Linear,
    MaxPool2d,
)

Slope = Annotated[float, Field(ge=0, le=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class Layer(Frozen):
    kind: LayerKind
    negative_slope: Slope


class Block(Frozen):
    channels: Annotated[int, Field(ge=1, le=65536)]
    layers: Annotated[tuple[Layer, ...], Field(min_length=1, max_length=1024)]

    @model_validator(mode="after")
    def _first_layer_changes_channels(self) -> Block:
        if self.layers[0].kind != "conv":
            raise ValueError("the first layer of a block must be of kind 'conv': it changes the channels")
        return self


@register
class SecnnArchitecture(Architecture):
    """A network of the family, complete: with the shapes of its input it fixes every tensor."""

    family: Literal["secnn"] = "secnn"
    blocks: Annotated[tuple[Block, ...], Field(min_length=2, max_length=16)]
    head: Literal["flatten", "average"]
    bottleneck_channels: Annotated[int, Field(ge=1, le=65536)]
    hidden_features: Annotated[int, Field(ge=1, le=65536)]
    head_negative_slope: Slope
    conv_dropout: Probability
    linear_dropout: Probability

    def graph(self) -> Graph:
        """Raises DescriptorError where the input is too small for the blocks' pools."""
        builder = GraphBuilder(self.input_shape)
        value, channels, skip = INPUT, self.input_channels, ""
        for b, block in enumerate(self.blocks):
            for index, layer in enumerate(block.layers):
                value = self._add_layer(builder, f"blocks.{b}.layers.{index}", layer, value, channels, block)
                channels = block.channels
            value = builder.add(f"blocks.{b}.pool", MaxPool2d(2), value)
            # The first block's output goes through the same pools as the trunk, so that sizes agree for
            # every input; the paper says only that it is pooled to size.
            skip = value if b == 0 else builder.add(f"skip.{b}.pool", MaxPool2d(2), skip)
        return self._add_head(builder, skip, value)

    def _add_layer(
        self, builder: GraphBuilder, name: str, layer: Layer, value: str, channels: int, block: Block
    ) -> str:
        # In the paper's table a first layer's convolution has a bias and an inserted one has none.
        conv = Conv2d(channels, block.channels, kernel_size=3, bias=name.endswith(".layers.0"))
        norm, act = BatchNorm(block.channels), LeakyReLU(layer.negative_slope)
        dropout = Dropout(self.conv_dropout)
        if layer.kind == "conv":
            hidden = builder.add(f"{name}.conv", conv, value)
            hidden = builder.add(f"{name}.dropout", dropout, hidden)
            hidden = builder.add(f"{name}.norm", norm, hidden)
            return builder.add(f"{name}.act", act, hidden)
        hidden = builder.add(f"{name}.norm", norm, value)
        hidden = builder.add(f"{name}.act", act, hidden)
        hidden = builder.add(f"{name}.conv", conv, hidden)
        hidden = builder.add(f"{name}.dropout", dropout, hidden)
        return builder.add(f"{name}.add", Add(), value, hidden)

    def _add_head(self, builder: GraphBuilder, skip: str, value: str) -> Graph:
        add = builder.add
        act = LeakyReLU(self.head_negative_slope)
        channels = self.blocks[0].channels + self.blocks[-1].channels
        value = add("concat", Concat(), skip, value)
        value = add("head.conv", Conv2d(channels, self.bottleneck_channels, kernel_size=1, bias=True), value)
        value = add("head.conv_act", act, value)
        if self.head == "flatten":
            value = add("head.flatten", Flatten(), value)
            shrink = 2 ** len(self.blocks)
            size = (self.input_height // shrink) * (self.input_width // shrink)
            features = self.bottleneck_channels * size
        else:
            value = add("head.average", GlobalAveragePool(), value)
            features = self.bottleneck_channels
        value = add("head.hidden", Linear(features, self.hidden_features), value)
        value = add("head.dropout", Dropout(self.linear_dropout), value)
        value = add("head.hidden_norm", BatchNorm(self.hidden_features), value)
        value = add("head.hidden_act", act, value)
        value = add("head.output_norm", BatchNorm(self.hidden_features), value)
        add("head.output", Linear(self.hidden_features, self.num_classes), value)
        return builder.build()

    def outline(self) -> tuple[StageOutline, ...]:
        kinds = {"conv": "3×3 convolution", "residual": "residual 3×3 convolution"}
        return tuple(
            StageOutline(
                channels=block.channels,
                height=self.input_height // 2**b,
                width=self.input_width // 2**b,
                layers=tuple(kinds[layer.kind] for layer in block.layers),
                feeds_head=b == 0,
            )
            for b, block in enumerate(self.blocks)
        )

    def changes(self, *, max_layers: int, layer_kind: LayerKind, channels_added: int) -> list[Change]:
        return deeper_or_wider(
            [len(block.layers) for block in self.blocks],
            max_layers=max_layers,
            layer_kind=layer_kind,
            channels_added=channels_added,
        )

    def grown(self, change: Change, *, exact: bool) -> SecnnArchitecture:
        if change.kind == "widen":
            return self.widened(change.block, change.channels_added)
        assert change.layer_kind is not None
        return self.deepened(change.block, change.layer_kind, split_slope=exact)

    def deepened(self, block: int, kind: LayerKind, *, split_slope: bool) -> SecnnArchitecture:
        """One more layer at the end of the block.

        LeakyReLU slopes multiply when only an identity stands between them; `split_slope` gives the last layer
        and the new one the root of the last slope each, so that together they are what the last one was. A
        residual layer ends in no activation: after it the slope that changes nothing is 1.
        """
        layers = self.blocks[block].layers
        new = Layer(kind=kind, negative_slope=self.head_negative_slope)
        if kind == "conv" and split_slope:
            if layers[-1].kind == "conv":
                new = Layer(kind="conv", negative_slope=layers[-1].negative_slope ** 0.5)
                layers = (*layers[:-1], new)
            else:
                new = Layer(kind="conv", negative_slope=1)
        return self._with_block(block, Block(channels=self.blocks[block].channels, layers=(*layers, new)))

    def widened(self, block: int, num_channels: int) -> SecnnArchitecture:
        """`num_channels` more channels in every convolution of the block."""
        old = self.blocks[block]
        return self._with_block(block, Block(channels=old.channels + num_channels, layers=old.layers))

    def widths(self) -> tuple[int, ...]:
        """Of the blocks, of the bottleneck and of the hidden layer."""
        return (*(block.channels for block in self.blocks), self.bottleneck_channels, self.hidden_features)

    def _of_widths(self, widths: tuple[int, ...]) -> SecnnArchitecture:
        *channels, bottleneck, hidden = widths
        narrow = zip(self.blocks, channels, strict=True)
        blocks = tuple(Block(channels=width, layers=block.layers) for block, width in narrow)
        return self.model_copy(update={"blocks": blocks, "bottleneck_channels": bottleneck, "hidden_features": hidden})

    def _with_block(self, block: int, new: Block) -> SecnnArchitecture:
        blocks = (*self.blocks[:block], new, *self.blocks[block + 1 :])
        return self.model_copy(update={"blocks": blocks})


def start(
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    channels: int = 16,
    num_blocks: int = 3,
    head: Literal["flatten", "average"] = "flatten",
    bottleneck_channels: int = 10,
    hidden_features: int = 20,
    negative_slope: float = 0.2,
    conv_dropout: float = 0.1,
    linear_dropout: float = 0.05,
) -> SecnnArchitecture:
    """The network a run begins with; the defaults are the paper's. `input_shape` is (channels, height, width)."""
    layer = Layer(kind="conv", negative_slope=negative_slope)
    return SecnnArchitecture(
        input_channels=input_shape[0],
        input_height=input_shape[1],
        input_width=input_shape[2],
        num_classes=num_classes,
        blocks=(Block(channels=channels, layers=(layer,)),) * num_blocks,
        head=head,
        bottleneck_channels=bottleneck_channels,
        hidden_features=hidden_features,
        head_negative_slope=negative_slope,
        conv_dropout=conv_dropout,
        linear_dropout=linear_dropout,
    )


def is_inserted(name: str) -> bool:
    """Whether the node (or tensor) belongs to a layer behind the first of its block."""
    found = re.match(r"blocks\.\d+\.layers\.(\d+)\.", name)
    return found is not None and int(found[1]) > 0


def is_first_dropout(name: str) -> bool:
    """Whether the node is the dropout of a block's first layer."""
    return re.fullmatch(r"blocks\.\d+\.layers\.0\.dropout", name) is not None
