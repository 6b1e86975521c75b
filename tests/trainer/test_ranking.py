"""Channels scored, and ranked within their groups."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch.nn import functional as F

from trainer.growth.ranking import l2_scores, ranked, taylor_scores
from zoo.checkpoint.file import Checkpoint
from zoo.network.channel_groups import channel_groups
from zoo.network.families import blueprint
from zoo.network.families.family import Architecture
from zoo.runtime.module import GraphModule, module_of

pytestmark = pytest.mark.usefixtures("one_thread")


@settings(max_examples=10)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_ranking_leaves_the_logits_alone_and_puts_the_best_first(
    architectures: SearchStrategy[Architecture],
    make_checkpoint: Callable[..., Checkpoint],
    data: st.DataObject,
    seed: int,
) -> None:
    checkpoint = make_checkpoint(data.draw(architectures), seed=seed)
    before = module_of(checkpoint)
    graph = before.graph
    generator = torch.Generator().manual_seed(seed)
    images, labels = torch.randn(5, *graph.input_shape, generator=generator), torch.tensor([0, 1, 0, 1, 1])
    scores = {
        "l2": l2_scores(graph, checkpoint.tensors),
        "taylor": taylor_scores(before, images, labels),
        "random": [np.random.default_rng(seed).uniform(size=one.num_channels) for one in channel_groups(graph)],
    }[data.draw(st.sampled_from(["l2", "taylor", "random"]))]
    after = GraphModule(graph).eval()
    after.load_tensors(ranked(graph, checkpoint.tensors, scores))
    with torch.no_grad():
        wanted, found = before(images), after(images)
    scale = max(1.0, float(wanted.abs().max()))
    torch.testing.assert_close(found / scale, wanted / scale, rtol=1e-4, atol=1e-4)
    for one in l2_scores(graph, ranked(graph, checkpoint.tensors)):
        assert list(one) == sorted(one, reverse=True)


def test_a_taylor_score_is_the_loss_without_the_channel_where_the_network_is_linear_in_it(
    make_checkpoint: Callable[..., Checkpoint],
) -> None:
    """Told for one channel, scaled by a little less than 1 in what makes it: the loss changes by that part."""
    checkpoint = make_checkpoint(
        blueprint.start(input_shape=(3, 8, 8), num_classes=3, channels=(4, 6), num_layers=(0, 0))
    )
    module = module_of(checkpoint)
    images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(64) % 3
    (first, _), step = taylor_scores(module, images, labels), 1e-3
    group = channel_groups(module.graph)[0]
    for channel in range(group.num_channels):
        total = 0.0
        for (name, axis), places in group.places.items():
            if name not in dict(module.named_parameters()):
                continue
            losses = []
            for factor in (1 + step, 1 - step):
                changed = module_of(checkpoint)
                with torch.no_grad():
                    changed.get_parameter(name).movedim(axis, 0)[list(places[channel])] *= factor
                    losses.append(float(F.cross_entropy(changed(images), labels)))
            total += abs(losses[0] - losses[1]) / (2 * step)
        assert first[channel] == pytest.approx(total, rel=0.03, abs=2e-3)


def test_a_channel_that_nothing_reads_is_worth_nothing(make_checkpoint: Callable[..., Checkpoint]) -> None:
    checkpoint = make_checkpoint(
        blueprint.start(input_shape=(3, 8, 8), num_classes=3, channels=(4, 6), num_layers=(0, 0))
    )
    module = module_of(checkpoint)
    with torch.no_grad():
        module.get_parameter("head.output.weight")[:, 2] = 0
    images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    _, last = taylor_scores(module, images, torch.arange(64) % 3)
    assert last[2] == 0
    assert all(last[[0, 1, 3, 4, 5]] > 0)
