"""Elastic runs: levels that lie one within the next, trained together or one around the other, in one file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from trainer.commands.main import app
from trainer.config import BlueprintStart, Cutout, Mixup, RunConfig
from trainer.data.datasets import Data, load
from trainer.distil.adapt import begun_with, sources
from trainer.distil.distil import distil, pair
from trainer.distil.prune import prune
from trainer.elastic.elastic import train_elastic
from trainer.elastic.levels import Levels, budgets_of, levels_of
from trainer.elastic.module import ElasticModule
from trainer.elastic.run import Elastic
from trainer.elastic.start import named, start_of
from trainer.elastic.step import Block, ElasticStep
from trainer.journal.origin import Origin, read, read_from
from trainer.journal.records import CheckpointRecord, EpochRecord, Record
from trainer.loop import optim
from trainer.loop.augment import augmentation_of
from trainer.loop.epoch import WeightAverage, train_epoch
from trainer.recipes.names import run_named
from trainer.recipes.overrides import Overrides
from trainer.recipes.runs import grow
from zoo.checkpoint.elastic import ElasticFile, extract
from zoo.checkpoint.file import Checkpoint, decode, digest_of
from zoo.checkpoint.nesting import shared_places
from zoo.errors import RunError
from zoo.network.cost import num_macs, num_params
from zoo.network.families import blueprint, secnn
from zoo.network.families.family import Architecture
from zoo.network.levels import NetworkBudget
from zoo.runtime.module import GraphModule, module_of
from zoo.runtime.predictor import Predictor
from zoo.store.directory import Directory

CPU = torch.device("cpu")
RandomModule = Callable[[Architecture, int], GraphModule]


def blueprints(*stages: tuple[tuple[int, ...], tuple[int, ...]]) -> tuple[Architecture, ...]:
    return tuple(
        blueprint.start(input_shape=(1, 8, 8), num_classes=3, channels=channels, num_layers=layers)
        for channels, layers in stages
    )


# The second is deeper than the first, the third wider and deeper than the second.
LEVELS = blueprints(((3, 4), (1, 1)), ((5, 4), (1, 2)), ((5, 8), (2, 2)))


def secnns() -> tuple[Architecture, ...]:
    """Of which a concatenation and a flattening move the shared columns."""
    small = secnn.start(input_shape=(1, 8, 8), num_classes=3, channels=3, num_blocks=2, bottleneck_channels=2)
    return small, small.widened(0, 2), small.widened(0, 2).widened(1, 1).deepened(0, "residual", split_slope=True)


@pytest.fixture
def config() -> RunConfig:
    """With all that could move a weight that should stay: momentum, weight decay, a penalty."""
    tiny = replace(grow(), start=BlueprintStart(), epochs=2, batch_size=16, batch_share=None, learning_rate=1e-2)
    tiny = replace(tiny, weight_decay=0.1, l1=1e-4, max_shift=1, compile=False, mixed_precision=False, cpu_threads=1)
    return named(tiny, freeze=False)


class Run:
    """An elastic run and what it told."""

    def __init__(self, config: RunConfig, data: Data, zoo: Path, **options: Any) -> None:
        self.records: list[Record] = []
        levels = options.pop("levels", Levels(LEVELS))
        options = {"resume": False, "observe": self.records.append, **options}
        self.made: Elastic = train_elastic(config, levels, data, zoo, CPU, **options)
        self.file = Directory(zoo).path(self.made.file).read_bytes()
        self.levels: list[Checkpoint] = [decode(extract(self.file, level)) for level in range(len(self.made.levels))]


def assert_equal(run: Run, other: Run) -> None:
    """Their levels' tensors are, bit for bit, and what they say of themselves but for times."""
    for mine, theirs in zip(run.levels, other.levels, strict=True):
        assert mine.descriptor.metrics == theirs.descriptor.metrics
        assert mine.descriptor.lineage.epoch == theirs.descriptor.lineage.epoch
        assert mine.descriptor.cost.training_flops == theirs.descriptor.cost.training_flops
        for name, tensor in mine.tensors.items():
            assert np.array_equal(tensor, theirs.tensors[name]), name


