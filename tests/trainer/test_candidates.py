from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from trainer.config import NO_LIMITS, Limits
from trainer.growth.recipe import Growth, Look
from trainer.growth.scores.expansion_score import natural_score, size_penalty
from trainer.growth.scores.fisher import gradient_moments, statistics_of
from trainer.recipes.one_by_one import OneByOne
from trainer.recipes.rules import GainRule, RatioRule
from trainer.recipes.runs import digits, paper
from zoo.network.cost import num_macs, num_params
from zoo.network.families.family import Change
from zoo.network.families.secnn import SecnnArchitecture, start
from zoo.runtime.module import GraphModule

Grown = tuple[SecnnArchitecture, GraphModule]

RATIO = replace(paper().recipe, channels_added=2)
GAIN = replace(digits().recipe, channels_added=2)


@pytest.fixture
def net(random_module: Callable[[SecnnArchitecture, int], GraphModule]) -> Grown:
    architecture = start(input_shape=(1, 8, 8), num_classes=3, channels=4, head="average")
    return architecture, random_module(architecture, 0)


def sample(count: int = 64) -> tuple[Tensor, Tensor]:
    """Images that tell their class, which a random network does not know."""
    random = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (count,), generator=random)
    images = torch.randn((count, 1, 8, 8), generator=random)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, :, 2 * label] += 2
    return images, labels


def eta(module: GraphModule) -> float:
    images, labels = sample()
    with statistics_of(module, images):
        return natural_score(gradient_moments(module, images, labels))


def look_at(net: Grown, images: Tensor, labels: Tensor, generator: torch.Generator, limits: Limits = NO_LIMITS) -> Look:
    return Look(*net, 1, 1, generator, lambda count: (images[:count], labels[:count]), limits.allow, at_once=True)


def decision(net: Grown, recipe: OneByOne) -> Growth:
    return recipe.propose(look_at(net, *sample(), torch.Generator().manual_seed(2)))


def changes(architecture: SecnnArchitecture, recipe: OneByOne) -> list[Change]:
    return architecture.changes(
        max_layers=recipe.max_layers_per_block,
        layer_kind=recipe.layer_kind,
        channels_added=recipe.channels_added,
    )


def chosen(growth: Growth) -> Change | None:
    if not growth.steps:
        return None
    [step] = growth.steps
    return Change(step.kind, step.block, step.layer_kind, step.channels_added)


def test_every_block_may_grow_both_ways(net: Grown) -> None:
    assert [str(change) for change in changes(net[0], RATIO)] == [
        "block 0: one more layer",
        "block 0: 2 more channels",
        "block 1: one more layer",
        "block 1: 2 more channels",
        "block 2: one more layer",
        "block 2: 2 more channels",
    ]


def test_a_full_block_grows_no_deeper(net: Grown) -> None:
    architecture = net[0]
    for _ in range(3):
        architecture = architecture.deepened(1, "residual", split_slope=True)
    deeper = {change.block for change in changes(architecture, GAIN) if change.kind == "deepen"}
    wider = {change.block for change in changes(architecture, GAIN) if change.kind == "widen"}
    assert GAIN.max_layers_per_block == len(architecture.blocks[1].layers) == 4
    assert deeper == {0, 2}
    assert wider == {0, 1, 2}


@pytest.mark.parametrize("expansion", [RATIO, GAIN])
def test_all_candidates_are_reported(net: Grown, expansion: OneByOne) -> None:
    found = decision(net, expansion)
    wanted = changes(net[0], expansion)
    assert [score.change for score in found.candidates] == wanted
    for score, change in zip(found.candidates, wanted, strict=True):
        grown = num_params(net[0].grown(change, exact=expansion.is_exact).graph())
        assert score.params_added == grown - num_params(net[1].graph)
        assert (score.standard_error is None) == isinstance(expansion.rule, RatioRule)


def test_the_chosen_candidate_is_the_network_grown_its_way(net: Grown) -> None:
    recipe = replace(GAIN, rule=GainRule(threshold=0.0, standard_errors=0.0))
    growth = decision(net, recipe)
    change = chosen(growth)
    assert change is not None
    assert growth.architecture == net[0].grown(change, exact=True)
    images, _ = sample(8)
    grown = recipe.expand(net[1], growth.architecture, images, torch.Generator().manual_seed(3))
    assert grown.graph == growth.architecture.graph()
    torch.testing.assert_close(grown.eval()(images), net[1](images), atol=1e-5, rtol=0)


