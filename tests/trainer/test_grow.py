from __future__ import annotations

import fcntl
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from trainer.config import Limits, RunConfig
from trainer.data.datasets import Data, Split, load
from trainer.grow import grow
from trainer.growth.expand import Noise
from trainer.journal.display import Display
from trainer.journal.journal import run_directory
from trainer.journal.records import ChanceRecord, CheckpointRecord, DecisionRecord, EpochRecord, FinishedRecord, Record
from trainer.loop.epoch import evaluate
from trainer.recipes.ladder import Ladder
from trainer.recipes.overrides import Overrides
from trainer.recipes.rules import RatioRule
from trainer.recipes.runs import digits, paper
from zoo.checkpoint.file import load as load_checkpoint
from zoo.errors import RunError
from zoo.network.cost import num_params
from zoo.network.families.blueprint import BlueprintArchitecture
from zoo.runtime.module import GraphModule, module_of, normalize
from zoo.runtime.predictor import Predictor
from zoo.store.directory import Directory

CPU = torch.device("cpu")
# What the clock says, and what follows from it: a file with another time in it has another digest.
TIMES = {"seconds", "device_seconds", "created_at", "digest", "checkpoints", "parent"}


def run(config: RunConfig, data: Data, zoo: Path, *, resume: bool = False, observe: Any = lambda _: None) -> Any:
    return grow(config, data, zoo, CPU, resume=resume, observe=observe)


def without_times(value: Any, keys: set[str] = TIMES) -> Any:
    if isinstance(value, dict):
        return {key: without_times(entry, keys) for key, entry in value.items() if key not in keys}
    return [without_times(entry, keys) for entry in value] if isinstance(value, list) else value


def log_of(zoo: Path) -> list[dict[str, Any]]:
    [path] = zoo.glob("runs/*/log.jsonl")
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


def story(zoo: Path, digests: tuple[str, ...]) -> tuple[Any, ...]:
    """All that a run decided, and every bit of what it learned; not when."""
    checkpoints = [load_checkpoint(Directory(zoo).path(digest)) for digest in digests]
    weights = [{name: tensor.tobytes() for name, tensor in each.tensors.items()} for each in checkpoints]
    descriptors = [without_times(each.descriptor.model_dump(mode="json")) for each in checkpoints]
    return without_times(log_of(zoo)), descriptors, weights


def files(zoo: Path) -> set[str]:
    """Of every file called a checkpoint, its digest; each is read whole and checked."""
    paths = list(zoo.rglob("*.safetensors"))
    for path in paths:
        load_checkpoint(path)
    return {path.stem for path in paths}


Interrupted = Callable[[int], Callable[[Record], None]]
Runs = Callable[[RunConfig], tuple[Path, tuple[str, ...], list[Record]]]


@pytest.fixture
def uninterrupted(tmp_path: Path, data: Data) -> Runs:
    def make(config: RunConfig) -> tuple[Path, tuple[str, ...], list[Record]]:
        records: list[Record] = []
        zoo = tmp_path / "uninterrupted"
        return zoo, run(config, data, zoo, observe=records.append), records

    return make


@pytest.fixture(params=["gain", "ratio"])
def config(request: pytest.FixtureRequest, tiny_run: RunConfig) -> RunConfig:
    """Exact expansions by the gain rule, and the paper's way; both grow after epochs 2 and 4 of 6."""
    if request.param == "gain":
        return tiny_run
    expansion = replace(tiny_run.recipe, rule=RatioRule(tau=0.0), initialization=Noise(), layer_kind="conv")
    return replace(tiny_run, recipe=expansion)


# --- the story ------------------------------------------------------------------------------------------


def test_a_checkpoint_at_each_expansion_and_one_at_the_end(config: RunConfig, uninterrupted: Runs) -> None:
    zoo, digests, records = uninterrupted(config)
    assert len(set(digests)) == 3
    assert files(zoo) == set(digests)
    checkpoints = [load_checkpoint(Directory(zoo).path(digest)) for digest in digests]
    descriptors = [checkpoint.descriptor for checkpoint in checkpoints]
    assert [descriptor.lineage.epoch for descriptor in descriptors] == [2, 4, 6]
    assert [descriptor.lineage.parent for descriptor in descriptors] == [None, *digests[:-1]]
    assert [descriptor.lineage.num_expansions for descriptor in descriptors] == [0, 1, 2]

    last = descriptors[-1].lineage.expansions
    for index, descriptor in enumerate(descriptors):
        params = num_params(descriptor.architecture.graph())
        lineage = descriptor.lineage
        assert lineage.expansions == last[:index]
        assert (lineage.run, lineage.seed) == ("tiny", 0)
        assert descriptor.name == f"bars-tiny-s0-{params}"
        if index < len(last):
            step = last[index]
            assert (step.epoch, step.params_before, step.exact) == (lineage.epoch, params, config.recipe.is_exact)
            assert step.params_after == num_params(descriptors[index + 1].architecture.graph())
            assert step.score > step.threshold
    assert [type(record) for record in records[-3:]] == [EpochRecord, CheckpointRecord, FinishedRecord]