# --- the module -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("architectures", [LEVELS, secnns()], ids=["blueprint", "secnn"])
def test_a_level_is_the_network_that_is_extracted(
    architectures: tuple[Architecture, ...], random_module: RandomModule
) -> None:
    module = ElasticModule([one.graph() for one in architectures])
    module.load_levels(random_module(architectures[-1], 0).state_dict())
    images = torch.randn((8, 1, 8, 8))
    logits = module.eval()(images)
    for level in range(3):
        torch.testing.assert_close(module.extracted(level)(images), logits[level], rtol=1e-5, atol=1e-5)
    for small, large in pairwise(logits):
        assert (small - large).abs().max() > 0.01


def test_levels_share_all_but_their_batch_norms() -> None:
    module = ElasticModule([one.graph() for one in LEVELS])
    own = [name for name, _ in module.levels.named_parameters()]
    assert own
    assert all("norm" in name for name in own)
    module(torch.randn((8, 1, 8, 8)))[0].sum().backward()
    gradient = module.get_parameter("head.output.weight").grad
    assert gradient is not None
    assert gradient[:, :4].abs().min() > 0, "the smallest level uses these"
    assert gradient[:, 4:].abs().max() == 0, "and no others"


def test_averages_are_of_every_levels_batch_norms(config: RunConfig, data: Data) -> None:
    module = ElasticModule([one.graph() for one in LEVELS])
    step = ElasticStep(module, optim.make(module, config), config, data.preprocessing)
    average = WeightAverage(step, 0.5)
    before = deepcopy(average.module.state_dict())
    train_epoch(step, data.train, torch.Generator(), average=average)
    after = average.module.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    statistics = [name for name in before if name.endswith(("running_mean", "running_var", "norm.weight"))]
    assert sum(name.startswith("levels.0.") for name in statistics) > 5
    assert moved.issuperset(statistics)


def test_each_level_sees_what_suits_its_size(config: RunConfig, data: Data) -> None:
    """Whole images below the sizes from which a part is black, and from which two are mixed; where the next larger
    one sees others, it answers for these too, and that trains nothing of it."""
    graphs = [one.graph() for one in LEVELS]
    sizes = [num_params(graph) for graph in graphs]
    config = replace(config, cutout=Cutout(0.5, from_params=sizes[1]), mixup=Mixup(0.5, from_params=sizes[2]))
    module = ElasticModule(graphs)
    step = ElasticStep(module, optim.make(module, config), config, data.preprocessing)
    images, labels = data.train.images[:80:10], data.train.labels[:80:10]
    drawn = augmentation_of(config, sizes[2], (8, 8), 8, torch.Generator().manual_seed(0), CPU)
    views, targets = step.shown(images, labels, drawn, slice(0, 8))
    assert views.shape == (8, 3, *images.shape[1:])
    whole, cut, mixed = views.unbind(1)
    assert torch.equal(whole, replace(drawn, cutout=0.0).of(images, slice(0, 8)))
    assert (cut != whole).any()
    assert torch.equal(torch.where(cut != whole, 0, whole), cut), "black where it differs"
    assert (mixed != cut).any()
    assert torch.equal(targets[:, 0].argmax(1), labels)
    assert ((targets[:, 2] > 0).sum(1) > 1).any()

    logits = module(step.normalized(views))
    assert len(logits) == 5, "three levels, and two that answer for what the one before them sees"
    alone = [ElasticModule(graphs) for _ in range(2)]
    for one in alone:
        one.load_state_dict(module.state_dict())
    torch.testing.assert_close(logits[0], alone[0](step.normalized(whole))[0])
    torch.testing.assert_close(logits[3], alone[0](step.normalized(whole))[1])
    torch.testing.assert_close(logits[4], alone[1](step.normalized(cut))[2])
    gradients = torch.autograd.grad(logits[3:].sum(), tuple(module.parameters()), retain_graph=True, allow_unused=True)
    assert not any(one is not None and one.any() for one in gradients)
    loss, _ = step.objective(logits, targets, None)
    expected = [
        step.loss_of(logits[level], targets[:, level], wanted)
        for level, wanted in enumerate([logits[3], logits[4], None])
    ]
    torch.testing.assert_close(loss, sum(expected, torch.zeros(())) / 3)
    heavy = ElasticStep(module, optim.make(module, config), config, data.preprocessing, largest_weight=4.0)
    loss, _ = heavy.objective(logits, targets, None)
    torch.testing.assert_close(loss, (expected[0] + expected[1] + 4 * expected[2]) / 6)
    same = replace(config, cutout=None, mixup=None)
    views, targets = ElasticStep(module, optim.make(module, same), same, data.preprocessing).shown(
        images, labels, replace(drawn, cutout=0.0, kept=None), slice(0, 8)
    )
    assert views.shape == images.shape
    assert torch.equal(targets, labels)


