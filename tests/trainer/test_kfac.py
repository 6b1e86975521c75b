from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise
from statistics import mean, stdev

import pytest
import torch
from torch import Tensor, nn

from trainer.growth.recipe import Growth, Look
from trainer.growth.scores.expansion_score import gain_of_new_parameters
from trainer.growth.scores.fisher import GradientMoments, Moments, gradient_moments, group_bounds
from trainer.growth.scores.kfac import (
    DAMPING,
    Factors,
    KroneckerMoments,
    kfac_gain_of_new_parameters,
    kfac_gains,
    kronecker_moments,
)
from trainer.recipes.ladder import Ladder
from zoo.network.cost import num_params
from zoo.network.families import blueprint
from zoo.network.families.secnn import Block, Layer, SecnnArchitecture, start
from zoo.network.graph import INPUT, GraphBuilder
from zoo.network.ops import Conv2d, GlobalAveragePool, Linear
from zoo.runtime.module import GraphModule

with warnings.catch_warnings():
    # Of BackPACK, which curvlinops imports.
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)
    from curvlinops import FisherType, KFACInverseLinearOperator, KFACLinearOperator

RandomModule = Callable[[SecnnArchitecture, int], GraphModule]
SAMPLES = 40


@pytest.fixture
def module(random_module: RandomModule) -> GraphModule:
    """3×3 and 1×1 convolutions with and without bias, linear layers, batch norms."""
    rows = tuple(Block(channels=channels, layers=(Layer(kind="conv", negative_slope=0.2),) * 2) for channels in (2, 3))
    architecture = start(input_shape=(2, 8, 6), num_classes=4, bottleneck_channels=3, hidden_features=5)
    return random_module(architecture.model_copy(update={"blocks": rows}), 3)


def sample(module: GraphModule, count: int = SAMPLES) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(5)
    images = torch.randn((count, *module.graph.input_shape), generator=random)
    return images, torch.randint(0, 4, (count,), generator=random)


def dense_weights(module: GraphModule) -> dict[str, nn.Parameter]:
    return {
        f"{name}.weight": layer.weight
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and getattr(layer, "groups", 1) == 1
    }


def reference(module: GraphModule, weight: nn.Parameter, images: Tensor, labels: Tensor) -> KFACLinearOperator:
    return KFACLinearOperator(
        module,
        nn.CrossEntropyLoss(reduction="mean"),
        [weight],
        [(images, labels)],
        fisher_type=FisherType.EMPIRICAL,
        check_deterministic=False,
    )