def test_the_recorded_accuracy_is_that_of_the_file_on_the_images(
    config: RunConfig, uninterrupted: Runs, images: Path
) -> None:
    """From the files alone, with what serves them: no torch, no trainer."""
    zoo, digests, _ = uninterrupted(config)
    for digest in digests:
        checkpoint = load_checkpoint(Directory(zoo).path(digest))
        hits = {name: [] for name in checkpoint.descriptor.classes}
        predictor = Predictor(checkpoint)
        paths = sorted((images / "test").glob("*/*.png"))
        pixels = predictor.decode([path.read_bytes() for path in paths])
        for path, [best] in zip(paths, predictor.top_k(predictor.probabilities(pixels), 1), strict=True):
            hits[path.parent.name].append(best.label == path.parent.name)
        found = checkpoint.descriptor.metrics.test
        assert found is not None
        assert found.n == 24
        assert found.accuracy == sum(map(sum, hits.values())) / 24
        assert found.per_class == pytest.approx([sum(each) / len(each) for each in hits.values()], abs=1e-6)


def test_a_run_learns(tiny_run: RunConfig, uninterrupted: Runs) -> None:
    expansion = replace(tiny_run.recipe, cooldown_epochs=8)
    config = replace(
        tiny_run, epochs=24, recipe=expansion, learning_rate=1e-2, lr_patience=9, horizontal_flip=False, max_shift=0
    )
    _, _, records = uninterrupted(config)
    accuracies = [each.test_accuracy for each in records if isinstance(each, CheckpointRecord)]
    assert accuracies[-1] > 0.9 > accuracies[0]


def test_a_checkpoint_is_the_network_as_trained_up_to_there(config: RunConfig, data: Data, uninterrupted: Runs) -> None:
    """But for its batch-norm statistics, which are measured on more images than an epoch's."""
    zoo, digests, records = uninterrupted(config)
    epochs = {record.epoch: record for record in records if isinstance(record, EpochRecord)}
    saved = [record for record in records if isinstance(record, CheckpointRecord)]
    assert [record.digest for record in saved] == list(digests)
    for record in saved:
        epoch = epochs[record.epoch]
        assert record.params == epoch.params
        checkpoint = load_checkpoint(Directory(zoo).path(record.digest))
        metrics = checkpoint.descriptor.metrics
        measured = evaluate(module_of(checkpoint), data.validation, data.preprocessing, len(data.classes))
        assert metrics.validation == measured
        assert metrics.validation.accuracy == record.val_accuracy
        assert metrics.test is not None
        assert metrics.test.accuracy == record.test_accuracy
    grown = [epochs[epoch].params for epoch in range(1, 7)]
    assert grown == sorted(grown)
    assert len(set(grown)) == 3


def test_the_log_holds_what_was_observed(config: RunConfig, uninterrupted: Runs) -> None:
    zoo, digests, records = uninterrupted(config)
    log = log_of(zoo)
    assert [entry["event"] for entry in log] == [record.event for record in records]
    assert [entry["epoch"] for entry in log if entry["event"] == "epoch"] == [1, 2, 3, 4, 5, 6]
    decisions = [record for record in records if isinstance(record, DecisionRecord)]
    assert [record.epoch for record in decisions] == [2, 4]
    assert all({score.change for score in record.candidates} >= set(record.chosen) for record in decisions)
    assert [len(record.chosen) for record in decisions] == [1, 1]
    assert log[-1]["checkpoints"] == list(digests)


def test_nothing_grows_at_chance(tmp_path: Path, tiny_run: RunConfig, write_images: Any) -> None:
    """Classes that nothing tells apart; the run says so when it looks, and of its checkpoint at the end."""
    bars = load(str(write_images(tmp_path / "bars", {"train": 40, "test": 8}, classes=("a", "b"))))

    def noise(split: Split) -> Split:
        random = torch.Generator().manual_seed(len(split))
        return Split(torch.randint(0, 256, split.images.shape, generator=random, dtype=torch.uint8), split.labels)

    data = replace(bars, train=noise(bars.train), validation=noise(bars.validation), test=noise(bars.test))
    records: list[Record] = []
    config = replace(tiny_run, chance_errors=RunConfig.chance_errors)
    digests = run(config, data, tmp_path / "zoo", observe=records.append)
    assert len(digests) == 1
    looks = [record for record in records if isinstance(record, ChanceRecord)]
    assert [record.epoch for record in looks] == [2, 3, 4, 5]
    assert all(record.chance == 0.5 for record in looks)
    assert not any(isinstance(record, DecisionRecord) for record in records)
    finished = records[-1]
    assert isinstance(finished, FinishedRecord)
    assert finished.at_chance == digests
    output = io.StringIO()
    display = Display(Console(file=output, width=200))
    for record in records:
        display(record)
    text = output.getvalue()
    assert text.count("is no better than chance (0.500): nothing grows yet") == 1
    assert "warning: 1 of 1 checkpoints are no better than chance on validation images" in text


