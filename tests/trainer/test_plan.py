"""Epochs and sizes that fit into the time."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.distil.plan import Costs, Plan, plan
from trainer.journal.plans import kept
from zoo.errors import RunError

PARAMS = (4_000, 5_000, 9_000, 20_000, 100_000)
COSTS = Costs(lessons=(1.0, 1.0, 2.0, 3.0, 8.0), answers=2.0, once=(0.5,) * 5)


def test_all_sizes_as_often_as_the_time_allows() -> None:
    chosen = plan(COSTS, PARAMS, seconds=600.0)
    assert chosen.sizes == (0, 1, 2, 3, 4)
    assert chosen.seconds <= 0.9 * 600 < COSTS.total(chosen.sizes, chosen.epochs + 1)
    assert plan(COSTS, PARAMS, seconds=1e6).epochs == 200


def test_where_epochs_would_be_few_the_size_most_like_its_neighbour_is_left_out() -> None:
    assert plan(COSTS, PARAMS, seconds=185.0).sizes == (0, 2, 3, 4)
    short = plan(COSTS, PARAMS, seconds=60.0)
    assert len(short.sizes) == 3
    assert {0, 4} < set(short.sizes)
    with pytest.raises(RunError, match=r"0\.1 minutes are left; an epoch of 3 sizes takes 0\.3"):
        plan(COSTS, PARAMS, seconds=8.0)


@given(st.floats(20, 1e5), st.lists(st.floats(0.01, 60), min_size=3, max_size=12), st.floats(0, 20), st.floats(0, 5))
def test_no_plan_takes_longer_than_there_is_time(
    seconds: float, lessons: list[float], answers: float, evaluation: float
) -> None:
    costs = Costs(tuple(lessons), answers, (evaluation,) * len(lessons))
    params = [1_000 * 2**index for index in range(len(lessons))]
    try:
        chosen = plan(costs, params, seconds)
    except RunError:
        three = min(costs.total((0, index, len(lessons) - 1), 1) for index in range(1, len(lessons) - 1))
        assert three > 0.9 * seconds or len(lessons) > 3
    else:
        assert chosen.epochs >= 1
        assert chosen.seconds <= seconds
        assert {0, len(lessons) - 1} <= set(chosen.sizes)


def test_a_plan_is_made_once(tmp_path: Path) -> None:
    path, made = tmp_path / "run" / "plan.json", []

    def make() -> Plan:
        made.append(len(made))
        return Plan((0, 2), 10 + len(made), 1.5)

    first = kept(path, ["a", "b"], Plan, make)
    assert kept(path, ["a", "b"], Plan, make) == first
    assert kept(path, ["a", "c"], Plan, make).epochs == 12
    path.write_text("{")
    assert kept(path, ["a", "c"], Plan, make).epochs == 13
    assert len(made) == 3