def gain_by_definition(sums: Tensor, inverse: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """The gain over pairs of groups' gradient sums (groups, entries), and its jackknife error, spelled out."""
    sizes = [end - begin for begin, end in pairwise(group_bounds(SAMPLES))]

    def over_pairs(groups: list[int]) -> float:
        products, pairs = 0.0, 0
        for i in groups:
            for j in groups:
                if i != j:
                    products += float(sums[i] @ inverse(sums[j]))
                    pairs += sizes[i] * sizes[j]
        return products / pairs

    everything = list(range(len(sizes)))
    left_out = [over_pairs([group for group in everything if group != out]) for out in everything]
    spread = sum((value - mean(left_out)) ** 2 for value in left_out)
    return over_pairs(everything), ((len(sizes) - 1) / len(sizes) * spread) ** 0.5


def assert_gain(moments: KroneckerMoments, mask: dict[str, Tensor], expected: tuple[float, float]) -> None:
    found = kfac_gain_of_new_parameters(moments, mask)
    assert (found.value, found.standard_error) == pytest.approx(expected, rel=1e-3)


# --- against curvlinops ---------------------------------------------------------------------------------


def test_factors_are_those_of_curvlinops(module: GraphModule) -> None:
    images, labels = sample(module)
    found = kronecker_moments(module, images, labels)
    weights = dense_weights(module)
    assert len(weights) == 7
    for name, weight in weights.items():
        operator = reference(module, weight, images, labels)
        vector = torch.randn_like(weight)
        factors = found.factors[name]
        product = factors.outputs @ vector.flatten(1) @ factors.inputs
        expected = (operator @ vector.flatten()).view_as(product)
        torch.testing.assert_close(product, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_gains_are_those_of_curvlinops_inverse(module: GraphModule) -> None:
    """For whole tensors; only the scale of each block, which curvlinops leaves as K-FAC has it, is our own."""
    images, labels = sample(module)
    found = kronecker_moments(module, images, labels)
    for name, weight in dense_weights(module).items():
        moments, factors = found.by_name[name], found.factors[name]
        trace = moments.mean_square.sum().item()
        scale = trace / float(factors.inputs.trace() * factors.outputs.trace())
        operator = reference(module.double(), weight, images.double(), labels)
        damping = DAMPING * trace / weight.numel() / scale
        inverse = KFACInverseLinearOperator(operator, damping=damping, use_exact_damping=True)
        expected = gain_by_definition(
            moments.group_sums.flatten(1).double(), lambda vector, by=inverse, c=scale: (by @ vector) / c
        )
        assert_gain(found, {name: torch.ones_like(weight, dtype=torch.bool)}, expected)
        module.float()


# --- against the Fisher itself --------------------------------------------------------------------------


def test_where_all_images_are_one_pixel_of_one_colour_the_fisher_is_exact() -> None:
    """Every sample's gradient is then g aᵀ with the same a, in each layer: the Fisher is a Kronecker product."""
    builder = GraphBuilder((3, 1, 1))
    builder.add("conv", Conv2d(3, 4, kernel_size=3, bias=True), INPUT)
    builder.add("mix", Conv2d(4, 3, kernel_size=1, bias=False), "conv")
    builder.add("pool", GlobalAveragePool(), "mix")
    builder.add("output", Linear(3, 4), "pool")
    module = GraphModule(builder.build()).eval()
    _, labels = sample(module)
    images = torch.tensor([0.5, -1.0, 2.0]).view(1, 3, 1, 1).expand(SAMPLES, -1, -1, -1)
    found = kronecker_moments(module, images, labels)
    for name, parameter in module.named_parameters():
        rows = []
        for image, label in zip(images, labels, strict=True):
            loss = nn.functional.cross_entropy(module(image[None]), label[None])
            rows.append(torch.autograd.grad(loss, parameter)[0].flatten().double())
        gradients = torch.stack(rows)
        fisher = gradients.T @ gradients / SAMPLES
        fisher += DAMPING * fisher.diag().mean() * torch.eye(len(fisher))
        sums = torch.stack([gradients[begin:end].sum(0) for begin, end in pairwise(group_bounds(SAMPLES))])
        expected = gain_by_definition(sums, lambda vector, f=fisher: torch.linalg.solve(f, vector))
        assert_gain(found, {name: torch.ones_like(parameter, dtype=torch.bool)}, expected)


def drawn(seed: int, samples: int, signal: float, rows: int = 4, columns: int = 5) -> tuple[KroneckerMoments, Tensor]:
    """Rank-1 gradients g aᵀ of independent, correlated g and a, and their mean; `signal` in units of the noise."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.Generator().manual_seed(1)
    g = torch.randn((samples, rows), generator=random) @ torch.randn((rows, rows), generator=mixing)
    a = torch.randn((samples, columns), generator=random) @ torch.randn((columns, columns), generator=mixing)
    g, a = g + signal, a + signal
    gradients = g[:, :, None] * a[:, None, :]
    bounds = group_bounds(samples)
    groups = torch.stack([gradients[begin:end].sum(0) for begin, end in pairwise(bounds)])
    moments = Moments(groups, gradients.square().sum(0), samples)
    factors = Factors(a.T @ a / samples, g.T @ g / samples)
    return KroneckerMoments({"w": moments}, 1.0, samples, factors={"w": factors}), gradients


def test_a_wider_layer_is_two_rectangles() -> None:
    """New rows throughout, and new columns of old rows; within each, the block of the whole Kronecker product."""
    moments, gradients = drawn(0, SAMPLES, signal=0.5)
    old_rows, old_columns = [0, 2], [1, 2, 4]
    mask = torch.ones((4, 5), dtype=torch.bool)
    for row in old_rows:
        mask[row, old_columns] = False
    whole = torch.kron(moments.factors["w"].outputs, moments.factors["w"].inputs).double()
    fisher = torch.zeros((20, 20), dtype=torch.float64)
    for rows, columns in (([1, 3], [0, 1, 2, 3, 4]), (old_rows, [0, 3])):
        entries = torch.tensor([row * 5 + column for row in rows for column in columns])
        block = whole[entries][:, entries]
        block *= gradients.flatten(1)[:, entries].square().sum() / SAMPLES / block.trace()
        block += DAMPING * block.diag().mean() * torch.eye(len(entries))
        fisher[entries[:, None], entries] = block
    new = mask.flatten()
    block = fisher[new][:, new]
    sums = moments.by_name["w"].group_sums.flatten(1)[:, new].double()
    assert_gain(moments, {"w": mask}, gain_by_definition(sums, lambda vector: torch.linalg.solve(block, vector)))


def test_where_gradients_are_independent_the_diagonal_says_the_same() -> None:
    """Batch norms and depthwise filters have no other curvature; dense layers then need none."""
    random = torch.Generator().manual_seed(0)
    gradients = torch.randn((4096, 6), generator=random) + 0.2
    sums = torch.stack([gradients[begin:end].sum(0) for begin, end in pairwise(group_bounds(4096))])
    by_name = {"norm": Moments(sums, gradients.square().sum(0), 4096)}
    mask = {"norm": torch.tensor([True, False, True, True, False, True])}
    found = kfac_gain_of_new_parameters(KroneckerMoments(by_name, 1.0, 4096, factors={}), mask)
    expected = gain_of_new_parameters(GradientMoments(by_name, 1.0, 4096), mask)
    assert found.value == pytest.approx(expected.value, rel=0.02)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=0.05)


def test_the_same_promise_made_twice_counts_once() -> None:
    """Copies of one input channel: the diagonal adds their gains up, which no step could take."""
    moments, _ = drawn(3, 512, signal=0.3)
    [once] = moments.by_name.values()
    factors = moments.factors["w"]
    twice = KroneckerMoments(
        {"w": Moments(once.group_sums.repeat(1, 1, 2), once.squares.repeat(1, 2), 512)},
        1.0,
        512,
        factors={"w": Factors(factors.inputs.repeat(2, 2), factors.outputs)},
    )
    once_mask, twice_mask = {"w": torch.ones((4, 5), dtype=torch.bool)}, {"w": torch.ones((4, 10), dtype=torch.bool)}
    ratio = kfac_gain_of_new_parameters(twice, twice_mask).value / kfac_gain_of_new_parameters(moments, once_mask).value
    assert ratio == pytest.approx(1.0, abs=0.2)
    diagonal = gain_of_new_parameters(twice, twice_mask).value / gain_of_new_parameters(moments, once_mask).value
    assert diagonal == pytest.approx(2.0)


# --- noise ----------------------------------------------------------------------------------------------


def test_gain_of_pure_noise_is_zero_on_average() -> None:
    mask = {"w": torch.ones((4, 5), dtype=torch.bool)}
    gains = [kfac_gain_of_new_parameters(drawn(seed, 100, 0.0)[0], mask).value for seed in range(200)]
    assert abs(mean(gains)) < 4 * stdev(gains) / len(gains) ** 0.5


@pytest.mark.parametrize("signal", [0.0, 0.3])
def test_standard_error_is_the_spread_over_samples(signal: float) -> None:
    mask = {"w": torch.ones((4, 5), dtype=torch.bool)}
    gains = [kfac_gain_of_new_parameters(drawn(seed, 200, signal)[0], mask) for seed in range(200)]
    spread = stdev(gain.value for gain in gains)
    assert 1 / 1.5 < mean(gain.standard_error for gain in gains) / spread < 1.5


def test_without_gradient_there_is_no_gain() -> None:
    zeros = Moments(torch.zeros((16, 2, 3)), torch.zeros((2, 3)), 64)
    moments = KroneckerMoments({"w": zeros}, 0.0, 64, factors={"w": Factors(torch.zeros((3, 3)), torch.zeros((2, 2)))})
    gain = kfac_gain_of_new_parameters(moments, {"w": torch.ones((2, 3), dtype=torch.bool)})
    assert (gain.value, gain.standard_error) == (0.0, 0.0)


# --- in a run -------------------------------------------------------------------------------------------


def test_the_gradients_are_those_of_the_diagonal_score(module: GraphModule) -> None:
    images, labels = sample(module)
    found, expected = kronecker_moments(module, images, labels), gradient_moments(module, images, labels)
    assert found.loss == expected.loss
    assert all(torch.equal(found.by_name[name].squares, moments.squares) for name, moments in expected.by_name.items())
    assert not any(layer._forward_hooks for layer in module.modules())


class ByKfac(Ladder):
    score = staticmethod(kfac_gains)


def test_a_ladder_climbs_by_kfac() -> None:
    architecture = blueprint.start(input_shape=(1, 8, 8), num_classes=4, channels=(4, 4), num_layers=(1, 1))
    module = GraphModule(architecture.graph()).eval()
    images, labels = sample(module, 128)
    # Bright images of two classes: there is something to gain.
    images[labels < 2] += 1

    def growth(kind: type[Ladder]) -> Growth:
        recipe = kind(sizes=(800,), threshold=0.0, standard_errors=0.0, width_step=2)
        generator = torch.Generator().manual_seed(0)
        return recipe.propose(Look(architecture, module, 1, 1, generator, lambda _: (images, labels), at_once=True))

    kfac, diagonal = growth(ByKfac), growth(Ladder)
    assert num_params(module.graph) < num_params(kfac.architecture.graph()) <= 800
    # The first pass scores the same changes, to another value.
    by_change = [{one.change: one.score for one in found.candidates} for found in (kfac, diagonal)]
    assert by_change[0].keys() == by_change[1].keys()
    assert by_change[0] != by_change[1]
