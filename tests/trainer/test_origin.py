"""Runs that begin with a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainer.config import Limits, RunConfig
from trainer.data.datasets import Data, load
from trainer.grow import grow
from trainer.journal.journal import run_directory
from trainer.journal.origin import read
from trainer.journal.records import CheckpointRecord, DecisionRecord, EpochRecord, Record
from trainer.recipes.ladder import Ladder
from zoo.checkpoint.descriptor import Descriptor
from zoo.checkpoint.file import Checkpoint, encode
from zoo.checkpoint.file import load as load_checkpoint
from zoo.errors import CheckpointError, RunError
from zoo.network.cost import num_params
from zoo.store.directory import Directory

CPU = torch.device("cpu")

Interrupted = Callable[[int], Callable[[Record], None]]


@dataclass(frozen=True)
class Grown:
    """A run that is over: its zoo, and its checkpoints, first to last."""

    zoo: Path
    digests: tuple[str, ...]

    def file(self, index: int) -> Path:
        return Directory(self.zoo).path(self.digests[index])

    def descriptors(self) -> list[Descriptor]:
        return [load_checkpoint(self.file(index)).descriptor for index in range(len(self.digests))]


def begun_with(
    path: Path, config: RunConfig, data: Data, zoo: Path, *, resume: bool = False, observe: Any = lambda _: None
) -> Grown:
    return Grown(zoo, grow(config, data, zoo, CPU, resume=resume, observe=observe, origin=read(path)))


@pytest.fixture(params=["ladder", "one change"])
def config(request: pytest.FixtureRequest, ladder_run: RunConfig, tiny_run: RunConfig) -> RunConfig:
    """Each grows after epochs 2 and 4 of 6."""
    return ladder_run if request.param == "ladder" else tiny_run


@pytest.fixture
def grown(tmp_path: Path, config: RunConfig, data: Data) -> Grown:
    zoo = tmp_path / "grown"
    return Grown(zoo, grow(config, data, zoo, CPU, resume=False, observe=lambda _: None))


def test_it_grows_at_once_and_its_history_counts_on(
    tmp_path: Path, config: RunConfig, data: Data, grown: Grown
) -> None:
    records: list[Record] = []
    found = begun_with(grown.file(0), config, data, tmp_path / "zoo", observe=records.append)
    assert found.digests[0] == grown.digests[0]
    assert found.file(0).read_bytes() == grown.file(0).read_bytes()
    assert {path.stem for path in found.zoo.rglob("*.safetensors")} == set(found.digests)

    assert isinstance(records[0], DecisionRecord)
    assert (records[0].epoch, len(records[0].chosen) > 0) == (2, True)
    trunk = [record.epoch for record in records if isinstance(record, EpochRecord) and not record.branch_epoch]
    assert trunk == [3, 4, 5, 6]
    saved = [record.digest for record in records if isinstance(record, CheckpointRecord)]
    assert saved == list(found.digests[1:])

    before, after = grown.descriptors(), found.descriptors()
    assert [each.lineage.epoch for each in after] == [each.lineage.epoch for each in before]
    assert [each.lineage.parent for each in after] == [None, *found.digests[:-1]]
    assert [each.lineage.anneal_epochs for each in after] == [each.lineage.anneal_epochs for each in before]
    assert [each.cost.epochs for each in after] == [each.cost.epochs for each in before]
    assert after[1].lineage.expansions[0].epoch == 2
    assert after[1].lineage.expansions[0].params_before == num_params(before[0].architecture.graph())
    for one, next_one in pairwise(after):
        assert next_one.cost.training_flops > one.cost.training_flops
        assert next_one.cost.device_seconds > one.cost.device_seconds


def test_it_goes_on_with_the_checkpoints_weights(tmp_path: Path, config: RunConfig, data: Data, grown: Grown) -> None:
    """With a learning rate of 0, all that kept its shape is as it was."""
    expansion = config.recipe
    if isinstance(expansion, Ladder):
        expansion = replace(expansion, shrink=1.0)
    found = begun_with(grown.file(0), replace(config, learning_rate=1e-30, recipe=expansion), data, tmp_path / "zoo")
    first, second = (load_checkpoint(found.file(index)) for index in (0, 1))
    assert num_params(second.descriptor.architecture.graph()) > num_params(first.descriptor.architecture.graph())
    kept = [
        np.array_equal(tensor, second.tensors[name])
        for name, tensor in first.tensors.items()
        if "running" not in name and second.tensors[name].shape == tensor.shape
    ]
    assert len(kept) > 5
    assert all(kept)


def weights(grown: Grown) -> list[dict[str, bytes]]:
    loaded = [load_checkpoint(grown.file(index)) for index in range(len(grown.digests))]
    return [{name: tensor.tobytes() for name, tensor in each.tensors.items()} for each in loaded]


def test_interrupted_anywhere_it_goes_on_exactly(
    tmp_path: Path, config: RunConfig, data: Data, grown: Grown, interrupted_at: Interrupted
) -> None:
    records: list[Record] = []
    whole = begun_with(grown.file(0), config, data, tmp_path / "whole", observe=records.append)
    # Before the first epoch, in it, after it, and around the next growth.
    saved = [type(record) for record in records].index(CheckpointRecord)
    for at in sorted({1, 2, 3, saved, saved + 2}):
        zoo = tmp_path / f"interrupted at {at}"
        with pytest.raises(KeyboardInterrupt):
            begun_with(grown.file(0), config, data, zoo, observe=interrupted_at(at))
        resumed = begun_with(grown.file(0), config, data, zoo, resume=True)
        assert weights(resumed) == weights(whole), f"interrupted at {records[at - 1]}"
        assert {path.stem for path in zoo.rglob("*.safetensors")} == set(resumed.digests)
        assert events(resumed, config) == ["checkpoint", *(record.event for record in records)]


def events(grown: Grown, config: RunConfig) -> list[str]:
    log = run_directory(grown.zoo, config, "bars") / "log.jsonl"
    return [json.loads(line)["event"] for line in log.read_text().splitlines()]


# --- a run whose state is lost --------------------------------------------------------------------------


def records_in(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("stopped_after_first", [True, False])
def test_a_run_whose_state_is_lost_goes_on_from_its_last_checkpoint(
    tmp_path: Path, config: RunConfig, data: Data, grown: Grown, stopped_after_first: bool
) -> None:
    """And its log with it: what was logged after that checkpoint happens again."""
    if stopped_after_first:

        def stop(record: Record) -> None:
            if isinstance(record, EpochRecord) and record.epoch == 3:
                raise KeyboardInterrupt

        zoo = tmp_path / "stopped"
        with pytest.raises(KeyboardInterrupt):
            grow(config, data, zoo, CPU, resume=False, observe=stop)
        grown = Grown(zoo, tuple(path.stem for path in zoo.rglob("*.safetensors")))
    log = run_directory(grown.zoo, config, "bars") / "log.jsonl"
    before = records_in(log)
    (log.parent / "state.pt").unlink()

    found = begun_with(grown.file(-1), replace(config, epochs=8), data, grown.zoo)
    assert found.digests[0] == grown.digests[-1]
    assert found.descriptors()[-1].lineage.epoch == 8
    assert {path.stem for path in grown.zoo.rglob("*.safetensors")} == {*grown.digests, *found.digests}
    after = records_in(log)
    [place] = [index for index, record in enumerate(before) if record.get("digest") == grown.digests[-1]]
    assert after[: place + 1] == before[: place + 1]
    assert [record["digest"] for record in after if record["event"] == "checkpoint"] == [
        *grown.digests,
        *found.digests[1:],
    ]
    assert [record["event"] for record in after].count("finished") == 1


def test_what_a_run_saved_since_stays_in_its_log(config: RunConfig, data: Data, grown: Grown) -> None:
    (run_directory(grown.zoo, config, "bars") / "state.pt").unlink()
    before = {path: path.read_bytes() for path in grown.zoo.rglob("*") if path.is_file()}
    message = f"has no state.pt any more: --from its last checkpoint, {grown.digests[-1]}, goes on with it; another"
    with pytest.raises(RunError, match=message):
        begun_with(grown.file(0), config, data, grown.zoo)
    with pytest.raises(RunError, match=message):
        grow(config, data, grown.zoo, CPU, resume=True, observe=lambda _: None)
    assert {path: path.read_bytes() for path in grown.zoo.rglob("*") if path.is_file()} == before


# --- limits and sizes -----------------------------------------------------------------------------------


def test_seconds_count_from_its_own_beginning(tmp_path: Path, config: RunConfig, data: Data, grown: Grown) -> None:
    """Not those that the checkpoint took, perhaps on another machine."""
    slow = load_checkpoint(grown.file(0))
    cost = slow.descriptor.cost.model_copy(update={"device_seconds": 1e6, "device": "an abacus"})
    path = tmp_path / "slow.safetensors"
    path.write_bytes(encode(Checkpoint(slow.descriptor.model_copy(update={"cost": cost}), slow.tensors)))
    for max_seconds, last_epoch in ((1000.0, 6), (1e-3, 3)):
        limits = Limits(max_seconds=max_seconds)
        found = begun_with(path, replace(config, limits=limits), data, tmp_path / f"{max_seconds}")
        last = found.descriptors()[-1]
        assert last.lineage.epoch == last_epoch
        assert last.cost.device_seconds > 1e6
        assert last.cost.device == "an abacus; cpu, 1 threads"


@pytest.mark.parametrize("config", ["ladder"], indirect=True)
def test_at_the_top_of_its_ladder_it_is_trained_on(tmp_path: Path, config: RunConfig, data: Data, grown: Grown) -> None:
    first = num_params(grown.descriptors()[0].architecture.graph())
    assert isinstance(config.recipe, Ladder)
    config = replace(config, recipe=replace(config.recipe, sizes=(first,)))
    found = begun_with(grown.file(0), config, data, tmp_path / "zoo")
    assert [num_params(each.architecture.graph()) for each in found.descriptors()] == [first, first]


# --- what cannot be done --------------------------------------------------------------------------------


def test_it_is_refused_where_the_run_cannot_go_on_from_it(
    tmp_path: Path, config: RunConfig, data: Data, grown: Grown
) -> None:
    first = num_params(grown.descriptors()[0].architecture.graph())
    for other, message in (
        (replace(config, epochs=2), "has 2 epochs of its trunk behind it, and the run ends after 2: --epochs counts"),
        (replace(config, limits=Limits(max_params=first - 1)), f"has {first} parameters and .*: allow as many, or"),
        (replace(config, seed=1), f"is of run {config.name} with seed 0, not of {config.name} with seed 1: begin"),
        (replace(config, name="other"), f"is of run {config.name} with seed 0, not of other with seed 0: begin"),
    ):
        with pytest.raises(RunError, match=message):
            begun_with(grown.file(0), other, data, tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ({"train": 31, "test": 8}, {}, r"has another data set: \(bars, 81 \+ 9 \+ 24 images\), not \(bars, 84"),
        (
            {"train": 30, "test": 8},
            {"size": (8, 9)},
            r"shape: \(\(1, 8, 8\)\), not \(\(1, 8, 9\)\): give --image-size 8",
        ),
        ({"train": 30, "test": 8}, {"classes": ("l", "m", "r")}, r"another classes: \(\('left', .*not \(\('l', "),
        (
            {"train": 30, "test": 8},
            {"seed": 1},
            "has another data set: it is called bars too, but these are other images",
        ),
    ],
)
def test_it_is_refused_on_other_images(
    tmp_path: Path,
    config: RunConfig,
    grown: Grown,
    write_images: Callable[..., Path],
    counts: dict[str, int],
    options: dict[str, Any],
    message: str,
) -> None:
    other = load(str(write_images(tmp_path / "other" / "bars", counts, **options)))
    with pytest.raises(RunError, match=message):
        begun_with(grown.file(0), config, other, tmp_path / "zoo")


def test_a_damaged_file_is_refused(tmp_path: Path, grown: Grown) -> None:
    damaged = tmp_path / grown.file(0).name
    damaged.write_bytes(grown.file(0).read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="the file was changed or damaged"):
        read(damaged)


def test_it_is_resumed_with_that_checkpoint_or_none(
    tmp_path: Path, config: RunConfig, data: Data, grown: Grown
) -> None:
    zoo = tmp_path / "zoo"
    found = begun_with(grown.file(0), config, data, zoo)
    assert grow(config, data, zoo, CPU, resume=True, observe=lambda _: None) == found.digests
    assert begun_with(grown.file(0), config, data, zoo, resume=True) == found
    with pytest.raises(RunError, match=f"did not begin with {grown.digests[1]}.safetensors: --resume goes on with it"):
        begun_with(grown.file(1), config, data, zoo, resume=True)
