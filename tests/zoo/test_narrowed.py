"""A narrower network lies within a wider one, in every family."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from zoo.checkpoint.file import Checkpoint
from zoo.errors import DescriptorError
from zoo.network.channel_groups import channel_groups
from zoo.network.families import resnet, secnn
from zoo.network.families.family import Architecture
from zoo.network.graph import tensor_shapes
from zoo.network.placement import placements
from zoo.runtime.module import GraphModule, module_of

pytestmark = pytest.mark.usefixtures("one_thread")


@settings(max_examples=15)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_a_narrower_network_is_the_wider_one_where_nothing_reads_the_rest(
    architectures: SearchStrategy[Architecture],
    make_checkpoint: Callable[..., Checkpoint],
    data: st.DataObject,
    seed: int,
) -> None:
    """Its tensors are those of the wider one at their places. With the columns of all other channels set to zero the
    wider one has the same logits."""
    wide = data.draw(architectures)
    widths = [data.draw(st.integers(1, width)) for width in wide.widths()]
    narrow = wide.narrowed(widths)
    assert type(narrow).model_validate_json(narrow.model_dump_json()).widths() == tuple(widths)
    checkpoint = make_checkpoint(wide, seed=seed)
    places = placements(narrow.graph(), wide.graph())
    assert places.keys() == tensor_shapes(narrow.graph()).keys()

    cut = GraphModule(narrow.graph()).eval()
    cut.load_tensors({name: checkpoint.tensors[name][np.ix_(*place)] for name, place in places.items()})
    silenced = module_of(checkpoint)
    with torch.no_grad():
        for node in wide.graph().nodes:
            if node.op.mixes_channels:
                weight = silenced.get_parameter(f"{node.name}.weight")
                dropped = set(range(weight.shape[1])) - set(places[f"{node.name}.weight"][1])
                weight[:, sorted(dropped)] = 0
        images = torch.randn(3, *wide.graph().input_shape, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(cut(images), silenced(images), rtol=1e-3, atol=1e-4)


@settings(max_examples=20)
@given(data=st.data())
def test_widths_are_those_of_all_groups(architectures: SearchStrategy[Architecture], data: st.DataObject) -> None:
    architecture = data.draw(architectures)
    assert {group.num_channels for group in channel_groups(architecture.graph())} == set(architecture.widths())


@pytest.mark.parametrize("widths", [(2, 3), (2, 3, 4, 9, 11, 1), (6, 5, 7, 9), (0, 5, 7, 9)])
def test_other_widths_are_refused(widths: tuple[int, ...]) -> None:
    network = secnn.start(
        input_shape=(1, 8, 8), num_classes=3, channels=5, num_blocks=2, bottleneck_channels=7, hidden_features=9
    )
    assert network.narrowed((5, 4, 1, 9)).widths() == (5, 4, 1, 9)
    with pytest.raises(DescriptorError, match=r"from 1 to \(5, 5, 7, 9\) channels in its groups, not"):
        network.narrowed(widths)


def test_a_network_that_is_not_within_another_is_refused() -> None:
    small, large = (
        resnet.start(input_shape=(3, 8, 8), num_classes=2, channels=channels) for channels in ((2, 4, 7), (3, 4, 8))
    )
    with pytest.raises(
        DescriptorError, match=r"stages\.1\.layers\.0\.conv2 has 3 \+ 1 channels in the larger network, 2 \+ 2 in"
    ):
        placements(small.graph(), large.graph())
    deeper = resnet.start(resnet.Resnet56Architecture, input_shape=(3, 8, 8), num_classes=2, channels=(3, 4, 8))
    assert placements(large.graph(), deeper.graph())
    with pytest.raises(DescriptorError, match="the larger network has no stages"):
        placements(deeper.graph(), large.graph())
