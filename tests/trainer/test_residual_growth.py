"""Growth of networks like ResNet (He et al. 2015): strides, shortcuts, and a ReLU behind each sum."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from trainer.growth.expand import Exact, expand, new_entries
from zoo.network.channel_groups import channel_groups
from zoo.network.cost import num_macs, num_params
from zoo.network.families.family import Architecture, Change, Frozen, LayerKind, deeper_or_wider
from zoo.network.graph import INPUT, Graph, GraphBuilder
from zoo.network.ops import Add, BatchNorm, Conv2d, GlobalAveragePool, Linear, ReLU
from zoo.runtime.module import GraphModule


class Stage(Frozen):
    channels: int
    num_layers: int


class ResNet(Architecture):
    family: Literal["resnet"] = "resnet"
    stages: tuple[Stage, ...]

    def graph(self) -> Graph:
        builder = GraphBuilder((self.input_channels, self.input_height, self.input_width))
        channels = self.stages[0].channels
        value = self._conv(builder, "stem", INPUT, self.input_channels, channels)
        value = builder.add("stem.act", ReLU(), value)
        for s, stage in enumerate(self.stages):
            for index in range(stage.num_layers):
                name, stride = f"stages.{s}.layers.{index}", 2 if s > 0 and index == 0 else 1
                hidden = self._conv(builder, f"{name}.first", value, channels, stage.channels, stride=stride)
                hidden = builder.add(f"{name}.act", ReLU(), hidden)
                hidden = self._conv(builder, f"{name}.second", hidden, stage.channels, stage.channels)
                if stride > 1:
                    value = self._conv(builder, f"{name}.short", value, channels, stage.channels, size=1, stride=stride)
                value = builder.add(f"{name}.out", ReLU(), builder.add(f"{name}.add", Add(), value, hidden))
                channels = stage.channels
        value = builder.add("head.average", GlobalAveragePool(), value)
        builder.add("head.output", Linear(channels, self.num_classes), value)
        return builder.build()

    @staticmethod
    def _conv(
        builder: GraphBuilder, name: str, value: str, inputs: int, outputs: int, *, size: int = 3, stride: int = 1
    ) -> str:
        value = builder.add(f"{name}_conv", Conv2d(inputs, outputs, size, bias=False, stride=stride), value)
        return builder.add(f"{name}_norm", BatchNorm(outputs), value)

    def changes(self, *, max_layers: int, layer_kind: LayerKind, channels_added: int) -> list[Change]:
        numbers = [stage.num_layers for stage in self.stages]
        return deeper_or_wider(numbers, max_layers=max_layers, layer_kind=layer_kind, channels_added=channels_added)

    def grown(self, change: Change, *, exact: bool) -> ResNet:
        del exact
        stages = list(self.stages)
        old = stages[change.block]
        deeper = old.num_layers + (change.kind == "deepen")
        stages[change.block] = Stage(channels=old.channels + change.channels_added, num_layers=deeper)
        return self.model_copy(update={"stages": tuple(stages)})


def resnet(side: int, channels: tuple[int, ...], num_layers: int) -> ResNet:
    stages = tuple(Stage(channels=number, num_layers=num_layers) for number in channels)
    return ResNet(input_channels=3, input_height=side, input_width=side, num_classes=10, stages=stages)


def test_resnet_20_has_the_size_that_is_known_of_it() -> None:
    """With 1×1 shortcuts; each stage is a group of coupled channels, and each layer has one of its own within."""
    architecture = resnet(32, (16, 32, 64), 3)
    graph = architecture.graph()
    assert num_params(graph) == 272_474
    assert num_macs(graph) == 40_813_184
    assert sorted(group.num_channels for group in channel_groups(graph)) == [16] * 4 + [32] * 4 + [64] * 4
    assert [(stage.height, len(stage.layers)) for stage in architecture.outline()] == [(32, 7), (16, 7), (8, 7)]


@pytest.mark.parametrize("block", [0, 1, 2])
@pytest.mark.parametrize("kind", ["deepen", "widen"])
def test_growth_leaves_the_logits_alone_and_reaches_the_new_weights(
    block: int, kind: Literal["deepen", "widen"]
) -> None:
    torch.manual_seed(0)
    architecture = resnet(8, (4, 6, 8), 2)
    module, images = GraphModule(architecture.graph()), torch.randn(32, 3, 8, 8)
    with torch.no_grad():
        for _ in range(10):
            module.train()(images)
    module.eval()
    change = Change(kind, block, channels_added=3 * (kind == "widen"), layer_kind="residual")
    graph = architecture.grown(change, exact=True).graph()
    new = expand(module, graph, Exact(), images, torch.Generator().manual_seed(0))
    torch.testing.assert_close(new(images), module(images), rtol=1e-4, atol=1e-5)

    new.train()(images).square().sum().backward()
    masks = new_entries(module.graph, graph)
    assert any(new.get_parameter(name).grad[mask].abs().max() > 0 for name, mask in masks.items())
