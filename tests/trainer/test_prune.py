"""A smaller network cut from a checkpoint, on images that a network learns in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from trainer.commands.main import app
from trainer.config import BlueprintStart, FixedStart, RunConfig
from trainer.data.datasets import Data, load
from trainer.distil.prune import Ranking, prune
from trainer.grow import grow
from trainer.journal.origin import Origin, read
from trainer.journal.records import DistilledRecord, LessonRecord, PrunedRecord, Record
from trainer.loop.epoch import evaluate
from trainer.recipes.fixed import Fixed
from zoo.checkpoint.file import decode
from zoo.errors import RunError
from zoo.network.cost import activation_bytes, num_macs, num_params
from zoo.network.levels import NetworkBudget
from zoo.runtime.module import module_of
from zoo.store.directory import Directory

CPU = torch.device("cpu")
CONFIG = RunConfig(
    name="grow",
    start=BlueprintStart(channels=(8, 12), num_layers=(1, 1)),
    recipe=Fixed(),
    epochs=6,
    batch_size=16,
    learning_rate=4e-3,
    optimizer="adamw",
    plateau=False,
    l1=0.0,
    horizontal_flip=False,
    anneal_share=0.5,
    distil_epochs=6,
    cpu_threads=1,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_images: Callable[..., Path]) -> Data:
    images = write_images(tmp_path_factory.mktemp("images") / "bars", {"train": 60, "test": 20}, size=(16, 16))
    return load(str(images))


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory, data: Data) -> Origin:
    zoo = tmp_path_factory.mktemp("zoo")
    [digest] = grow(CONFIG, data, zoo, CPU, resume=False, observe=[].append)
    return read(Directory(zoo).path(digest))


@pytest.mark.parametrize("ranking", ["taylor", "l2"])
def test_the_new_checkpoint_is_within_the_budget_and_says_where_it_comes_from(
    tmp_path: Path, data: Data, origin: Origin, ranking: Ranking
) -> None:
    graph = origin.descriptor.architecture.graph()
    budget = NetworkBudget(num_params(graph) * 2 // 3, num_macs(graph) * 2 // 3, activation_bytes(graph) * 4 // 5)
    records: list[Record] = []
    digest = prune(CONFIG, data, tmp_path, origin, budget, CPU, records.append, ranking=ranking)
    [(found, path)] = Directory(tmp_path).paths()
    assert found == digest
    checkpoint = decode(path.read_bytes())
    descriptor = checkpoint.descriptor
    assert budget.allows(descriptor.architecture)
    lineage = descriptor.lineage
    assert lineage.pruned_from == lineage.parent == lineage.distilled_from == origin.digest
    assert (lineage.run, lineage.expansions) == ("grow", ())
    assert descriptor.cost.epochs == origin.descriptor.cost.epochs + 6
    assert descriptor.cost.training_flops > origin.descriptor.cost.training_flops
    assert evaluate(module_of(checkpoint), data.test, data.preprocessing, 3) == descriptor.metrics.test
    assert descriptor.metrics.validation.accuracy > 0.9

    pruned, *lessons, distilled = records
    assert isinstance(pruned, PrunedRecord)
    assert (pruned.params_before, pruned.params) == (origin.params, num_params(descriptor.architecture.graph()))
    assert pruned.widths == descriptor.architecture.widths()
    assert [lesson.epoch for lesson in lessons if isinstance(lesson, LessonRecord)] == [1, 2, 3, 4, 5, 6]
    assert isinstance(distilled, DistilledRecord)
    assert distilled.digest == digest
    log = tmp_path / "runs" / "bars-grow-s0" / "log.jsonl"
    events = [json.loads(line)["event"] for line in log.read_bytes().splitlines()]
    assert events == ["pruned", *["lesson"] * 6, "distilled"]


def test_an_interrupted_call_goes_on_and_a_finished_one_does_nothing(
    tmp_path: Path, data: Data, origin: Origin
) -> None:
    budget = NetworkBudget(max_params=origin.params // 2)
    wanted = prune(CONFIG, data, tmp_path / "whole", origin, budget, CPU, [].append)
    before: list[Record] = []

    def interrupted(record: Record) -> None:
        before.append(record)
        if isinstance(record, LessonRecord) and record.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune(CONFIG, data, tmp_path / "other", origin, budget, CPU, interrupted)
    after: list[Record] = []
    digest = prune(CONFIG, data, tmp_path / "other", origin, budget, CPU, after.append)
    assert after[: len(before)] == before, "how long they took says that they were not trained again"
    one, two = (
        decode(Directory(tmp_path / zoo).path(name).read_bytes()).tensors
        for zoo, name in (("whole", wanted), ("other", digest))
    )
    assert all(np.array_equal(one[name], two[name]) for name in one)

    again: list[Record] = []
    assert prune(CONFIG, data, tmp_path / "other", origin, budget, CPU, again.append) == digest
    assert again == after[-1:]
    longer = replace(CONFIG, distil_epochs=1)
    assert prune(longer, data, tmp_path / "other", origin, budget, CPU, again.append) != digest


def test_a_resnet_is_cut_too(tmp_path: Path, data: Data) -> None:
    config = replace(CONFIG, name="resnet20", start=FixedStart("resnet20", (4, 6, 8)), epochs=1, distil_epochs=1)
    [digest] = grow(config, data, tmp_path, CPU, resume=False, observe=[].append)
    origin = read(Directory(tmp_path).path(digest))
    small = prune(config, data, tmp_path, origin, NetworkBudget(max_params=origin.params // 2), CPU, [].append)
    descriptor = read(Directory(tmp_path).path(small)).descriptor
    assert descriptor.architecture.family == "resnet20"
    assert num_params(descriptor.architecture.graph()) <= origin.params // 2


def test_budgets_that_cannot_be(tmp_path: Path, data: Data, origin: Origin) -> None:
    for params, message in ((origin.params, "as it is: there is nothing to cut"), (20, "no network within 20 param")):
        with pytest.raises(RunError, match=message):
            prune(CONFIG, data, tmp_path, origin, NetworkBudget(max_params=params), CPU, [].append)


def test_the_command(tmp_path: Path, origin: Origin, write_images: Callable[..., Path]) -> None:
    images = write_images(tmp_path / "bars", {"train": 60, "test": 20}, size=(16, 16))
    Directory(tmp_path / "zoo").put(origin.content)
    words = ["prune", origin.digest[:12], "--data", str(images), "--zoo", str(tmp_path / "zoo"), "--epochs", "1"]
    result = CliRunner().invoke(app, [*words, "--max-params", str(origin.params // 2), "--device", "cpu"])
    assert result.exit_code == 0, result.stderr
    [digest] = result.stdout.split()
    assert read(Directory(tmp_path / "zoo").path(digest)).descriptor.lineage.pruned_from == origin.digest
    assert f"cut {origin.params:,} parameters to" in result.stderr
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 1
    assert "needs a budget: --max-params, --max-macs or --max-memory-bytes" in " ".join(refused.stderr.split())
