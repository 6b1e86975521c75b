from __future__ import annotations

from math import inf, nan

import pytest

from trainer.commands.ray_runs import Share, seeds_of
from trainer.config import Limits
from trainer.recipes.overrides import Overrides
from trainer.recipes.runs import grow, paper
from zoo.errors import RunError


@pytest.mark.parametrize(
    "changes",
    [
        {"distil_epochs": -3},
        {"epochs": 0},
        {"epochs": -1},
        {"batch_size": 1},
        {"learning_rate": 0.0},
        {"learning_rate": nan},
        {"learning_rate": inf},
        {"seed": -1},
        {"tau": nan},
        {"tau": -1.0},
    ],
)
def test_numbers_that_no_run_can_have(changes: dict[str, float]) -> None:
    [name] = changes
    with pytest.raises(RunError, match=f"{name} should be .*, is "):
        Overrides(**changes).of(paper())


def test_thresholds_and_limits_that_no_run_can_have() -> None:
    with pytest.raises(RunError, match="threshold should be a number from 0 on, is nan"):
        Overrides(threshold=nan).of(grow())
    for limits in ({"max_seconds": nan}, {"max_seconds": inf}, {"max_params": 0}, {"max_macs": -1}):
        with pytest.raises(RunError, match="should be a number above 0"):
            Limits(**limits)


def test_sweeps_that_no_machine_has_room_for() -> None:
    with pytest.raises(RunError, match="more than 0 CPUs"):
        Share(cpus=nan)
    with pytest.raises(RunError, match="--seeds should be at most 10,000, is '0-999999999999'"):
        seeds_of("0-999999999999")