def test_a_run_whose_levels_see_different_images_pays_for_the_answers(
    config: RunConfig, data: Data, tmp_path: Path
) -> None:
    sizes = [num_params(one.graph()) for one in LEVELS]
    config = replace(config, cutout=Cutout(0.25, from_params=sizes[1]), mixup=Mixup(0.5, from_params=sizes[2]))
    run = Run(config, data, tmp_path)
    alike = Run(replace(config, cutout=None, mixup=None), data, tmp_path / "alike")
    flops = [one.levels[-1].descriptor.cost.training_flops for one in (run, alike)]
    answering = 2 * sum(num_macs(one.graph()) for one in LEVELS[1:]) * config.epochs * 80
    assert len(data.train) == 81, "of which the last is left out: batch norm needs two"
    assert flops[0] - flops[1] == answering


# --- together -------------------------------------------------------------------------------------------


def test_levels_learn_and_differ_and_are_ordinary_checkpoints(tmp_path: Path) -> None:
    """On digits, a few epochs of what `zoo-train digits-elastic` does in thirty."""
    data = load("digits")
    run = named(run_named("digits", Overrides(epochs=5)), freeze=False)
    architectures = tuple(
        blueprint.start(input_shape=(1, 8, 8), num_classes=10, channels=channels, num_layers=layers)
        for channels, layers in (((8, 16), (1, 1)), ((16, 24), (1, 2)))
    )
    done = Run(run, data, tmp_path, levels=Levels(architectures))

    tests = [one.descriptor.metrics.test for one in done.levels]
    assert all(test is not None and test.n == 359 for test in tests)
    assert [test.accuracy > 0.5 for test in tests if test] == [True, True]
    assert [digest_of(extract(done.file, level)) for level in range(2)] == list(done.made.levels)
    images = data.test.images[:16]
    answers = []
    for checkpoint in done.levels:
        mean, std = checkpoint.descriptor.preprocessing.mean[0], checkpoint.descriptor.preprocessing.std[0]
        with torch.no_grad():
            answers.append(module_of(checkpoint)((images.float() / 255 - mean) / std).softmax(1).numpy())
        pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
        scores = Predictor(checkpoint).probabilities(pixels)
        assert np.abs(scores - answers[-1]).max() < 1e-4
    assert np.abs(answers[0] - answers[1]).max() > 0.01, "a switch that does something"
    lineages = [one.descriptor.lineage for one in done.levels]
    assert [lineage.run for lineage in lineages] == ["elastic-digits"] * 2
    assert [lineage.distilled_from for lineage in lineages] == [done.made.levels[1], None]


@pytest.mark.parametrize("freeze", [False, True], ids=["joint", "freeze"])
def test_a_run_that_was_killed_comes_to_the_same_levels(
    freeze: bool, config: RunConfig, data: Data, tmp_path: Path, interrupted_at: Callable[[int], Any]
) -> None:
    """After each record: epochs, checkpoints, the end."""
    whole = Run(config, data, tmp_path / "whole", freeze=freeze)
    zoo = tmp_path / "cut"
    for _ in whole.records:
        # Always at the second record that it gets to: each call brings the run forward by at least one epoch.
        try:
            done = Run(config, data, zoo, freeze=freeze, resume=True, observe=interrupted_at(2))
        except KeyboardInterrupt:
            continue
    done = Run(config, data, zoo, freeze=freeze, resume=True)
    assert_equal(done, whole)
    (log,) = zoo.glob("runs/*/log.jsonl")
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert events == [record.event for record in whole.records]
    assert len(list(Directory(zoo).paths())) == 1


