from __future__ import annotations

import pytest

from trainer.config import Limits
from trainer.recipes.names import run_named, swept
from trainer.recipes.overrides import Overrides
from zoo.errors import RunError


@pytest.mark.parametrize(
    ("run", "tau", "threshold"),
    [("paper", 1.5, None), ("paper", 1e-05, None), ("paper", 2.0, None), ("grow", None, 0.25), ("digits", None, 3.0)],
)
def test_a_run_of_a_sweep_is_found_by_its_name(run: str, tau: float | None, threshold: float | None) -> None:
    """So its checkpoints can be distilled and continued."""
    name = swept(run, tau, threshold)
    config = run_named(name, Overrides(seed=3, epochs=7))
    asked = run_named(run, Overrides(seed=3, epochs=7, tau=tau, threshold=threshold))
    assert (config.name, config.recipe, config.seed, config.epochs) == (name, asked.recipe, 3, 7)


@pytest.mark.parametrize("name", ["nosuch", "nosuch-tau1", "paper-tau", "paper-tau1.5.2", "paper-tau1-tau2", "-tau1"])
def test_other_names_are_none(name: str) -> None:
    with pytest.raises(RunError, match=f"no run is named '{name}'; there are: digits, grow, paper"):
        run_named(name, Overrides())


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("paper-tau1.5", Overrides(tau=2.0), "run paper-tau1.5 has a tau of 1.5, so no --tau 2"),
        ("grow-tau1.5", Overrides(), "run grow has no ratio rule, so no --tau"),
        ("paper-threshold1", Overrides(), "run paper has no gain rule, so no --threshold"),
    ],
)
def test_a_name_and_wishes_that_contradict_each_other(name: str, overrides: Overrides, message: str) -> None:
    with pytest.raises(RunError, match=message):
        run_named(name, overrides)


def test_a_network_of_other_widths_is_found_by_its_name() -> None:
    config = run_named("resnet20", Overrides(widths=(4, 8, 16), epochs=3))
    assert config.name == "resnet20-4-8-16"
    assert run_named(config.name, Overrides(epochs=3)) == config
    assert run_named("resnet20", Overrides(widths=(16, 32, 64))).name == "resnet20", "as it is anyway"


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("resnet20-4-8", Overrides(), r"run resnet20 has 3 widths of 1 or more, not \(4, 8\)"),
        ("vgg16", Overrides(widths=(4, 0, 4, 4, 4)), "run vgg16 has 5 widths of 1 or more"),
        ("grow", Overrides(widths=(4, 8, 16)), "run grow grows, so no --widths"),
        ("resnet20", Overrides(tau=2.0), "run resnet20 does not grow, so no --tau"),
        ("resnet20", Overrides(limits=Limits(max_params=9)), "run resnet20 does not grow, so no .*--max-params"),
    ],
)
def test_widths_are_of_networks_that_do_not_grow(name: str, overrides: Overrides, message: str) -> None:
    with pytest.raises(RunError, match=message):
        run_named(name, overrides)
