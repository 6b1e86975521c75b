from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from statistics import mean

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from trainer.config import NO_LIMITS, Limits
from trainer.growth.expand import Exact, expand, grid, new_entries
from trainer.growth.recipe import Beginning, Growth, Look
from trainer.growth.scores.expansion_score import gain_of_new_parameters
from trainer.growth.scores.fisher import gradient_moments, statistics_of
from trainer.recipes.ladder import GrowFor, Ladder
from trainer.recipes.runs import grow
from zoo.network.cost import num_macs, num_params, training_flops
from zoo.network.families.blueprint import BlueprintArchitecture, Stage
from zoo.network.families.family import Architecture, Change
from zoo.network.placement import placements
from zoo.runtime.module import GraphModule

CPU = torch.device("cpu")
EXACT = Exact()
# A gain without noise can come out below 0: nothing is refused for it.
FREE = Ladder(sizes=(500, 1000, 2000), threshold=0.0, standard_errors=-1e9, width_step=2)

Net = tuple[BlueprintArchitecture, GraphModule]


def sample(count: int = 128, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Images that tell their class by a bright column, but not always."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=random)
    images = torch.randn((count, 1, 8, 8), generator=random)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, :, 2 * label] += 0.5
    return images, labels


@pytest.fixture(scope="module")
def net() -> Net:
    """203 parameters in two stages, after 40 steps of training."""
    torch.manual_seed(0)
    architecture = BlueprintArchitecture(
        input_channels=1,
        input_height=8,
        input_width=8,
        num_classes=3,
        stem_pools=0,
        stages=(Stage(channels=4, num_layers=1), Stage(channels=4, num_layers=1)),
    )
    module = GraphModule(architecture.graph())
    assert num_params(module.graph) == 203
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    images, labels = sample(640, seed=2)
    for indices in torch.arange(640).split(16):
        optimizer.zero_grad()
        F.cross_entropy(module(images[indices]), labels[indices]).backward()
        optimizer.step()
    return architecture, module


def look_at(net: Net, images: Tensor, labels: Tensor, generator: torch.Generator, limits: Limits = NO_LIMITS) -> Look:
    return Look(*net, 1, 1, generator, lambda count: (images[:count], labels[:count]), limits.allow, at_once=True)


def climbed(
    net: Net, size: int, ladder: Ladder = FREE, limits: Limits = NO_LIMITS, threshold: float = 0.0, seed: int = 3
) -> Growth:
    """What the ladder proposes where `size` is the next one, and all of the time for it is left."""
    climbing = replace(ladder, sizes=(size,), threshold=threshold, pace=0.0)
    look = look_at(net, *sample(), torch.Generator().manual_seed(seed), limits)
    # Of two epochs the first is over: half of the share of this size.
    return climbing.propose(replace(look, epoch=1, epochs=4, at_once=False))


def expanded(net: Net, growth: Growth, seed: int = 3) -> GraphModule:
    return FREE.expand(net[1], growth.architecture, sample()[0], torch.Generator().manual_seed(seed))


def costs(architecture: Architecture) -> tuple[int, int]:
    graph = architecture.graph()
    return num_params(graph), num_macs(graph)


# --- one climb ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grow_for", ["params", "macs", "both"])
@pytest.mark.parametrize("size", [700, 1000, 2000])
def test_a_size_is_reached_where_everything_may_be_taken(net: Net, size: int, grow_for: GrowFor) -> None:
    found = climbed(net, size, replace(FREE, grow_for=grow_for))
    assert 0.92 * size <= costs(found.architecture)[0] <= size


def test_what_gains_most_is_taken_again_but_not_alone(net: Net) -> None:
    """A second time counts for half as much, so others come between."""
    steps = climbed(net, 2000, replace(FREE, standard_errors=0.0)).steps
    changes = [(step.kind, step.block) for step in steps]
    times = Counter(changes)
    assert max(times.values()) > 2
    assert len(times) > 1
    assert any(before != after for before, after in pairwise(changes))
    assert changes.index(times.most_common(1)[0][0]) == 0