def test_the_epochs_tell_of_every_level(config: RunConfig, data: Data, tmp_path: Path) -> None:
    run = Run(config, data, tmp_path)
    epochs = [record for record in run.records if isinstance(record, EpochRecord)]
    saved = [record for record in run.records if isinstance(record, CheckpointRecord)]
    assert [record.epoch for record in epochs] == [1, 2]
    sizes = [record.params for record in saved]
    assert [level.params for level in epochs[0].levels] == sizes == sorted(sizes)
    assert epochs[0].val_accuracy == epochs[0].levels[-1].val_accuracy
    assert [record.digest for record in saved] == list(run.made.levels)


def test_a_checkpoint_is_where_levels_begin_and_another_teaches_them(
    config: RunConfig, data: Data, tmp_path: Path
) -> None:
    first = Run(config, data, tmp_path / "first")
    path = tmp_path / "largest.safetensors"
    path.write_bytes(extract(first.file, 2))
    origin = read(path)
    # With a learning rate of almost nothing the levels are what they began with.
    still = replace(config, learning_rate=1e-9)
    run = Run(still, data, tmp_path / "second", levels=Levels(LEVELS, origin), teacher=origin)
    lineage = run.levels[-1].descriptor.lineage
    assert lineage.parent == lineage.distilled_from == first.made.levels[-1]
    before, after = (one[-1].descriptor.metrics.validation for one in (first.levels, run.levels))
    assert abs(before.accuracy - after.accuracy) <= 1 / before.n
    assert run.levels[-1].descriptor.cost.epochs == 4
    name = "stages.1.layers.0.pointwise.weight"
    norms = [np.square(one.levels[-1].tensors[name]).sum(axis=(1, 2, 3)) for one in (first, run)]
    np.testing.assert_allclose(np.sort(norms[0]), np.sort(norms[1]), rtol=1e-4)
    unranked = Run(replace(still, seed=1), data, tmp_path / "second", levels=Levels(LEVELS, origin), rank=False)
    np.testing.assert_allclose(unranked.levels[-1].tensors[name], first.levels[-1].tensors[name], atol=1e-5)


def test_a_level_in_a_zoo_may_be_cut_taught_adapted_and_begun_with(
    config: RunConfig, data: Data, tmp_path: Path
) -> None:
    """By the digest that the run printed, though there is no file of that name."""
    done = Run(config, data, tmp_path)
    *_, largest = done.made.levels
    _, origin = start_of(largest[:12], tmp_path, Overrides())
    assert isinstance(origin, Origin)
    assert origin.digest == largest
    licensed = replace(config, distil_epochs=1, license="MIT")
    budget = NetworkBudget(max_params=origin.params - 1)
    cut = read_from(Directory(tmp_path), prune(licensed, data, tmp_path, origin, budget, CPU, [].append))
    assert cut.descriptor.lineage.pruned_from == largest
    assert cut.descriptor.license == "MIT"
    assert {member.digest for member in sources(begun_with(tmp_path, tmp_path), data).members} == {
        *done.made.levels,
        cut.digest,
    }
    _, (student, teacher) = pair(tmp_path, data, done.made.levels[0], largest)
    taught = list(distil(replace(config, distil_epochs=1), data, tmp_path, (student, teacher), CPU, [].append))
    assert all(read_from(Directory(tmp_path), digest).descriptor.lineage.parent == student for digest in taught)


def test_other_settings_do_not_resume(config: RunConfig, data: Data, tmp_path: Path) -> None:
    Run(config, data, tmp_path)
    with pytest.raises(RunError, match="holds this run already: --resume goes on with it"):
        Run(config, data, tmp_path)
    with pytest.raises(RunError, match="was started with freeze = False, not True"):
        Run(config, data, tmp_path, resume=True, freeze=True)
    with pytest.raises(RunError, match="was started with license = None, not 'MIT'"):
        Run(replace(config, license="MIT"), data, tmp_path, resume=True)
    with pytest.raises(RunError, match="was started with levels = "):
        Run(config, data, tmp_path, resume=True, levels=Levels(LEVELS[1:]))