def test_a_finished_run_whose_checkpoints_are_gone_is_resumed(tmp_path: Path, tiny_run: RunConfig, data: Data) -> None:
    config = replace(tiny_run, epochs=1)
    digests = run(config, data, tmp_path)
    Directory(tmp_path).path(digests[0]).unlink()
    assert run(config, data, tmp_path, resume=True) == digests


def test_growth_waits_for_the_cooldown(tiny_run: RunConfig, uninterrupted: Runs) -> None:
    expansion = replace(tiny_run.recipe, cooldown_epochs=3)
    _, _, records = uninterrupted(replace(tiny_run, epochs=7, recipe=expansion))
    assert [record.epoch for record in records if isinstance(record, DecisionRecord)] == [3, 6]


def test_a_run_that_never_grows_saves_one_checkpoint(tiny_run: RunConfig, uninterrupted: Runs) -> None:
    expansion = replace(tiny_run.recipe, rule=RatioRule(tau=1e6))
    zoo, digests, records = uninterrupted(replace(tiny_run, recipe=expansion))
    assert files(zoo) == set(digests)
    assert len(digests) == 1
    # It asks again after every epoch once the first cooldown is over, but not after the last.
    assert [record.epoch for record in records if isinstance(record, DecisionRecord)] == [2, 3, 4, 5]


def test_cost_counts_training_and_scoring(tiny_run: RunConfig, uninterrupted: Runs) -> None:
    zoo, digests, records = uninterrupted(tiny_run)
    costs = [load_checkpoint(Directory(zoo).path(digest)).descriptor.cost for digest in digests]
    assert [cost.epochs for cost in costs] == [2, 4, 6]
    assert [cost.device for cost in costs] == ["cpu, 1 threads"] * 3
    times = {
        epoch: sum(
            record.seconds
            for record in records
            if (isinstance(record, EpochRecord) and record.epoch <= epoch)
            or (isinstance(record, DecisionRecord) and record.epoch <= epoch)
        )
        for epoch in (2, 4, 6)
    }
    # Measuring batch-norm statistics for the checkpoints takes time too, and so does expanding, after the first two.
    assert all(0 < cost.device_seconds - times[cost.epochs] < 2 for cost in costs)
    flops = [cost.training_flops for cost in costs]
    assert flops == sorted(set(flops))


def test_seeds_differ_and_repeat(tmp_path: Path, tiny_run: RunConfig, data: Data) -> None:
    config = replace(tiny_run, epochs=3)
    first, again, other = (
        story(tmp_path / name, run(replace(config, seed=seed), data, tmp_path / name))
        for name, seed in [("first", 0), ("again", 0), ("other", 1)]
    )
    assert first == again
    assert first[2] != other[2]


def test_several_runs_share_a_zoo(tmp_path: Path, tiny_run: RunConfig, data: Data) -> None:
    config = replace(tiny_run, epochs=3)
    digests = [digest for seed in (0, 1) for digest in run(replace(config, seed=seed), data, tmp_path)]
    assert files(tmp_path) == set(digests)
    assert len(set(digests)) == 4
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"bars-tiny-s0", "bars-tiny-s1"}


def test_images_too_small_for_the_blocks(tmp_path: Path, tiny_run: RunConfig, write_images: Any) -> None:
    data = load(str(write_images(tmp_path / "bars", {"train": 5, "test": 2}, size=(6, 30))))
    config = replace(tiny_run, start=replace(tiny_run.start, num_blocks=3))
    with pytest.raises(RunError, match=r"no network for 3 classes and images of 6×30: .*2×2.*--image-size"):
        run(config, data, tmp_path)


def test_images_too_large_for_a_network(tmp_path: Path, ladder_run: RunConfig, write_images: Any) -> None:
    found = load(str(write_images(tmp_path / "bars", {"train": 2, "test": 1})))
    data = replace(found, train=Split(torch.zeros(len(found.train), 1, 4, 4100, dtype=torch.uint8), found.train.labels))
    with pytest.raises(RunError, match=r"images of 4×4100: .*less than or equal to 4096; --image-size"):
        run(ladder_run, data, tmp_path)


def test_a_run_that_diverges_stops(tmp_path: Path, tiny_run: RunConfig, data: Data) -> None:
    config = replace(tiny_run, learning_rate=1e25)
    with pytest.raises(
        RunError, match=r"run tiny diverged: the loss of epoch 1 is (nan|inf) at a learning rate of 1e\+25"
    ):
        run(config, data, tmp_path)
    assert not files(tmp_path)


# --- interruptions --------------------------------------------------------------------------------------


