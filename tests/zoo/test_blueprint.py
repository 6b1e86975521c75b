from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from pydantic import ValidationError

from zoo.checkpoint.descriptor import parse
from zoo.checkpoint.file import Checkpoint
from zoo.errors import DescriptorError
from zoo.network.cost import num_macs, num_params
from zoo.network.families import blueprint
from zoo.network.families.blueprint import BlueprintArchitecture, Stage
from zoo.network.graph import output_shapes, parameter_shapes
from zoo.network.ops import Conv2d


def cifar10(
    channels: tuple[int, ...] = (16, 16, 16, 24), num_layers: tuple[int, ...] = (0, 1, 1, 1)
) -> BlueprintArchitecture:
    return blueprint.start(input_shape=(3, 32, 32), num_classes=10, channels=channels, num_layers=num_layers)


def params(architecture: BlueprintArchitecture) -> int:
    return num_params(architecture.graph())


def params_by_hand(channels: tuple[int, ...], num_layers: tuple[int, ...]) -> int:
    stem = 3 * 3 * 3 * channels[0]
    layers = sum(number * (c**2 + 11 * c) for c, number in zip(channels, num_layers, strict=True))
    entrances = sum(2 * before + before * c for before, c in pairwise(channels))
    head = 2 * channels[-1] + 10 * channels[-1] + 10
    return stem + layers + entrances + head


