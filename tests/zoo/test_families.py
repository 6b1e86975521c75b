"""What every family promises, whichever there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic import ValidationError

from zoo.checkpoint.descriptor import Descriptor, parse
from zoo.checkpoint.file import Checkpoint
from zoo.errors import DescriptorError
from zoo.network.cost import num_macs, num_params
from zoo.network.families import registry, secnn
from zoo.network.families.family import FAMILIES, Architecture, Change, register
from zoo.network.graph import INPUT, Graph, GraphBuilder, tensor_shapes
from zoo.network.ops import Conv2d, Flatten, Linear, MaxPool2d
from zoo.network.placement import placements


@pytest.mark.parametrize("family", sorted(registry.FAMILIES))
def test_every_family_is_among_the_networks_that_tests_draw(
    architectures: SearchStrategy[Architecture], family: str
) -> None:
    assert find(architectures, lambda drawn: drawn.family == family).family == family


@settings(max_examples=40)
@given(data=st.data())
def test_each_change_makes_a_larger_network_that_holds_the_old_one(
    architectures: SearchStrategy[Architecture], data: st.DataObject
) -> None:
    before = data.draw(architectures)
    kind = data.draw(st.sampled_from(["conv", "residual"]))
    for change in before.changes(max_layers=5, layer_kind=kind, channels_added=2):
        old, new = before.graph(), before.grown(change, exact=data.draw(st.booleans())).graph()
        assert num_params(new) > num_params(old)
        assert num_macs(new) > num_macs(old)
        places, shapes = placements(old, new), tensor_shapes(new)
        assert places.keys() == tensor_shapes(old).keys() <= shapes.keys()
        for name, shape in tensor_shapes(old).items():
            assert tuple(map(len, places[name])) == shape
            for axis, size in zip(places[name], shapes[name], strict=True):
                assert list(axis) == sorted(set(axis))
                assert max(axis) < size


@settings(max_examples=40)
@given(data=st.data())
def test_the_stages_of_the_picture_are_the_blocks_that_grow(
    architectures: SearchStrategy[Architecture], data: st.DataObject
) -> None:
    architecture = data.draw(architectures)
    stages = architecture.outline()
    changes = architecture.changes(max_layers=1024, layer_kind="residual", channels_added=3)
    assert {change.block for change in changes} == (set(range(len(stages))) if changes else set())
    for change in changes:
        grown = architecture.grown(change, exact=True).outline()[change.block]
        before = stages[change.block]
        if change.kind == "widen":
            assert (grown.channels, grown.layers) == (before.channels + 3, before.layers)
        else:
            assert grown.channels == before.channels
            assert grown.layers[: len(before.layers)] == before.layers
            assert len(grown.layers) == len(before.layers) + 1


@given(data=st.data())
@settings(max_examples=40)
def test_settings_survive_json(architectures: SearchStrategy[Architecture], data: st.DataObject) -> None:
    architecture = data.draw(architectures)
    found = registry.parse(architecture.model_dump_json())
    assert found == architecture
    assert type(found) is type(architecture)


@pytest.mark.parametrize("settings", ['{"family": "vit"}', "{}", "[]", '{"family": ["secnn"]}', "3"])
def test_an_unknown_family_gets_to_know_the_known_ones(settings: str) -> None:
    with pytest.raises(ValidationError, match=r"no family is named .*, known are: alexnet, blueprint, "):
        registry.parse(settings)


class Small(Architecture):
    """A family that neither grows nor says how it looks."""

    family: Literal["small"] = "small"

    def graph(self) -> Graph:
        builder = GraphBuilder((self.input_channels, self.input_height, self.input_width))
        value = builder.add("first", Conv2d(self.input_channels, 3, kernel_size=3, bias=True), INPUT)
        value = builder.add("second", Conv2d(3, 5, kernel_size=1, bias=True), value)
        value = builder.add("third", Conv2d(5, 7, kernel_size=3, bias=True), builder.add("pool", MaxPool2d(2), value))
        value = builder.add("flat", Flatten(), value)
        builder.add("output", Linear(7 * (self.input_height // 2) * (self.input_width // 2), self.num_classes), value)
        return builder.build()


SMALL = Small(input_channels=1, input_height=6, input_width=4, num_classes=3)


def test_a_family_is_readable_once_it_is_registered(make_checkpoint: Callable[..., Checkpoint]) -> None:
    text = make_checkpoint(SMALL).descriptor.to_json()
    with pytest.raises(
        DescriptorError, match="architecture: no family is named 'small', known are: alexnet, blueprint, "
    ):
        parse(text)
    register(Small)
    try:
        found = parse(text)
        assert found.architecture == SMALL
        assert found.to_json() == text
        assert "Small" in Descriptor.model_json_schema()["$defs"]
        with pytest.raises(
            DescriptorError, match=r"architecture\.input_height: Input should be less than or equal to 4096"
        ):
            parse(text.replace('"input_height":6', '"input_height":5000'))
    finally:
        del FAMILIES["small"]
    assert "Small" not in Descriptor.model_json_schema()["$defs"]


def test_two_families_of_one_name_are_refused() -> None:
    class Impostor(secnn.SecnnArchitecture):
        pass

    with pytest.raises(AssertionError, match="SecnnArchitecture is family secnn, too"):
        register(Impostor)
    assert FAMILIES["secnn"] is secnn.SecnnArchitecture


def test_a_family_that_says_no_more_has_a_picture_and_does_not_grow() -> None:
    assert [(stage.channels, stage.height, stage.width, stage.layers) for stage in SMALL.outline()] == [
        (5, 6, 4, ("3×3 convolution", "1×1 convolution")),
        (7, 3, 2, ("3×3 convolution",)),
    ]
    assert SMALL.changes(max_layers=9, layer_kind="conv", channels_added=1) == []
    with pytest.raises(DescriptorError, match="networks of family small do not grow, so no block 0: 1 more channels"):
        SMALL.grown(Change("widen", 0, channels_added=1), exact=True)