@settings(max_examples=12)
@given(
    size=st.integers(221, 1500),
    max_params=st.none() | st.integers(100, 1500),
    max_macs=st.none() | st.integers(5_000, 60_000),
    step=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_neither_the_size_nor_a_limit_is_ever_exceeded(
    net: Net, size: int, max_params: int | None, max_macs: int | None, step: int, seed: int
) -> None:
    limits = Limits(max_params=max_params, max_macs=max_macs)
    found = climbed(net, size, replace(FREE, width_step=step), limits, seed=seed)
    params, macs = costs(found.architecture)
    if found.steps:
        assert params <= min(size, max_params or size)
        assert macs <= (max_macs or macs)
    else:
        assert found.architecture == net[0]


def test_what_was_taken_leads_from_the_old_network_to_the_new_one(net: Net) -> None:
    found = climbed(net, 1000)
    architecture: Architecture = net[0]
    scores = {one.change: one.score for one in found.candidates}
    for step in found.steps:
        change = Change(step.kind, step.block, step.layer_kind, step.channels_added)
        assert step.params_before == costs(architecture)[0]
        architecture = architecture.grown(change, exact=True)
        assert step.params_after == costs(architecture)[0]
        assert step.score == scores[change]
    assert architecture == found.architecture
    assert len(found.steps) > 2


def test_logits_stay_and_the_old_network_is_left_alone(net: Net) -> None:
    _, module = net
    module.train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    found = climbed(net, 2000)
    grown = expanded(net, found)
    assert grown.graph == found.architecture.graph()
    assert module.training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    images, _ = sample(16, seed=9)
    with torch.no_grad():
        torch.testing.assert_close(grown.eval()(images), module.eval()(images), atol=1e-5, rtol=0)


def test_the_threshold_is_for_the_best_change_only(net: Net) -> None:
    free = climbed(net, 1000)
    assert len(free.candidates) == len(FREE.changes(net[0]))
    best = max(one.score for one in free.candidates)
    over, under = (climbed(net, 1000, threshold=factor * best) for factor in (1.01, 0.99))
    assert not over.steps
    assert over.architecture == net[0]
    assert over.candidates == free.candidates
    assert under.architecture == free.architecture
    assert [step.score for step in under.steps] == [step.score for step in free.steps]
    assert (over.threshold, under.threshold) == (1.01 * best, 0.99 * best)


def test_a_change_within_the_noise_is_never_taken(net: Net) -> None:
    """Neither by its own standard error, nor where the labels are chance and the network can know nothing of them."""
    free = climbed(net, 1000)
    sure = max(score.score / (score.standard_error or 1.0) for score in free.candidates)
    assert not climbed(net, 1000, replace(FREE, standard_errors=1.01 * sure)).steps
    strict = climbed(net, 1000, replace(FREE, standard_errors=1.0))
    errors = {one.score: one.standard_error or 0.0 for one in strict.candidates}
    assert all(step.score > errors[step.score] for step in strict.steps)


def test_few_images_do_not_hold_a_network_back_for_ever(net: Net) -> None:
    """Where fewer are there than are to be scored, the time at a size ends; with enough, noise is noise."""
    ladder, images = replace(FREE, sizes=(500,), standard_errors=1e9), sample(24)

    def grown(ladder: Ladder, epoch: int) -> int:
        look = look_at(net, *images, torch.Generator().manual_seed(0))
        return len(ladder.propose(replace(look, at_once=False, epoch=epoch, epochs=16)).steps)

    assert ladder.deadlines(16) == [8, 16]
    assert grown(ladder, 8) > 0
    assert grown(ladder, 6) == 0, "there is time left"
    assert grown(replace(ladder, score_samples=24), 8) == 0


def test_a_climb_depends_on_its_generator_alone(net: Net) -> None:
    one, two, other = (climbed(net, 1000, seed=seed) for seed in (3, 3, 4))
    assert one == two
    modules = [expanded(net, one).parameters() for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*modules, strict=True))
    assert one.candidates != other.candidates


def test_a_pass_costs_one_network_with_everything_attached(net: Net) -> None:
    everything: Architecture = net[0]
    for change in FREE.changes(net[0]):
        everything = everything.grown(change, exact=True)
    found = climbed(net, 1000, threshold=1e9)
    assert found.flops == training_flops(costs(everything)[1], 128)


# --- scores ---------------------------------------------------------------------------------------------------


def test_every_stage_may_grow_both_ways_unless_it_is_full(net: Net) -> None:
    assert [str(change) for change in FREE.changes(net[0])] == [
        "block 0: one more layer",
        "block 0: 2 more channels",
        "block 1: one more layer",
        "block 1: 2 more channels",
    ]
    full = replace(FREE, max_layers_per_stage=2).changes(net[0].deepened(1))
    assert [str(change) for change in full if change.block == 1] == ["block 1: 2 more channels"]


@pytest.mark.parametrize("widened", [0, 1])
def test_a_gain_scored_together_with_all_others_is_the_gain_alone(net: Net, widened: int) -> None:
    """Each change attached alone, with the weights that it has among all the others."""
    architecture, module = net
    architecture = architecture.deepened(0).widened(widened, 2)
    images, labels = sample()
    module = expand(module, architecture.graph(), EXACT, images, torch.Generator().manual_seed(5))
    # What is new in the network by now is no longer zero: it was trained.
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(6)))
    found = climbed((architecture, module), 3000, threshold=1e9)
    together = {score.change: score for score in found.candidates}

    changes = FREE.changes(architecture)
    everything: Architecture = architecture
    for change in changes:
        everything = everything.grown(change, exact=True)
    attached = expand(module, everything.graph(), EXACT, images, torch.Generator().manual_seed(3))
    gains = []
    for change in changes:
        graph = architecture.grown(change, exact=True).graph()
        alone = GraphModule(graph)
        places, state = placements(graph, attached.graph), attached.state_dict()
        with torch.no_grad():
            for name, tensor in alone.state_dict().items():
                if name in places:
                    tensor.copy_(state[name][grid(places[name])])
        with statistics_of(alone, images):
            moments = gradient_moments(alone, images, labels)
        gain = gain_of_new_parameters(moments, new_entries(module.graph, graph))
        score = together[change]
        assert score.score == pytest.approx(gain.value / (2 * moments.loss), rel=1e-3, abs=1e-5), change
        assert score.standard_error == pytest.approx(gain.standard_error / (2 * moments.loss), rel=1e-3, abs=1e-5)
        assert score.params_added == num_params(graph) - num_params(module.graph)
        gains.append(gain.value)
    assert max(gains) > 0.1
    assert len(set(gains)) == len(changes)