def test_a_run_interrupted_anywhere_goes_on_exactly(
    tmp_path: Path, tiny_run: RunConfig, data: Data, uninterrupted: Runs, interrupted_at: Interrupted
) -> None:
    zoo, digests, records = uninterrupted(tiny_run)
    expected = story(zoo, digests)
    # Each kind of record, and the last of all; the next test stops at many more.
    for at in (1, 2, 3, 4, len(records) - 1, len(records)):
        zoo = tmp_path / f"interrupted at {at}"
        with pytest.raises(KeyboardInterrupt):
            run(tiny_run, data, zoo, observe=interrupted_at(at))
        resumed = run(tiny_run, data, zoo, resume=True)
        assert story(zoo, resumed) == expected, f"interrupted at {records[at - 1]}"
        assert files(zoo) == set(resumed)


def test_a_run_interrupted_again_and_again_goes_on_exactly(
    tmp_path: Path, config: RunConfig, data: Data, uninterrupted: Runs, interrupted_at: Interrupted
) -> None:
    zoo, digests, _ = uninterrupted(config)
    expected = story(zoo, digests)
    zoo = tmp_path / "interrupted"
    chance = random.Random(3)
    interruptions = 0
    while True:
        try:
            resumed = run(config, data, zoo, resume=True, observe=interrupted_at(chance.randint(1, 5)))
        except KeyboardInterrupt:
            interruptions += 1
            continue
        break
    assert interruptions >= 3
    assert story(zoo, resumed) == expected
    assert files(zoo) == set(resumed)


FORK_AND_KILL = """
import os, random, signal, sys, time, torch
from pathlib import Path
from trainer.data.datasets import load
from trainer.grow import grow
from trainer.recipes.overrides import Overrides
from trainer.recipes.runs import paper

torch.set_num_threads(1)
source, zoo, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
config = Overrides(epochs=22, tau=0.0).of(paper())
data = load(source)
chance = random.Random(4)
for attempt in range(kills + 1):
    child = os.fork()
    if child == 0:
        grow(config, data, zoo, torch.device("cpu"), resume=True, observe=lambda record: None)
        os._exit(0)
    if attempt < kills:
        time.sleep(chance.uniform(0, 0.2))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status))
"""


Growing = tuple[Path, tuple[Any, ...]]


@pytest.fixture(scope="module")
def paper_story(tmp_path_factory: pytest.TempPathFactory, write_images: Any) -> Growing:
    """Images, and what the paper's run with τ = 0 makes of them in this process, without interruption."""
    root = tmp_path_factory.mktemp("paper")
    images, zoo = write_images(root / "bars", {"train": 30, "test": 8}), root / "zoo"
    torch.set_num_threads(1)
    return images, story(zoo, run(Overrides(epochs=22, tau=0.0).of(paper()), load(str(images)), zoo))


def test_a_run_killed_at_any_moment_goes_on_exactly(tmp_path: Path, paper_story: Growing) -> None:
    images, expected = paper_story
    zoo = tmp_path / "killed"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", FORK_AND_KILL, images, zoo, "15"], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    ends = result.stdout.split()
    assert ends[-1] == "0", result.stderr
    assert ends.count("-9") >= 5
    check_after_kills(zoo, expected)


def check_after_kills(zoo: Path, expected: tuple[Any, ...]) -> None:
    digests = tuple(log_of(zoo)[-1]["checkpoints"])
    assert len(digests) == 3
    assert story(zoo, digests) == expected
    assert files(zoo) == set(digests)
    assert [entry["epoch"] for entry in log_of(zoo) if entry["event"] == "epoch"] == list(range(1, 23))
    [directory] = (zoo / "runs").iterdir()
    assert {path.name for path in directory.iterdir()} == {"data.json", "log.jsonl", "state.pt"}


