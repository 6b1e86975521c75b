from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from zoo.checkpoint.file import Checkpoint, Tensors
from zoo.network.channel_groups import ChannelGroup, channel_groups
from zoo.network.families import blueprint, resnet, secnn
from zoo.network.families.family import Architecture
from zoo.network.graph import INPUT, GraphBuilder
from zoo.network.ops import Add, Concat, Conv2d, GlobalAveragePool, Linear
from zoo.runtime.module import GraphModule, module_of

pytestmark = pytest.mark.usefixtures("one_thread")


def permuted(tensors: Tensors, group: ChannelGroup, order: list[int]) -> Tensors:
    """Channel i of the group becomes what channel order[i] was, in every place."""
    changed = {name: np.array(tensor) for name, tensor in tensors.items()}
    for (name, axis), places in group.places.items():
        index = np.arange(changed[name].shape[axis])
        for place, source in zip(places, order, strict=True):
            index[list(place)] = places[source]
        changed[name] = changed[name].take(index, axis)
    return changed


@settings(max_examples=15)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_a_group_permuted_in_all_its_places_leaves_the_logits_alone(
    architectures: SearchStrategy[Architecture],
    make_checkpoint: Callable[..., Checkpoint],
    data: st.DataObject,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    checkpoint = make_checkpoint(data.draw(architectures))
    graph = checkpoint.descriptor.architecture.graph()
    images = torch.randn(3, *graph.input_shape, generator=torch.Generator().manual_seed(0))
    tensors: Tensors = checkpoint.tensors
    for group in channel_groups(graph):
        tensors = permuted(tensors, group, random.permutation(group.num_channels).tolist())
    module = GraphModule(graph).eval()
    module.load_tensors(tensors)
    with torch.no_grad():
        torch.testing.assert_close(module(images), module_of(checkpoint)(images), rtol=1e-3, atol=1e-4)


def test_each_place_of_a_group_is_needed(make_checkpoint: Callable[..., Checkpoint]) -> None:
    """With one place less the logits change."""
    checkpoint = make_checkpoint(secnn.start(input_shape=(1, 8, 8), num_classes=3, channels=4, num_blocks=2))
    graph = checkpoint.descriptor.architecture.graph()
    images = torch.randn(5, *graph.input_shape, generator=torch.Generator().manual_seed(0))
    module = GraphModule(graph).eval()
    with torch.no_grad():
        wanted = module_of(checkpoint)(images)
        for group in channel_groups(graph):
            order = list(range(group.num_channels))[::-1]
            for left_out in group.places:
                places = {axis: place for axis, place in group.places.items() if axis != left_out}
                module.load_tensors(permuted(checkpoint.tensors, ChannelGroup(group.num_channels, places), order))
                assert (module(images) - wanted).abs().max() > 1e-4, left_out


def test_a_residual_stage_is_one_group() -> None:
    """Its entrance, every layer's output, and what reads them; the logits are in none."""
    graph = blueprint.start(input_shape=(3, 16, 16), num_classes=5, channels=(4, 6), num_layers=(1, 2)).graph()
    first, last = channel_groups(graph)
    assert (first.num_channels, last.num_channels) == (4, 6)
    assert {name for name, axis in last.places if axis == 1} == {
        "stages.1.layers.0.pointwise.weight",
        "stages.1.layers.1.pointwise.weight",
        "head.output.weight",
    }
    assert ("stages.1.enter.conv.weight", 1) in first.places


def test_channels_that_are_shared_in_part_are_groups_of_their_own() -> None:
    builder = GraphBuilder((1, 4, 4))
    wide = builder.add("wide", Conv2d(1, 5, 1, bias=False), INPUT)
    narrow = builder.add("narrow", Conv2d(1, 2, 1, bias=False), INPUT)
    other = builder.add("other", Conv2d(1, 3, 1, bias=False), INPUT)
    value = builder.add("sum", Add(), wide, builder.add("both", Concat(), narrow, other))
    builder.add("output", Linear(5, 2), builder.add("average", GlobalAveragePool(), value))
    first, last = channel_groups(builder.build())
    assert first.places == {
        ("wide.weight", 0): ((0,), (1,)),
        ("narrow.weight", 0): ((0,), (1,)),
        ("output.weight", 1): ((0,), (1,)),
    }
    assert last.places == {
        ("wide.weight", 0): ((2,), (3,), (4,)),
        ("other.weight", 0): ((0,), (1,), (2,)),
        ("output.weight", 1): ((2,), (3,), (4,)),
    }


def test_a_stage_behind_padding_is_two_groups() -> None:
    """Its first channels are those of the stage before it."""
    graph = resnet.start(input_shape=(3, 8, 8), num_classes=5, channels=(2, 5, 9)).graph()
    sizes = {}
    for group in channel_groups(graph):
        for name, axis in group.places:
            sizes.setdefault((name, axis), []).append(group.num_channels)
    assert sizes["stages.0.layers.0.conv2.weight", 0] == [2]
    assert sizes["stages.1.layers.0.conv2.weight", 0] == [2, 3]
    assert sizes["stages.2.layers.2.conv1.weight", 1] == [2, 3, 4]
    assert sizes["head.output.weight", 1] == [2, 3, 4]
    assert sizes["stages.1.layers.0.conv1.weight", 0] == [5]
