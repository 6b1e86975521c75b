"""Sizes and epochs of growth that fit into the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from trainer.commands.main import app
from trainer.config import RunConfig
from trainer.data.datasets import Data, load
from trainer.distil.growth_plan import Cost, Plan, few_epochs, plan, total
from trainer.distil.timed_run import TimedRun
from trainer.grow import grow
from trainer.journal.records import PlanRecord, Record
from trainer.loop.timing import by_macs, sample_of, timed_within
from trainer.recipes import runs
from trainer.recipes.ladder import Ladder
from zoo.errors import RunError
from zoo.network.cost import num_macs, num_params

CONFIG = runs.grow()
LADDER = CONFIG.recipe
assert isinstance(LADDER, Ladder)
# Larger sizes take longer.
COSTS = [Cost(0.2 + 0.1 * place, 0.5, 0.3) for place in range(len(LADDER.sizes) + 1)]


def fitting(seconds: float, steps: int = 15) -> Plan:
    assert isinstance(LADDER, Ladder)
    return plan(CONFIG, LADDER, COSTS, steps, float(seconds))


def test_with_time_all_sizes_have_as_many_epochs_as_fit() -> None:
    found = fitting(600)
    assert found.sizes == LADDER.sizes
    assert found.seconds <= 600 < total(CONFIG, LADDER, COSTS, found.epochs + 1)
    assert fitting(1e6).epochs == CONFIG.epochs


def test_with_less_there_are_fewer_sizes_and_then_no_large_ones() -> None:
    found = [fitting(seconds) for seconds in (600, 60, 20, 4)]
    assert [len(one.sizes) for one in found] == sorted((len(one.sizes) for one in found), reverse=True)
    assert 2 < len(found[1].sizes) < len(LADDER.sizes)
    assert found[1].sizes[-1] == LADDER.sizes[-1], "the largest stays as long as it can"
    assert found[3].sizes[-1] < LADDER.sizes[-1]
    with pytest.raises(RunError, match="the smallest sizes take"):
        fitting(0.5)


def test_where_an_epoch_has_many_steps_fewer_epochs_are_worth_a_size() -> None:
    assert len(fitting(60, steps=80).sizes) > len(fitting(60, steps=8).sizes)


@given(st.floats(3, 5_000), st.integers(1, 400))
def test_no_plan_takes_longer_than_there_is_time(seconds: float, steps: int) -> None:
    found = fitting(seconds, steps)
    assert found.seconds <= seconds
    assert 1 <= found.epochs <= CONFIG.epochs
    assert set(found.sizes) <= set(LADDER.sizes)


def test_likely_networks_are_of_the_sizes_of_the_ladder() -> None:
    start = CONFIG.start.network((3, 32, 32), 10)
    graphs = [one.graph() for one in LADDER.likely(start, lambda _params, _macs: True)]
    for graph, size in zip(graphs, LADDER.sizes, strict=True):
        assert 0.9 * size <= num_params(graph) <= size
    assert all(num_macs(one) < num_macs(other) for one, other in pairwise(graphs))


def test_growth_is_planned_and_then_distillation_for_the_time_that_is_left(
    tmp_path: Path, ladder_run: RunConfig, write_images: Callable[..., Path]
) -> None:
    data = load(str(write_images(tmp_path / "bars", {"train": 20, "test": 4}, size=(16, 16))))
    device, zoo = torch.device("cpu"), tmp_path / "zoo"
    records: list[Record] = []
    activities: list[str] = []
    started = time.monotonic()
    timed = TimedRun(data, zoo, device, started, 1200.0, records.append, activities.append)
    config = timed.growth(ladder_run)
    assert config.epochs == ladder_run.epochs, "all that it wants"
    assert timed.growth(ladder_run) == config, "as it was planned before"
    digests = grow(config, data, zoo, device, resume=False, observe=records.append, at=activities.append)
    config = timed.distillation(config, digests)
    assert config.distil_epochs >= 1
    assert timed.distillation(config, digests) == config
    ends = [record.seconds_left for record in records if isinstance(record, PlanRecord)]
    assert ends == sorted(ends, reverse=True), "less is left each time"
    assert ends[0] < 1200
    assert activities[0] == "timing size 1 of 3 (1 of 3)"
    for what in ("training", "measuring batch norms", "evaluating", "testing"):
        assert what in activities
    with pytest.raises(RunError, match="minutes are left for growth; the smallest sizes take"):
        replace(timed, seconds=0.5).growth(ladder_run)


@pytest.mark.parametrize(
    ("num_train", "epochs"), [(60, 429), (90, 273), (450, 214), (2250, 375), (4095, 200), (4096, None), (45_000, None)]
)
def test_few_images_have_epochs_by_steps(num_train: int, epochs: int | None) -> None:
    assert few_epochs(CONFIG, num_train) == epochs
    assert few_epochs(replace(CONFIG, epochs=epochs or 1), num_train) is None, "as asked for"
    assert few_epochs(runs.paper(), num_train) is None


def test_who_grows_on_few_photos_is_told_of_adapt(tmp_path: Path, write_images: Callable[..., Path]) -> None:
    """Not with gray images, which no zoo that ships takes."""

    def said(mode: str) -> str:
        photos = write_images(tmp_path / mode, {"train": 20, "test": 4}, size=(16, 16), mode=mode)
        words = ["grow", "--data", str(photos), "--zoo", str(tmp_path / "zoo"), "--epochs", "1", "--device", "cpu"]
        result = CliRunner().invoke(app, [*words, "--max-params", "4000"])
        assert result.exit_code == 0, result.stderr
        return " ".join(result.stderr.split())

    assert "on so few photos `zoo-train adapt` is more accurate" in said("RGB")
    assert "adapt" not in said("L")


def test_timing_takes_no_longer_than_it_may(data: Data) -> None:
    """The smallest is always timed; the others, from the largest on, if those before were quick enough."""
    told: list[str] = []

    def timed(within: float) -> dict[int, int]:
        def time_one(place: int) -> int:
            time.sleep(0.01)
            return place

        return timed_within(within, data, [100, 200, 300, 400, 500], 16, time_one, told.append)

    assert timed(60.0) == {0: 0, 2: 2, 4: 4}
    assert told[:2] == [
        "timing size 1 of 5 (1 of 3, at most 60 s in all)",
        "timing size 5 of 5 (2 of 3, at most 60 s in all)",
    ]
    assert timed(0.0) == {0: 0}
    assert by_macs([100, 200, 400], [0], [1.0]) == (1.0, 2.0, 4.0)
    assert by_macs([100, 200, 400], [0, 1], [1.0, 1.5]) == (1.0, 1.5, 3.0)
    assert by_macs([100, 200, 400], [0, 2], [1.0, 4.0]) == (1.0, 2.0, 4.0)


def test_what_is_timed_is_a_part_of_all_splits(data: Data) -> None:
    part, share = sample_of(data, 10**9, 8)
    assert len(part.train) == 16
    assert share == 16 / len(data.train)
    assert 0 < len(part.test) < len(data.test)
    whole, share = sample_of(data, 100, 8)
    assert share == 1
    assert whole.test is data.test or len(whole.test) == len(data.test)


def test_minutes_choose_epochs_themselves(tmp_path: Path) -> None:
    words = ["grow", "--data", "digits", "--zoo", str(tmp_path), "--minutes", "1", "--epochs", "3"]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 1
    assert "--minutes chooses epochs itself, so no --epochs" in refused.stderr
    other = CliRunner().invoke(app, ["digits", *words[1:-2]])
    assert "run digits has no sizes to plan, so no --minutes; it has --max-seconds" in other.stderr