def test_grow_for_says_what_a_gain_is_divided_by(net: Net) -> None:
    """A layer costs as many parameters in either stage; in the second, of a quarter of the pixels, fewer operations."""
    by_change = {change: net[0].grown(change, exact=True) for change in FREE.changes(net[0])}
    params, macs = costs(net[0])
    divisors: dict[GrowFor, Callable[[int, int], float]] = {
        "params": lambda added_params, _: added_params,
        "macs": lambda _, added_macs: added_macs,
        "both": lambda added_params, added_macs: (added_params * added_macs) ** 0.5,
    }
    differing = 0
    for seed in range(6):
        scores, orders = [], []
        for grow_for, divisor in divisors.items():
            found = climbed(net, 1000, replace(FREE, grow_for=grow_for), threshold=1e9, seed=seed).candidates
            ranks = []
            for score in found:
                grown_params, grown_macs = costs(by_change[score.change])
                ranks.append(score.score / divisor(grown_params - params, grown_macs - macs))
            assert ranks == sorted(ranks, reverse=True)
            scores.append({score.change: score.score for score in found})
            orders.append([score.change for score in found])
        assert scores[0] == scores[1] == scores[2]
        differing += orders[0] != orders[1]
    assert differing > 0


def test_growth_for_multiply_accumulates_needs_fewer_of_them(net: Net) -> None:
    for_params, for_macs = (
        mean(
            costs(climbed(net, 2000, replace(FREE, grow_for=grow_for), seed=seed).architecture)[1] for seed in range(4)
        )
        for grow_for in ("params", "macs")
    )
    assert for_macs < 0.9 * for_params


# --- the ladder -----------------------------------------------------------------------------------------------

SIZES = st.lists(st.integers(1_000, 200_000), min_size=1, max_size=13, unique=True)


@given(SIZES, st.floats(0, 2), st.integers(1, 500))
def test_the_epochs_are_shared_out_over_the_sizes(sizes: list[int], pace: float, epochs: int) -> None:
    """Never more to a larger size than to a smaller one, but for rounding to whole epochs."""
    ends = Ladder(sizes=tuple(sorted(sizes)), pace=pace).deadlines(epochs)
    assert len(ends) == len(sizes) + 1
    assert ends[-1] == epochs
    assert ends == sorted(ends)
    shares = [after - before for before, after in pairwise([0, *ends])]
    assert sum(shares) == epochs
    assert min(shares) >= 0
    assert all(later <= earlier + 1 for earlier, later in pairwise(shares))


def test_without_pace_every_size_has_the_same_share() -> None:
    assert Ladder(sizes=(1_000, 10_000, 100_000), pace=0.0).deadlines(40) == [10, 20, 30, 40]


def test_a_run_that_began_with_a_checkpoint_shares_out_what_is_left() -> None:
    """It leaves that size at once, however late it is."""
    ladder = Ladder(sizes=(1_000, 10_000, 100_000), pace=0.0)
    assert ladder.deadlines(40, Beginning(epoch=20, params=800)) == [20, 27, 33, 40]
    assert ladder.deadlines(40, Beginning(epoch=20, params=1_000)) == [20, 20, 30, 40]
    assert ladder.deadlines(40, Beginning(epoch=39, params=10_000)) == [39, 39, 39, 40]
    assert ladder.deadlines(40, Beginning(epoch=20, params=100_000)) == [20, 20, 20, 40]


def test_a_pace_of_one_gives_each_size_its_share_of_operations() -> None:
    assert Ladder(sizes=(1_000, 2_000), pace=1.0).deadlines(50) == [20, 40, 50]


def test_the_next_size_is_the_lowest_not_reached() -> None:
    """A size is reached at 92 % of it."""
    ladder = Ladder(sizes=(1_000, 2_000, 4_000))
    wanted = {1: 1_000, 919: 1_000, 920: 2_000, 1_839: 2_000, 1_840: 4_000, 3_679: 4_000, 3_680: None, 9_999: None}
    assert {params: ladder.next_size(params) for params in wanted} == wanted


def test_the_default_run_starts_below_its_first_size() -> None:
    run = grow()
    assert isinstance(run.recipe, Ladder)
    start = run.start.network((3, 32, 32), 10)
    assert num_params(start.graph()) == 3_882
    assert run.recipe.next_size(3_882) == run.recipe.sizes[0] == 5_000