def test_a_run_of_before_a_setting_was_added_goes_on(config: RunConfig, data: Data, tmp_path: Path) -> None:
    made = Run(config, data, tmp_path).made
    [path] = tmp_path.glob("runs/*/state.pt")
    saved = torch.load(path, weights_only=True)
    del saved["settings"]["worth_compiling"]
    torch.save(saved, path)
    assert Run(config, data, tmp_path, resume=True).made == made
    with pytest.raises(RunError, match="worth_compiling"):
        Run(replace(config, worth_compiling=1.0), data, tmp_path, resume=True)


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "killed"])
def test_a_run_is_made_longer(
    ended: bool, config: RunConfig, data: Data, tmp_path: Path, interrupted_at: Callable[[int], Any]
) -> None:
    """Whether it had written its files: the rate goes on as that of a longer run does, and falls to 0."""
    if ended:
        first = Run(config, data, tmp_path)
    else:
        with pytest.raises(KeyboardInterrupt):  # the first of its levels is told
            Run(config, data, tmp_path, observe=interrupted_at(4))
    longer = replace(config, epochs=4)
    run = Run(longer, data, tmp_path, resume=True)
    epochs = [record for record in run.records if isinstance(record, EpochRecord)]
    assert [(record.epoch, record.epochs) for record in epochs] == [(3, 4), (4, 4)]
    assert [record.learning_rate for record in epochs] == pytest.approx([config.learning_rate / 2**n for n in (1, 2)])
    assert all(level.descriptor.lineage.epoch == 4 for level in run.levels)
    assert Run(longer, data, tmp_path, resume=True).made == run.made
    if ended:
        assert {digest for digest, _ in Directory(tmp_path).paths()} == {first.made.file, run.made.file}
    with pytest.raises(RunError, match="cannot end after 3: --epochs 4 or more goes on with it"):
        Run(replace(config, epochs=3), data, tmp_path, resume=True)


def test_levels_around_a_frozen_one_have_as_many_epochs(config: RunConfig, data: Data, tmp_path: Path) -> None:
    Run(config, data, tmp_path, freeze=True)
    with pytest.raises(RunError, match="was frozen after 2 epochs, so larger ones cannot have 3: --epochs 2 goes on"):
        Run(replace(config, epochs=3), data, tmp_path, freeze=True, resume=True)