def test_the_ratio_rule_is_the_papers(net: Grown) -> None:
    """The largest η·exp(−λ Δp²), against τ times the present network's η."""
    found = decision(net, replace(RATIO, rule=RatioRule(tau=0.5, lambda_=1e-6)))
    assert found.threshold == pytest.approx(0.5 * eta(net[1]))
    best = max(found.candidates, key=lambda score: score.score)
    assert chosen(found) == best.change
    assert found.steps[0].score == best.score > found.threshold
    # What a candidate begins with is drawn: the score of another draw is near.
    grown = RATIO.expand(net[1], found.architecture, sample()[0], torch.Generator().manual_seed(7))
    assert best.score == pytest.approx(eta(grown) * size_penalty(best.params_added, 1e-6), rel=0.05)


def test_the_ratio_rule_fires_at_0_and_never_at_a_million(net: Grown) -> None:
    assert chosen(decision(net, replace(RATIO, rule=RatioRule(tau=0.0)))) is not None
    never = decision(net, replace(RATIO, rule=RatioRule(tau=1e6)))
    assert chosen(never) is None
    assert len(never.candidates) == 6


def test_the_penalty_keeps_large_expansions_out(net: Grown) -> None:
    strict = decision(net, replace(RATIO, rule=RatioRule(tau=0.5, lambda_=1.0)))
    assert chosen(strict) is None
    assert all(score.score < 1e-6 for score in strict.candidates)


def test_the_gain_rule_fires_between_its_bounds_only(net: Grown) -> None:
    free = decision(net, replace(GAIN, rule=GainRule(threshold=0.0, standard_errors=0.0)))
    best = max(free.candidates, key=lambda score: score.score / score.params_added)
    assert best.score > 0
    assert best.standard_error is not None
    assert best.standard_error > 0
    assert chosen(free) is not None
    assert chosen(free) == best.change

    highest = max(score.score for score in free.candidates)
    sure = max(score.score / score.standard_error for score in free.candidates if score.standard_error)
    for rule, fires in [
        (GainRule(threshold=0.99 * highest, standard_errors=0.0), True),
        (GainRule(threshold=1.01 * highest, standard_errors=0.0), False),
        (GainRule(threshold=0.0, standard_errors=0.99 * sure), True),
        (GainRule(threshold=0.0, standard_errors=1.01 * sure), False),
    ]:
        found = decision(net, replace(GAIN, rule=rule))
        assert bool(found.steps) is fires, rule
        assert [score.score for score in found.candidates] == pytest.approx([score.score for score in free.candidates])


def test_noise_alone_does_not_grow_a_network(net: Grown) -> None:
    """Labels that no image determines: whatever the candidates could learn is chance."""
    random = torch.Generator().manual_seed(5)
    images, labels = torch.randn((512, 1, 8, 8), generator=random), torch.arange(512) % 3
    _, module = net
    with torch.no_grad():
        # It answers each class alike, which is all that there is to know.
        module.get_parameter("head.output.weight").mul_(1e-3)
        module.get_parameter("head.output.bias").zero_()
    rule = GainRule(threshold=0.02, standard_errors=2.0)
    found = replace(GAIN, rule=rule).propose(look_at(net, images, labels, random))
    assert chosen(found) is None


def test_a_network_without_loss_does_not_grow(net: Grown) -> None:
    _, module = net
    images, labels = sample()
    with torch.no_grad():
        module.get_parameter("head.output.weight").zero_()
        module.get_parameter("head.output.bias").copy_(torch.tensor([1000.0, 0.0, 0.0]))
    found = GAIN.propose(look_at(net, images[labels == 0], labels[labels == 0], torch.Generator()))
    assert chosen(found) is None
    assert all(score.score == 0 for score in found.candidates)


def test_scoring_leaves_the_network_alone_and_is_counted(net: Grown) -> None:
    before = {name: tensor.clone() for name, tensor in net[1].state_dict().items()}
    found = decision(net, GAIN)
    assert all(torch.equal(before[name], tensor) for name, tensor in net[1].state_dict().items())
    graphs = [net[0].grown(change, exact=True).graph() for change in changes(net[0], GAIN)]
    macs = num_macs(net[1].graph) + sum(num_macs(graph) for graph in graphs)
    assert found.flops == 6 * macs * 64


def test_the_same_generator_gives_the_same_decision(net: Grown) -> None:
    one, two = decision(net, RATIO), decision(net, RATIO)
    assert one == two


def test_changes_are_named(net: Grown) -> None:
    assert str(Change("deepen", 1, layer_kind="conv")) == "block 1: one more layer"
    assert str(Change("widen", 2, channels_added=4)) == "block 2: 4 more channels"
