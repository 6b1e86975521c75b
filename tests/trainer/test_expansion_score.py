from __future__ import annotations

from itertools import pairwise
from statistics import mean, stdev

import pytest
import torch
from torch import Tensor

from trainer.growth.scores.expansion_score import gain_of_new_parameters, natural_score, size_penalty
from trainer.growth.scores.fisher import GradientMoments, Moments, group_bounds


def moments_of(gradients: dict[str, Tensor]) -> GradientMoments:
    """From per-sample gradients (samples, *shape)."""
    [count] = {len(gradient) for gradient in gradients.values()}
    bounds = group_bounds(count)
    by_name = {
        name: Moments(
            torch.stack([gradient[start:end].sum(0) for start, end in pairwise(bounds)]),
            gradient.square().sum(0),
            count,
        )
        for name, gradient in gradients.items()
    }
    return GradientMoments(by_name, loss=1.0, num_samples=count)


def drawn(seed: int, samples: int, params: int, signal: float) -> dict[str, Tensor]:
    """Gradients of two tensors, of very different scale; `signal` in units of the noise."""
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn((samples, params), generator=random) + signal
    return {"big": 100 * noise[:, : params // 2], "small": 1e-3 * noise[:, params // 2 :]}


def everything(moments: GradientMoments) -> dict[str, Tensor]:
    return {name: torch.ones_like(tensor.squares, dtype=torch.bool) for name, tensor in moments.by_name.items()}


def test_natural_score_is_the_formula() -> None:
    gradients = {"a": torch.randn(9, 2, 3) + 0.5, "b": torch.randn(9, 4)}
    score = 0.0
    for gradient in gradients.values():
        for column in gradient.flatten(1).T:
            mean_gradient = column.sum() / 9
            fisher = (column**2).sum() / 9
            score += float(mean_gradient / fisher * mean_gradient)
    assert natural_score(moments_of(gradients)) == pytest.approx(score, rel=1e-5)


def test_a_parameter_without_gradient_adds_nothing() -> None:
    gradients = {"a": torch.randn(9, 3)}
    dead = gradients | {"dead": torch.zeros(9, 5)}
    assert natural_score(moments_of(dead)) == natural_score(moments_of(gradients))
    alive, with_dead = (
        gain_of_new_parameters(moments, everything(moments)) for moments in map(moments_of, (gradients, dead))
    )
    assert with_dead == alive


@pytest.mark.parametrize(
    ("params_added", "lambda_", "penalty"),
    [(0, 1e-7, 1.0), (2336, 1e-7, 0.579438), (1000, 0.0, 1.0), (100, 1e-4, 0.367879)],
)
def test_size_penalty(params_added: int, lambda_: float, penalty: float) -> None:
    assert size_penalty(params_added, lambda_) == pytest.approx(penalty, rel=1e-5)


def test_gain_counts_new_entries_only() -> None:
    gradients = {"old": torch.randn(64, 3), "grown": torch.randn(64, 2, 2) + 1}
    mask = torch.tensor([[False, False], [True, False]])
    only = moments_of({"new": gradients["grown"][:, 1, :1]})
    gain = gain_of_new_parameters(moments_of(gradients), {"grown": mask})
    expected = gain_of_new_parameters(only, everything(only))
    assert gain.value == pytest.approx(expected.value)
    assert gain.standard_error == pytest.approx(expected.standard_error)


def test_gain_is_the_formula() -> None:
    samples, gradient = 50, torch.randn(50, 7) + 0.3
    value = 0.0
    for column in gradient.T:
        mean_gradient, fisher = column.sum() / samples, (column**2).sum() / samples
        value += float((mean_gradient**2 - (fisher - mean_gradient**2) / (samples - 1)) / fisher)
    moments = moments_of({"new": gradient})
    assert gain_of_new_parameters(moments, everything(moments)).value == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("samples", [64, 100])
def test_gain_of_pure_noise_is_zero_on_average(samples: int) -> None:
    params, runs = 40, 300
    found = [moments_of(drawn(seed, samples, params, signal=0.0)) for seed in range(runs)]
    gains = [gain_of_new_parameters(moments, everything(moments)).value for moments in found]
    assert abs(mean(gains)) < 4 * stdev(gains) / runs**0.5
    # The plain sum takes the noise for a gain.
    assert mean(map(natural_score, found)) == pytest.approx(params / samples, rel=0.1)


@pytest.mark.parametrize("samples", [64, 100, 512])
@pytest.mark.parametrize("signal", [0.0, 0.1, 0.5])
def test_standard_error_is_the_spread_over_samples(samples: int, signal: float) -> None:
    gains = []
    for seed in range(200):
        moments = moments_of(drawn(seed, samples, 40, signal))
        gains.append(gain_of_new_parameters(moments, everything(moments)))
    spread = stdev(gain.value for gain in gains)
    claimed = mean(gain.standard_error for gain in gains)
    assert 1 / 1.5 < claimed / spread < 1.5