def test_two_processes_train_as_one(images: Path, tmp_path: Path) -> None:
    """Losses equal up to rounding, one file and one log, and the levels are told once."""
    one, two = tmp_path / "one", tmp_path / "two"
    words = ["elastic", "--from", "digits", "--data", str(images), "--epochs", "1", "--device", "cpu", "--zoo"]
    assert CliRunner().invoke(app, [*words, str(one)]).exit_code == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "trainer"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, *words, two], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    [file] = Directory(two).paths()
    with file[1].open("rb") as packed:
        assert done.stdout.split() == [level.digest for level in ElasticFile(packed).levels]
    logs = [
        [json.loads(line) for line in next(zoo.glob("runs/*/log.jsonl")).read_text().splitlines()] for zoo in (one, two)
    ]
    assert [record["event"] for record in logs[1]] == [record["event"] for record in logs[0]]
    losses = [[record["loss"] for record in log if record["event"] == "epoch"] for log in logs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


# --- one around the other -------------------------------------------------------------------------------


def test_frozen_levels_stay_bit_for_bit(config: RunConfig, data: Data, tmp_path: Path) -> None:
    """Under Muon with momentum, weight decay and a penalty; new entries and each level's batch norms are trained."""
    run = Run(config, data, tmp_path, freeze=True)
    epochs = [record for record in run.records if isinstance(record, EpochRecord)]
    assert [len(record.levels) for record in epochs] == [1] * 6
    for small, large in pairwise(run.levels):
        graphs = (large.descriptor.architecture.graph(), small.descriptor.architecture.graph())
        for name, place in shared_places(*graphs).items():
            assert large.tensors[name][np.ix_(*place)].tobytes() == small.tensors[name].tobytes(), name
    # Batch norms begin with a weight of 1: those of the first level, of a layer that the second adds, of the last.
    names = ("stages.1.layers.0.norm.weight", "stages.1.layers.1.norm.weight", "head.norm.weight")
    for level, name in zip(run.levels, names, strict=True):
        assert (level.tensors[name] != 1).all(), "trained"


def test_without_the_block_the_same_step_moves_it(config: RunConfig, data: Data) -> None:
    graphs = [one.graph() for one in LEVELS[:2]]
    small = GraphModule(graphs[0]).state_dict()
    moved = []
    for holds in (True, False):
        module = ElasticModule(graphs[1:])
        step = ElasticStep(module, optim.make(module, config), config, data.preprocessing)
        block = Block(module, graphs[0], small)
        block.restore()
        step.frozen = block if holds else None
        train_epoch(step, data.train, torch.Generator())
        head = module.get_parameter("head.output.weight")
        moved.append(not torch.equal(head, small["head.output.weight"]))
    assert moved == [False, True]


# --- levels ---------------------------------------------------------------------------------------------


def test_budgets_are_what_rounds_to_them() -> None:
    assert budgets_of("7k,16.4k,34098,1M") == (7_499, 16_449, 34_098, 1_499_999)


def test_a_checkpoint_becomes_smaller_as_it_was_while_it_grew() -> None:
    zoo = Path(__file__).parents[2] / "zoo" / "pretrained" / "cifar10"
    *smaller, top = sorted(map(read, (zoo / "checkpoints").iterdir()), key=lambda origin: origin.params)

    def found(origin: Origin = top, **wishes: Any) -> list[int]:
        levels = levels_of(origin, (3, 32, 32), 10, **wishes)
        return [num_params(one.graph()) for one in levels.architectures]

    budgets = 7_000, 20_000, 58_890, 139_450
    assert found(budgets=budgets) == [6_834, 19_834, 58_890, 139_450]
    # Below what it began with there is no network that it was.
    below, *others = found(budgets=(3_000, 58_890))
    assert below < 3_000
    assert others == [58_890]
    alike = found(budgets=budgets, cut="widths")
    assert alike[:-1] != [6_834, 19_834, 58_890]
    smallest, *_, largest = found()
    assert 0.05 < smallest / largest < 0.07
    with pytest.raises(RunError, match=r"a level within 6,850 parameters .* 6,834 parameters, and so is the next"):
        found(budgets=(6_850, 6_900, 20_000))

    # One that was adapted does not know its growth, but the sizes beside it lie within it.
    lineage = top.descriptor.lineage.model_copy(update={"num_expansions": 0, "expansions": ()})
    descriptor = top.descriptor.model_copy(update={"lineage": lineage})
    adapted = replace(top, checkpoint=replace(top.checkpoint, descriptor=descriptor))
    assert found(adapted, budgets=budgets) == alike
    assert found(adapted, budgets=budgets, beside=[one.descriptor for one in smaller]) == [
        6_834,
        19_834,
        58_890,
        139_450,
    ]


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ("7k", "2 to 5 numbers, smallest first, not 7k"),
        ("1k,2k,3k,4k,5k,6k", "2 to 5 numbers, smallest first, not 1k,2k,3k,4k,5k,6k"),
        ("16k,7k", "should rise, smallest first, and 16k,7k do not"),
        ("7k,7k", "should rise, smallest first, and 7k,7k do not"),
        ("7k,much", "should be numbers like 7k,16k,34k or 34098, and 'much' is none"),
        ("7k,1.5", "should be whole numbers or have a k or M, and 1.5 has neither"),
        (
            "2k,900k,1M",
            "a level within 900,499 parameters is the network of 6,074 parameters, and so is the next larger",
        ),
        ("10,2k", "cannot be cut to these levels: no network within 10 parameters: with [1, 1] channels it has more"),
    ],
)
def test_levels_that_are_none_are_named(levels: str, message: str, tmp_path: Path) -> None:
    words = ["elastic", "--from", "digits", "--levels", levels, "--data", "digits", "--zoo", str(tmp_path / "zoo")]
    result = CliRunner().invoke(app, [*words, "--epochs", "1", "--device", "cpu"])
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "zoo").exists()


def test_levels_that_do_not_lie_within_each_other() -> None:
    wide, deep = blueprints(((6, 4), (1, 1)), ((5, 9), (2, 2)))
    with pytest.raises(RunError, match=r"one does not lie within the next: .* stem.conv has 5 channels"):
        Levels((wide, deep))
    with pytest.raises(RunError, match="each level should have more parameters than the one before it"):
        Levels((LEVELS[1], LEVELS[0]))
    with pytest.raises(RunError, match="an elastic run has 2 to 5 levels, not 1"):
        Levels(LEVELS[:1])
