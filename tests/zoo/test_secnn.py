from __future__ import annotations

import pytest
from pydantic import ValidationError

from zoo.errors import DescriptorError
from zoo.network.cost import num_params
from zoo.network.families import secnn
from zoo.network.families.secnn import Block, Layer, SecnnArchitecture
from zoo.network.graph import output_shapes
from zoo.network.ops import Conv2d, Flatten, GlobalAveragePool, LeakyReLU, MaxPool2d


def params(architecture: SecnnArchitecture) -> int:
    return num_params(architecture.graph())


def cifar10() -> SecnnArchitecture:
    return secnn.start(input_shape=(3, 32, 32), num_classes=10)


@pytest.mark.parametrize("kind", ["conv", "residual"])
@pytest.mark.parametrize("block", [0, 1, 2])
def test_parameters_are_those_of_the_papers_table(kind: secnn.LayerKind, block: int) -> None:
    once = cifar10().deepened(block, kind, split_slope=True)
    twice = once.deepened(2 - block, kind, split_slope=True)
    assert (params(cifar10()), params(once), params(twice)) == (9_024, 11_360, 13_696)


def test_the_average_head_does_not_grow_with_the_image() -> None:
    small = secnn.start(input_shape=(3, 32, 32), num_classes=10, head="average")
    large = secnn.start(input_shape=(3, 96, 64), num_classes=10, head="average")
    assert params(small) == params(large) == params(cifar10()) - (16 - 1) * 10 * 20
    assert any(isinstance(node.op, GlobalAveragePool) for node in small.graph().nodes)
    assert not any(isinstance(node.op, Flatten) for node in small.graph().nodes)


def test_blocks_pool_the_image_and_the_first_one_is_pooled_along() -> None:
    shapes = output_shapes(secnn.start(input_shape=(1, 21, 13), num_classes=4).graph())
    assert shapes["blocks.0.pool"] == (16, 10, 6)
    assert shapes["blocks.2.pool"] == shapes["skip.2.pool"] == (16, 2, 1)
    assert shapes["concat"] == (32, 2, 1)
    assert shapes["head.flatten"] == (20,)
    assert shapes["head.output"] == (4,)


@pytest.mark.parametrize("size", [(7, 32), (32, 7), (1, 1)])
def test_an_image_too_small_for_the_pools_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(DescriptorError, match=r"pool expects at least 2×2 pixels, gets \(16, \d+, \d+\)"):
        secnn.start(input_shape=(3, *size), num_classes=10).graph()


def test_the_smallest_image_that_three_pools_allow() -> None:
    assert output_shapes(secnn.start(input_shape=(3, 8, 8), num_classes=10).graph())["blocks.2.pool"] == (16, 1, 1)


def test_deepening_adds_one_layer_at_the_end_of_one_block() -> None:
    start = cifar10()
    deeper = start.deepened(1, "residual", split_slope=True)
    assert [len(block.layers) for block in deeper.blocks] == [1, 2, 1]
    assert deeper.blocks[1].layers[0] == start.blocks[1].layers[0]
    assert deeper.blocks[1].layers[1].kind == "residual"
    names = [node.name for node in deeper.graph().nodes]
    assert names.index("blocks.1.layers.1.add") == names.index("blocks.1.pool") - 1
    [inserted] = [node.op for node in deeper.graph().nodes if node.name == "blocks.1.layers.1.conv"]
    assert inserted == Conv2d(16, 16, kernel_size=3, bias=False)
    assert [len(block.layers) for block in start.blocks] == [1, 1, 1], "the old one is left alone"


def test_split_slopes_multiply_to_what_the_last_layer_had() -> None:
    layers = cifar10().deepened(0, "conv", split_slope=True).blocks[0].layers
    assert layers[0].negative_slope == layers[1].negative_slope
    assert layers[0].negative_slope * layers[1].negative_slope == pytest.approx(0.2)
    three = cifar10().deepened(0, "conv", split_slope=True).deepened(0, "conv", split_slope=True).blocks[0].layers
    product = three[0].negative_slope * three[1].negative_slope * three[2].negative_slope
    assert product == pytest.approx(0.2)


def test_a_conv_layer_behind_a_residual_one_has_slope_one() -> None:
    architecture = cifar10().deepened(0, "residual", split_slope=True).deepened(0, "conv", split_slope=True)
    assert [layer.negative_slope for layer in architecture.blocks[0].layers] == [0.2, 0.2, 1]


def test_the_papers_insertion_leaves_every_slope_as_it_is() -> None:
    layers = cifar10().deepened(0, "conv", split_slope=False).blocks[0].layers
    assert [layer.negative_slope for layer in layers] == [0.2, 0.2]


def test_widening_widens_every_convolution_of_the_block() -> None:
    wider = cifar10().deepened(1, "conv", split_slope=True).widened(1, 4)
    convs = {node.name: node.op for node in wider.graph().nodes if isinstance(node.op, Conv2d)}
    assert convs["blocks.1.layers.0.conv"] == Conv2d(16, 20, kernel_size=3, bias=True)
    assert convs["blocks.1.layers.1.conv"] == Conv2d(20, 20, kernel_size=3, bias=False)
    assert convs["blocks.2.layers.0.conv"] == Conv2d(20, 16, kernel_size=3, bias=True)


@pytest.mark.parametrize(("block", "width"), [(0, 36), (1, 32), (2, 36)])
def test_the_head_reads_the_first_and_the_last_block(block: int, width: int) -> None:
    assert output_shapes(cifar10().widened(block, 4).graph())["concat"] == (width, 4, 4)


@pytest.mark.parametrize("num_blocks", [2, 3, 5])
def test_number_of_blocks(num_blocks: int) -> None:
    graph = secnn.start(input_shape=(3, 32, 32), num_classes=10, num_blocks=num_blocks).graph()
    pools = [node.name for node in graph.nodes if isinstance(node.op, MaxPool2d)]
    assert sum(name.startswith("blocks.") for name in pools) == num_blocks
    assert sum(name.startswith("skip.") for name in pools) == num_blocks - 1


def test_the_slope_reaches_every_activation() -> None:
    graph = secnn.start(input_shape=(3, 32, 32), num_classes=10, negative_slope=0.3).graph()
    assert {node.op.negative_slope for node in graph.nodes if isinstance(node.op, LeakyReLU)} == {0.3}


def test_a_block_begins_with_a_conv_layer() -> None:
    with pytest.raises(ValidationError, match="the first layer of a block must be of kind 'conv'"):
        Block(channels=4, layers=(Layer(kind="residual", negative_slope=0.2),))