def macs_by_hand(channels: tuple[int, ...], num_layers: tuple[int, ...]) -> int:
    """Pixels of a stage's images times the weights that each of them meets; batch norms multiply nothing."""
    total = 32**2 * 27 * channels[0]
    for stage, (c, number) in enumerate(zip(channels, num_layers, strict=True)):
        pixels = (32 // 2**stage) ** 2
        total += pixels * number * (c**2 + 9 * c)
        total += pixels * channels[stage - 1] * c if stage else 0
    return total + 10 * channels[-1]


SIZES = [
    ((16, 16, 16, 24), (0, 1, 1, 1)),
    ((8,), (0,)),
    ((5, 7), (3, 0)),
    ((1, 2, 3), (2, 1, 4)),
    ((24, 32, 48, 64, 96, 128), (1, 2, 3, 4, 2, 1)),
]


def test_the_network_that_cifar10_starts_with() -> None:
    """432 in the stem, 288 to enter a stage of 16, 432 for a layer there; 416 and 840 at 24; 298 in the head."""
    assert params(cifar10()) == 432 + 2 * (288 + 432) + (416 + 840) + 298 == 3_426


@pytest.mark.parametrize(("channels", "num_layers"), SIZES)
def test_costs_counted_by_hand(channels: tuple[int, ...], num_layers: tuple[int, ...]) -> None:
    graph = cifar10(channels, num_layers).graph()
    assert num_params(graph) == params_by_hand(channels, num_layers)
    assert num_macs(graph) == macs_by_hand(channels, num_layers)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_layer_adds_what_the_docstring_says(stage: int) -> None:
    """C² + 11·C; a dense 3×3 convolution with its batch norm would add 9·C² + 2·C."""
    old = cifar10()
    channels = old.stages[stage].channels
    deeper = old.deepened(stage)
    assert params(deeper) - params(old) == channels**2 + 11 * channels < 9 * channels**2 + 2 * channels
    name = f"stages.{stage}.layers.{old.stages[stage].num_layers}"
    added = parameter_shapes(deeper.graph()).keys() - parameter_shapes(old.graph()).keys()
    assert added == {
        f"{name}.{tensor}" for tensor in ("norm.weight", "norm.bias", "pointwise.weight", "depthwise.weight")
    }


def test_deepening_leaves_the_other_stages_and_the_old_architecture_alone() -> None:
    old = cifar10()
    deeper = old.deepened(2).deepened(2)
    assert [stage.num_layers for stage in deeper.stages] == [0, 1, 3, 1]
    assert [stage.channels for stage in deeper.stages] == [16, 16, 16, 24]
    assert old == cifar10()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_widening_reaches_every_tensor_of_the_stage_and_its_readers(stage: int) -> None:
    old = cifar10()
    channels, num_layers = [16, 16, 16, 24], (0, 1, 1, 1)
    channels[stage] += 8
    wider = old.widened(stage, 8)
    assert wider == cifar10(tuple(channels), num_layers)
    assert params(wider) == params_by_hand(tuple(channels), num_layers)
    assert old == cifar10()


def test_convolutions_are_a_pointwise_and_a_depthwise_one() -> None:
    operations = {node.name: node.op for node in cifar10().graph().nodes}
    assert operations["stages.3.layers.0.pointwise"] == Conv2d(24, 24, kernel_size=1, bias=False)
    assert operations["stages.3.layers.0.depthwise"] == Conv2d(24, 24, kernel_size=3, bias=False, groups=24)
    assert parameter_shapes(cifar10().graph())["stages.3.layers.0.depthwise.weight"] == (24, 1, 3, 3)


def test_every_stage_but_the_first_halves_the_sides() -> None:
    shapes = output_shapes(
        blueprint.start(input_shape=(1, 21, 13), num_classes=4, channels=(4, 5, 6), num_layers=(1, 0, 2)).graph()
    )
    assert shapes["stages.0.layers.0.add"] == (4, 21, 13)
    assert shapes["stages.1.enter.conv"] == (5, 10, 6)
    assert shapes["stages.2.layers.1.add"] == (6, 5, 3)
    assert shapes["head.average"] == (6,)
    assert shapes["head.output"] == (4,)


@pytest.mark.parametrize(
    ("side", "stride", "pools", "first_side"),
    [
        (8, 1, 0, 8),
        (32, 1, 0, 32),
        (36, 1, 0, 36),
        (37, 2, 0, 19),
        (48, 2, 0, 24),
        (64, 2, 0, 32),
        (96, 2, 1, 24),
        (128, 2, 1, 32),
        (224, 2, 2, 28),
    ],
)
def test_large_images_are_halved_in_the_stem(side: int, stride: int, pools: int, first_side: int) -> None:
    """Until no side is above 36 pixels, by the convolution first, so that it does a quarter of the work."""
    found = blueprint.start(input_shape=(3, side, side // 2), num_classes=10, channels=(4, 4), num_layers=(1, 1))
    assert (found.stem_stride, found.stem_pools) == (stride, pools)
    shapes = output_shapes(found.graph())
    assert shapes["stem.conv"][1] == -(-side // stride)
    assert shapes["stages.0.layers.0.add"][1] == first_side
    assert [stage.height for stage in found.outline()] == [first_side, first_side // 2]


def test_a_stride_in_the_stem_costs_no_parameter() -> None:
    large = blueprint.start(input_shape=(3, 64, 64), num_classes=10, channels=(16, 24), num_layers=(1, 1))
    small = blueprint.start(input_shape=(3, 32, 32), num_classes=10, channels=(16, 24), num_layers=(1, 1))
    assert (large.stem_stride, small.stem_stride) == (2, 1)
    assert params(large) == params(small)


@pytest.mark.parametrize(
    ("learned_on", "side", "first_side"),
    [(32, 32, 32), (32, 48, 48), (32, 96, 48), (96, 96, 24), (96, 32, 32), (96, 48, 24)],
)
def test_the_first_stage_sees_images_of_another_size_about_as_large(
    learned_on: int, side: int, first_side: int
) -> None:
    """Stages that have learned on 32 pixels would see little on 96, at nine times the work."""
    source = blueprint.start(
        input_shape=(3, learned_on, learned_on), num_classes=10, channels=(4, 4), num_layers=(1, 1)
    )
    found = source.fitted(height=side, width=side, num_classes=6)
    assert output_shapes(found.graph())["stages.0.layers.0.add"] == (4, first_side, first_side)
    assert output_shapes(found.graph())["head.output"] == (6,)
    assert found.stages == source.stages


def test_a_stem_of_stride_1_is_written_as_it_was_before_there_was_another(
    make_checkpoint: Callable[..., Checkpoint],
) -> None:
    assert '"stem_stride"' not in make_checkpoint(cifar10()).descriptor.to_json()
    strided = cifar10().model_copy(update={"stem_stride": 2})
    text = make_checkpoint(strided).descriptor.to_json()
    assert '"stem_stride":2,"stem_pools":0' in text
    assert parse(text).architecture == strided


@pytest.mark.parametrize("size", [(7, 32), (32, 7), (1, 1)])
def test_an_image_too_small_for_the_pools_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(DescriptorError, match=r"pool expects at least 2×2 pixels, gets \(\d+, \d+, \d+\)"):
        blueprint.start(input_shape=(3, *size), num_classes=10, channels=(4,) * 4, num_layers=(0,) * 4).graph()


def test_the_smallest_image_that_three_pools_allow() -> None:
    smallest = blueprint.start(input_shape=(3, 8, 8), num_classes=10, channels=(4,) * 4, num_layers=(1,) * 4)
    assert output_shapes(smallest.graph())["stages.3.layers.0.add"] == (4, 1, 1)


def test_an_image_too_small_for_the_stem_is_refused() -> None:
    architecture = cifar10().model_copy(update={"stem_pools": 6})
    with pytest.raises(DescriptorError, match=r"stem\.pools\.5 expects at least 2×2 pixels, gets \(16, 1, 1\)"):
        architecture.graph()


def test_a_descriptor_of_the_family_goes_through_json(make_checkpoint: Callable[..., Checkpoint]) -> None:
    descriptor = make_checkpoint(cifar10().deepened(1).widened(3, 8)).descriptor
    text = descriptor.to_json()
    assert '"architecture":{"family":"blueprint","input_channels":3,' in text
    found = parse(text)
    assert found == descriptor
    assert isinstance(found.architecture, BlueprintArchitecture)
    assert found.architecture.stages == (
        Stage(channels=16, num_layers=0),
        Stage(channels=16, num_layers=2),
        Stage(channels=16, num_layers=1),
        Stage(channels=32, num_layers=1),
    )


def test_a_descriptor_of_a_network_that_cannot_be_is_refused(make_checkpoint: Callable[..., Checkpoint]) -> None:
    text = make_checkpoint(cifar10()).descriptor.to_json()
    with pytest.raises(DescriptorError, match=r"stages\.3\.enter\.pool expects at least 2×2 pixels"):
        parse(text.replace('"stem_pools":0', '"stem_pools":3'))
    with pytest.raises(DescriptorError, match="Extra inputs are not permitted"):
        parse(text.replace('"stem_pools":0', '"stem_pools":0,"head":"average"'))


def test_a_network_has_a_stage() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        cifar10((), ())