def test_the_command_killed_at_random_moments_goes_on_exactly(tmp_path: Path, paper_story: Growing) -> None:
    images, expected = paper_story
    zoo = tmp_path / "killed"
    log = zoo / "runs" / "bars-paper-s0" / "log.jsonl"
    words = [Path(sys.executable).with_name("zoo-train"), "paper", "--data", images, "--zoo", zoo, "--epochs", "22"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    chance = random.Random(5)
    for _ in range(2):
        length = log.stat().st_size if log.exists() else 0
        process = subprocess.Popen(
            [*words, "--tau", "0", "--resume"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        while process.poll() is None and (not log.exists() or log.stat().st_size <= length):
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        assert process.communicate()[0] == b""
        assert process.returncode == -signal.SIGKILL
        files(zoo)
    result = subprocess.run([*words, "--tau", "0", "--resume"], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == log_of(zoo)[-1]["checkpoints"]
    check_after_kills(zoo, expected)


# --- a ladder of sizes, annealed branches ---------------------------------------------------------------


def epochs_of(records: list[Record], *, branches: bool) -> list[EpochRecord]:
    return [record for record in records if isinstance(record, EpochRecord) and (record.branch_epoch > 0) is branches]


def test_a_ladder_is_climbed_size_by_size(ladder_run: RunConfig, uninterrupted: Runs) -> None:
    zoo, digests, records = uninterrupted(ladder_run)
    assert files(zoo) == set(digests)
    checkpoints = [load_checkpoint(Directory(zoo).path(digest)).descriptor for digest in digests]
    params = [num_params(each.architecture.graph()) for each in checkpoints]
    assert len(params) == 3
    assert params[0] == 203
    assert 0.92 * 500 <= params[1] <= 500
    assert 0.92 * 1000 <= params[2] <= 1000
    assert [each.lineage.epoch for each in checkpoints] == [2, 4, 6]
    assert [each.lineage.parent for each in checkpoints] == [None, *digests[:-1]]
    decisions = [record for record in records if isinstance(record, DecisionRecord)]
    assert [(record.epoch, bool(record.chosen)) for record in decisions] == [
        (1, False),
        (2, True),
        (3, False),
        (4, True),
    ]
    steps = checkpoints[-1].lineage.expansions
    assert len(steps) == sum(len(record.chosen) for record in decisions)
    for descriptor in checkpoints:
        assert descriptor.lineage.expansions == tuple(step for step in steps if step.epoch < descriptor.lineage.epoch)
    for before, after in pairwise(steps):
        assert before.params_after == after.params_before
    assert (steps[0].params_before, steps[-1].params_after) == (params[0], params[-1])
    assert all(step.exact and step.score > 0 and step.threshold == 0 for step in steps)


def test_a_checkpoint_says_how_long_it_was_annealed(ladder_run: RunConfig, uninterrupted: Runs) -> None:
    """As long as its trunk had been of this size: two epochs each."""
    zoo, digests, records = uninterrupted(ladder_run)
    checkpoints = [load_checkpoint(Directory(zoo).path(digest)).descriptor for digest in digests]
    assert [each.lineage.anneal_epochs for each in checkpoints] == [2, 2, 2]
    assert [each.cost.epochs for each in checkpoints] == [4, 8, 12]
    assert [record.epoch for record in epochs_of(records, branches=False)] == [1, 2, 3, 4, 5, 6]
    branches = epochs_of(records, branches=True)
    assert [(record.epoch, record.branch_epoch) for record in branches] == [(e, b) for e in (2, 4, 6) for b in (1, 2)]
    trunk = {record.epoch: record for record in epochs_of(records, branches=False)}
    for record in branches:
        assert 0 < record.learning_rate < trunk[record.epoch].learning_rate
        assert record.params == trunk[record.epoch].params
    saved = [record for record in records if isinstance(record, CheckpointRecord)]
    assert [record.val_accuracy for record in saved] == [record.val_accuracy for record in branches[1::2]]
    assert [each.metrics.validation.accuracy for each in checkpoints] == [record.val_accuracy for record in saved]
    flops = [each.cost.training_flops for each in checkpoints]
    assert flops == sorted(set(flops))


def test_candidates_are_looked_at_a_few_times_for_each_size(ladder_run: RunConfig, uninterrupted: Runs) -> None:
    """The first time when half of the size's time is over; where nothing can be added, again and again."""
    assert isinstance(ladder_run.recipe, Ladder)
    never = replace(ladder_run.recipe, sizes=(222, 223))
    _, _, records = uninterrupted(replace(ladder_run, recipe=never, epochs=36, anneal_share=0.0))
    decided = [record.epoch for record in records if isinstance(record, DecisionRecord)]
    assert decided == [6, 9, 12, 15, 18, 21, 24, 27, 30, 33]


def test_what_a_branch_reached_is_in_its_file(ladder_run: RunConfig, uninterrupted: Runs, images: Path) -> None:
    """Its test accuracy, measured again without torch and without the trainer."""
    config = replace(ladder_run, epochs=36, learning_rate=3e-2, horizontal_flip=False, max_shift=0)
    zoo, digests, records = uninterrupted(config)
    for digest in digests:
        checkpoint = load_checkpoint(Directory(zoo).path(digest))
        predictor = Predictor(checkpoint)
        paths = sorted((images / "test").glob("*/*.png"))
        scores = predictor.probabilities(predictor.decode([path.read_bytes() for path in paths]))
        hits = [best.label == path.parent.name for path, [best] in zip(paths, predictor.top_k(scores, 1), strict=True)]
        assert checkpoint.descriptor.metrics.test is not None
        assert checkpoint.descriptor.metrics.test.accuracy == sum(hits) / 24
    saved = [record.test_accuracy for record in records if isinstance(record, CheckpointRecord)]
    assert saved[-1] > 0.9


def test_a_grown_network_computes_what_the_one_it_goes_on_from_did(
    tmp_path: Path, ladder_run: RunConfig, data: Data
) -> None:
    """After a branch that is its checkpoint."""
    config = ladder_run

    def stop_after_growth(record: Record) -> None:
        if isinstance(record, EpochRecord) and record.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, data, tmp_path, observe=stop_after_growth)
    [state] = tmp_path.glob("runs/*/state.pt")
    saved = torch.load(state, weights_only=True)
    grown = GraphModule(BlueprintArchitecture.model_validate_json(saved["architecture"]).graph())
    grown.load_state_dict(saved["module"])
    checkpoint = load_checkpoint(Directory(tmp_path).path(saved["checkpoints"][0]))
    annealed = module_of(checkpoint)
    images = normalize(data.test.images, data.preprocessing)
    with torch.no_grad():
        difference = (grown.eval()(images) - annealed(images)).abs().max()
    assert grown.graph != annealed.graph
    assert difference.item() < 1e-4


def test_what_was_shrunk_and_perturbed_is_not_called_exact(ladder_run: RunConfig, uninterrupted: Runs) -> None:
    assert isinstance(ladder_run.recipe, Ladder)
    config = replace(ladder_run, recipe=replace(ladder_run.recipe, shrink=0.5))
    zoo, digests, _ = uninterrupted(config)
    steps = load_checkpoint(Directory(zoo).path(digests[-1])).descriptor.lineage.expansions
    assert steps
    assert not any(step.exact for step in steps)


def test_a_run_that_goes_on_from_its_branches_decides_before_them(ladder_run: RunConfig, uninterrupted: Runs) -> None:
    """On the trunk; a converged network's scores would be noise."""
    zoo, digests, records = uninterrupted(ladder_run)
    told = [
        (record.event, record.epoch, bool(getattr(record, "chosen", ())))
        for record in records
        if not isinstance(record, EpochRecord) or record.branch_epoch == 1
    ]
    assert told == [
        ("decision", 1, False),
        ("decision", 2, True),
        ("epoch", 2, False),
        ("checkpoint", 2, False),
        ("decision", 3, False),
        ("decision", 4, True),
        ("epoch", 4, False),
        ("checkpoint", 4, False),
        ("epoch", 6, False),
        ("checkpoint", 6, False),
        ("finished", 6, False),
    ]
    chosen = [change for record in records if isinstance(record, DecisionRecord) for change in record.chosen]
    lineage = load_checkpoint(Directory(zoo).path(digests[-1])).descriptor.lineage
    assert len(lineage.expansions) == len(chosen) > 0
    assert len(epochs_of(records, branches=True)) == 6


def test_a_ladder_interrupted_anywhere_goes_on_exactly(
    tmp_path: Path,
    ladder_run: RunConfig,
    data: Data,
    uninterrupted: Runs,
    interrupted_at: Interrupted,
) -> None:
    zoo, digests, records = uninterrupted(ladder_run)
    expected = story(zoo, digests)
    # Up to what follows the first climb, and the end.
    kinds = [type(record) for record in records]
    first_climb = kinds.index(CheckpointRecord)
    for at in (*range(first_climb - 2, first_climb + 4), *range(len(records) - 3, len(records) + 1)):
        zoo = tmp_path / f"interrupted at {at}"
        with pytest.raises(KeyboardInterrupt):
            run(ladder_run, data, zoo, observe=interrupted_at(at))
        resumed = run(ladder_run, data, zoo, resume=True)
        assert story(zoo, resumed) == expected, f"interrupted at {records[at - 1]}"
        assert files(zoo) == set(resumed), f"interrupted at {records[at - 1]}"


def test_a_branch_goes_on_where_it_was_interrupted(
    tmp_path: Path,
    ladder_run: RunConfig,
    data: Data,
    interrupted_at: Interrupted,
) -> None:
    config = replace(ladder_run, anneal_share=2.0)
    third_epoch_of_branch = 2 + 2 + 3  # after as many epochs of the trunk, and as many decisions
    with pytest.raises(KeyboardInterrupt):
        run(config, data, tmp_path, observe=interrupted_at(third_epoch_of_branch))
    records: list[Record] = []
    run(config, data, tmp_path, resume=True, observe=records.append)
    assert epochs_of(records, branches=True)[0].branch_epoch == 3


def test_a_finished_ladder_resumed_changes_nothing(ladder_run: RunConfig, data: Data, uninterrupted: Runs) -> None:
    zoo, digests, _ = uninterrupted(ladder_run)
    before = files(zoo)
    assert run(ladder_run, data, zoo, resume=True) == digests
    assert files(zoo) == before


@pytest.mark.parametrize("anneal_share", [0.0, 6.0])
def test_a_run_ends_when_its_seconds_are_spent(
    tmp_path: Path, ladder_run: RunConfig, data: Data, anneal_share: float
) -> None:
    """With a checkpoint, as at its last epoch; with more seconds it goes on from there."""
    limits = Limits(max_seconds=1.0)
    config = replace(ladder_run, epochs=100_000, anneal_share=anneal_share, limits=limits)
    records: list[Record] = []
    digests = run(config, data, tmp_path, observe=records.append)
    last = records[-1]
    assert isinstance(last, FinishedRecord)
    assert 0 < last.epoch < 10_000
    assert files(tmp_path) == set(digests) == set(last.checkpoints)
    assert load_checkpoint(Directory(tmp_path).path(digests[-1])).descriptor.lineage.epoch == last.epoch
    # An epoch takes a few hundredths of a second; a machine with other work may take ten times as long.
    assert last.device_seconds < 3
    if anneal_share:  # of seven epochs six are a branch's, also of those that were left at the end
        assert sum(isinstance(record, EpochRecord) for record in records) == 7 * last.epoch
    log = log_of(tmp_path)
    # Time for as many epochs again, however slow they are.
    more = replace(config, limits=Limits(max_seconds=3 * last.device_seconds))
    longer: list[Record] = []
    run(more, data, tmp_path, resume=True, observe=longer.append)
    assert epochs_of(longer, branches=False)[0].epoch == last.epoch + 1
    assert isinstance(longer[-1], FinishedRecord)
    assert log_of(tmp_path)[0] == log[0]


@pytest.mark.parametrize("max_params", [203, 260, 460])
def test_a_run_stays_below_its_most_parameters(ladder_run: RunConfig, uninterrupted: Runs, max_params: int) -> None:
    config = Overrides(limits=Limits(max_params=max_params)).of(ladder_run)
    _, _, records = uninterrupted(config)
    params = [record.params for record in records if isinstance(record, CheckpointRecord)]
    assert max(params) <= max_params
    assert (len(params) > 1) is (max_params > 203)


@pytest.mark.parametrize("limits", [Limits(max_params=202), Limits(max_macs=100)])
def test_a_run_that_begins_above_its_most(tmp_path: Path, ladder_run: RunConfig, data: Data, limits: Limits) -> None:
    with pytest.raises(RunError, match=r"run ladder starts with 203 parameters and .* allow as many"):
        run(Overrides(limits=limits).of(ladder_run), data, tmp_path)
    assert not files(tmp_path)


def test_a_run_stays_below_its_most_multiply_accumulates(ladder_run: RunConfig, uninterrupted: Runs) -> None:
    _, _, records = uninterrupted(replace(ladder_run, limits=Limits(max_macs=12_000)))
    macs = [record.macs for record in records if isinstance(record, CheckpointRecord)]
    assert macs[0] < macs[-1] <= 12_000


# --- starting over, going on ----------------------------------------------------------------------------


def test_a_finished_run_resumed_changes_nothing(config: RunConfig, data: Data, uninterrupted: Runs) -> None:
    zoo, digests, _ = uninterrupted(config)
    before = {path: path.read_bytes() for path in zoo.rglob("*") if path.is_file()}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert run(config, data, zoo, resume=True) == digests
        assert {path: path.read_bytes() for path in zoo.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("epochs", [3, 4])
def test_a_finished_run_can_be_made_longer(
    tmp_path: Path, tiny_run: RunConfig, data: Data, uninterrupted: Runs, epochs: int
) -> None:
    """It is then as if it had been longer from the start; what the shorter run ended with stays in the zoo."""
    zoo, digests, _ = uninterrupted(tiny_run)
    expected = story(zoo, digests)
    zoo = tmp_path / "longer"
    shorter = run(replace(tiny_run, epochs=epochs), data, zoo)
    longer = run(tiny_run, data, zoo, resume=True)
    found = story(zoo, longer)
    assert found[2] == expected[2]
    # Measuring the statistics of the shorter run's last checkpoint is paid for.
    log, descriptors = (without_times(part, {"training_flops"}) for part in found[:2])
    assert descriptors == without_times(expected[1], {"training_flops"})
    log = [{**entry, "epochs": 6} if "epochs" in entry else entry for entry in log]
    assert log == without_times(expected[0], {"training_flops"})
    assert files(zoo) == {*shorter, *longer}
    # After epoch 4 the network would have grown: the end of the shorter run is a checkpoint of the longer one.
    assert len(files(zoo)) == {3: 4, 4: 3}[epochs]


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_run_that_goes_on_from_its_branches_goes_on_from_its_last_one(
    tmp_path: Path, ladder_run: RunConfig, data: Data, interrupted: bool, interrupted_at: Interrupted
) -> None:
    """If it is made longer: no epoch is annealed twice, and the next checkpoint knows its parent."""
    config = replace(ladder_run, anneal_share=2.0)
    shorter = replace(config, epochs=3)
    observed: list[Record] = []
    run(shorter, data, tmp_path / "whole", observe=observed.append)
    zoo = tmp_path / "zoo"
    if interrupted:
        in_last_branch = len(observed) - 2  # in its second epoch; a checkpoint and the end follow
        with pytest.raises(KeyboardInterrupt):
            run(shorter, data, zoo, observe=interrupted_at(in_last_branch))
    else:
        run(shorter, data, zoo)
    records: list[Record] = []
    digests = run(config, data, zoo, resume=True, observe=records.append)
    assert files(zoo) == set(digests)
    lineages = [load_checkpoint(Directory(zoo).path(digest)).descriptor.lineage for digest in digests]
    assert [lineage.parent for lineage in lineages] == [None, *digests[:-1]]
    epochs = [lineage.epoch for lineage in lineages]
    assert 3 in epochs
    assert [lineage.anneal_epochs for lineage in lineages] == [2 * (b - a) for a, b in pairwise([0, *epochs])]
    # What follows a branch is decided on the trunk.
    assert not any(isinstance(record, DecisionRecord) and record.epoch == 3 for record in records)


def test_starting_over_is_refused(tiny_run: RunConfig, data: Data, uninterrupted: Runs) -> None:
    zoo, _, _ = uninterrupted(tiny_run)
    before = {path: path.read_bytes() for path in zoo.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="bars-tiny-s0 holds this run already: --resume goes on with it"):
        run(tiny_run, data, zoo)
    assert {path: path.read_bytes() for path in zoo.rglob("*") if path.is_file()} == before


def test_resuming_with_other_settings_is_refused(tiny_run: RunConfig, data: Data, uninterrupted: Runs) -> None:
    zoo, _, _ = uninterrupted(tiny_run)
    before = {path: path.read_bytes() for path in zoo.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=r"was started with learning_rate = 0\.002, not 0\.1: resume with the same"):
        run(replace(tiny_run, learning_rate=0.1), data, zoo, resume=True)
    assert {path: path.read_bytes() for path in zoo.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ({"train": 30, "test": 8}, {"seed": 1}, "started with checksum of the images = [0-9a-f]{8}, not [0-9a-f]{8}:"),
        ({"train": 31, "test": 8}, {}, "started with num_train = 81, not 84; checksum of the images"),
        ({"train": 30, "test": 8}, {"size": (8, 9)}, r"image shape = \[1, 8, 8\], not \[1, 8, 9\]"),
        ({"train": 30, "test": 8}, {"classes": ("l", "m", "r")}, r"classes = \['left', .*not \['l', 'm', 'r'\]"),
    ],
)
def test_resuming_on_other_images_is_refused(
    tmp_path: Path,
    tiny_run: RunConfig,
    uninterrupted: Runs,
    write_images: Any,
    counts: dict[str, int],
    options: dict[str, Any],
    message: str,
) -> None:
    zoo, _, _ = uninterrupted(tiny_run)
    other = load(str(write_images(tmp_path / "other" / "bars", counts, **options)))
    with pytest.raises(RunError, match=message):
        run(tiny_run, other, zoo, resume=True)


def test_another_seed_is_another_run(tmp_path: Path, tiny_run: RunConfig, data: Data, uninterrupted: Runs) -> None:
    zoo, digests, _ = uninterrupted(tiny_run)
    other = replace(tiny_run, seed=1)
    resumed = run(other, data, zoo, resume=True)
    assert not set(resumed) & set(digests)
    assert run_directory(zoo, other, "bars").is_dir()


def test_two_processes_do_not_work_on_one_run(tmp_path: Path, tiny_run: RunConfig, data: Data) -> None:
    refused = []

    def try_to_join(record: Record) -> None:
        with pytest.raises(RunError, match="bars-tiny-s0: another process is at work on this run"):
            run(tiny_run, data, tmp_path, resume=True)
        refused.append(record)

    digests = run(tiny_run, data, tmp_path, observe=try_to_join)
    assert len(refused) == len(log_of(tmp_path))
    with run_directory(tmp_path, tiny_run, "bars").joinpath("log.jsonl").open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process"):
            run(tiny_run, data, tmp_path, resume=True)
    assert run(tiny_run, data, tmp_path, resume=True) == digests


def test_a_lost_log_is_begun_anew(tmp_path: Path, tiny_run: RunConfig, data: Data) -> None:
    run(replace(tiny_run, epochs=3), data, tmp_path)
    run_directory(tmp_path, tiny_run, "bars").joinpath("log.jsonl").unlink()
    run(tiny_run, data, tmp_path, resume=True)
    assert [entry["epoch"] for entry in log_of(tmp_path) if entry["event"] == "epoch"] == [4, 5, 6]


# --- what the command line may change -------------------------------------------------------------------


def test_overrides() -> None:
    config = Overrides(epochs=7, seed=3, tau=1.25).of(paper())
    assert (config.epochs, config.seed, config.recipe.rule) == (7, 3, RatioRule(tau=1.25))
    config = Overrides(threshold=0.5).of(digits())
    assert (config.epochs, config.recipe.rule.threshold) == (digits().epochs, 0.5)


def test_overrides_of_another_rule_are_refused() -> None:
    with pytest.raises(RunError, match="run digits has no ratio rule, so no --tau; it has --threshold"):
        Overrides(tau=2.0).of(digits())
    with pytest.raises(RunError, match="run paper has no gain rule, so no --threshold; it has --tau"):
        Overrides(threshold=0.1).of(paper())
