"""Networks within a budget, each within the next."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from zoo.errors import DescriptorError
from zoo.network.channel_groups import channel_groups
from zoo.network.cost import activation_bytes, num_macs, num_params
from zoo.network.families import blueprint, resnet
from zoo.network.families.family import Architecture
from zoo.network.levels import NetworkBudget, levels_within
from zoo.network.placement import placements

BLUEPRINT = blueprint.start(input_shape=(3, 16, 16), num_classes=5, channels=(12, 20), num_layers=(1, 2))
RESNET = resnet.start(input_shape=(3, 16, 16), num_classes=5, channels=(6, 12, 24))
COUNTS = {"max_params": num_params, "max_macs": num_macs, "max_memory_bytes": activation_bytes}


def scores_of(architecture: Architecture, seed: int) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    return [rng.uniform(0, 1, group.num_channels).tolist() for group in channel_groups(architecture.graph())]


@pytest.mark.parametrize("network", [BLUEPRINT, RESNET], ids=["blueprint", "resnet20"])
@pytest.mark.parametrize("bound", COUNTS)
@pytest.mark.parametrize("is_scored", [False, True])
def test_each_level_meets_its_budget_nearly_and_lies_within_the_next(
    network: Architecture, bound: str, is_scored: bool
) -> None:
    count = COUNTS[bound]
    whole = count(network.graph())
    budgets = [NetworkBudget(**{bound: int(part * whole)}) for part in (0.35, 0.6, 1.0)]
    levels = levels_within(network, budgets, scores_of(network, 0) if is_scored else None)
    assert levels[-1] == network
    for level, part in zip(levels, (0.35, 0.6, 1.0), strict=True):
        assert 0.7 * part < count(level.graph()) / whole <= part
    for small, large in pairwise(levels):
        assert placements(small.graph(), large.graph())
        assert all(one <= other for one, other in zip(small.widths(), large.widths(), strict=True))


@settings(max_examples=10)
@given(data=st.data())
def test_every_family_can_be_halved_or_says_that_it_cannot(
    architectures: SearchStrategy[Architecture], data: st.DataObject
) -> None:
    network = data.draw(architectures)
    budget = NetworkBudget(max_params=max(1, num_params(network.graph()) // 2))
    for scores in (None, scores_of(network, 0)):
        try:
            [level] = levels_within(network, [budget], scores)
        except DescriptorError:
            narrowest = network.narrowed([1] * len(network.widths()))
            assert not budget.allows(narrowest) or scores
        else:
            assert budget.allows(level)


def test_what_is_worth_nothing_goes_first() -> None:
    """Of two groups that cost alike, the one with worthless channels loses them."""
    worth = [[1.0] * 12, [1.0] * 10 + [0.0] * 10]
    [level] = levels_within(BLUEPRINT, [NetworkBudget(max_params=int(0.7 * num_params(BLUEPRINT.graph())))], worth)
    assert level.widths()[0] == 12
    assert level.widths()[1] < 20


def test_what_there_is_too_much_of_decides() -> None:
    """Multiply-accumulates are in large images, parameters in small ones."""
    scores = [[1.0] * group.num_channels for group in channel_groups(BLUEPRINT.graph())]
    [fast] = levels_within(BLUEPRINT, [NetworkBudget(max_macs=num_macs(BLUEPRINT.graph()) // 2)], scores)
    [small] = levels_within(BLUEPRINT, [NetworkBudget(max_params=num_params(BLUEPRINT.graph()) // 2)], scores)
    assert fast.widths()[0] < small.widths()[0]
    assert fast.widths()[1] > small.widths()[1]


def test_several_limits_hold_together() -> None:
    graph = RESNET.graph()
    budget = NetworkBudget(num_params(graph) // 2, num_macs(graph) // 3, activation_bytes(graph) // 2)
    [level] = levels_within(RESNET, [budget], scores_of(RESNET, 1))
    found = level.graph()
    assert num_params(found) <= num_params(graph) // 2
    assert num_macs(found) <= num_macs(graph) // 3
    assert activation_bytes(found) <= activation_bytes(graph) // 2


def test_a_budget_that_nothing_meets() -> None:
    with pytest.raises(DescriptorError, match=r"no network within 10 parameters: with \[1, 1\] channels it has more"):
        levels_within(BLUEPRINT, [NetworkBudget(max_params=10)])
