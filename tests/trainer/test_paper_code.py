"""The run by the choices of the paper's public code: exact counts, and each choice as docs/growth.md states it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trainer.config import RunConfig
from trainer.data.datasets import Data
from trainer.grow import grow
from trainer.growth.expand import expand
from trainer.growth.recipe import Look
from trainer.journal.records import DecisionRecord, EpochRecord, Record
from trainer.loop import optim
from trainer.loop.state import plateau
from trainer.loop.step import TrainingStep
from trainer.recipes.one_by_one import OneByOne
from trainer.recipes.rules import BatchRatioRule
from trainer.recipes.runs import paper_code
from zoo.checkpoint.descriptor import Preprocessing
from zoo.checkpoint.file import load
from zoo.network.cost import num_params
from zoo.network.families.family import Change
from zoo.network.families.secnn import SecnnArchitecture, start
from zoo.runtime.module import GraphModule
from zoo.store.directory import Directory

CPU = torch.device("cpu")
CONFIG = paper_code()
RULE = BatchRatioRule(per_parameter=True)
RandomModule = Callable[[SecnnArchitecture, int], GraphModule]


@pytest.fixture
def expansion() -> OneByOne:
    assert isinstance(CONFIG.recipe, OneByOne)
    return CONFIG.recipe


def changes(architecture: SecnnArchitecture, recipe: OneByOne) -> list[Change]:
    return architecture.changes(
        max_layers=recipe.max_layers_per_block,
        layer_kind=recipe.layer_kind,
        channels_added=recipe.channels_added,
    )


def grown(module: GraphModule, architecture: SecnnArchitecture, expansion: OneByOne, change: Change) -> GraphModule:
    graph = architecture.grown(change, exact=False).graph()
    return expand(module, graph, expansion.initialization, torch.zeros(2, 3, 32, 32), torch.Generator().manual_seed(0))


INSERT = Change("deepen", 0, layer_kind="conv")


def test_parameters_are_those_of_the_papers_table(expansion: OneByOne) -> None:
    architecture = CONFIG.start.network((3, 32, 32), 10)
    assert num_params(architecture.graph()) == 9_024
    once = architecture.grown(INSERT, exact=False)
    assert num_params(once.graph()) == 11_360
    assert num_params(once.grown(INSERT, exact=False).graph()) == 13_696
    # Four more channels in block 0: its convolution and batch norm, block 1's inputs, the 1×1 convolution's inputs.
    wider = architecture.grown(Change("widen", 0, channels_added=4), exact=False)
    assert num_params(wider.graph()) == 9_024 + 4 * (3 * 9 + 1) + 4 * 2 + 16 * 4 * 9 + 10 * 4
    full = architecture
    for _ in range(10):
        full = full.grown(INSERT, exact=False)
    assert INSERT not in changes(full, expansion)
    assert len(changes(architecture, expansion)) == 6


def test_an_inserted_layer_sums_over_three_by_three_pixels(expansion: OneByOne, random_module: RandomModule) -> None:
    architecture = CONFIG.start.network((3, 32, 32), 10)
    new = grown(random_module(architecture, 0), architecture, expansion, INSERT)
    weight = new.get_parameter("blocks.0.layers.1.conv.weight").detach()
    assert torch.equal(weight, weight[:, :, :1, :1].expand_as(weight))
    noise = weight[:, :, 0, 0] - torch.eye(16)
    assert 5e-5 < noise.std() < 2e-4
    image = torch.rand(1, 16, 8, 8)
    torch.testing.assert_close(
        F.conv2d(image, weight, padding=1), 9 * F.avg_pool2d(image, 3, 1, 1), atol=0.02, rtol=0.0
    )
    norm = new.get_submodule("blocks.0.layers.1.norm")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_mean.abs().max() == 0
    assert torch.equal(norm.weight, torch.ones(16))


def test_widening_resets_what_the_code_resets(expansion: OneByOne, random_module: RandomModule) -> None:
    architecture = CONFIG.start.network((3, 32, 32), 10).grown(INSERT, exact=False)
    old = random_module(architecture, 0)
    new = grown(old, architecture, expansion, Change("widen", 0, channels_added=4))
    before, after = old.state_dict(), new.state_dict()
    for name, rows in (("blocks.0.layers.0.conv", slice(16, None)), ("blocks.1.layers.0.conv", slice(None))):
        added = after[f"{name}.weight"][rows] if rows.start else after[f"{name}.weight"][:, 16:]
        assert 5e-5 < added.std() < 2e-4, name
    inserted = after["blocks.0.layers.1.conv.weight"]
    assert torch.equal(inserted[:16, :16], before["blocks.0.layers.1.conv.weight"])
    assert inserted[16:].abs().max() == 0 == inserted[:, 16:].abs().max()
    first = {key: after[f"blocks.0.layers.0.norm.{key}"] for key in ("weight", "bias", "running_mean", "running_var")}
    assert torch.equal(first["weight"], torch.ones(20))
    assert torch.equal(first["bias"], torch.zeros(20))
    assert torch.equal(first["running_mean"][:16], before["blocks.0.layers.0.norm.running_mean"])
    assert torch.equal(first["running_var"][:16], before["blocks.0.layers.0.norm.running_var"])
    assert torch.equal(after["blocks.0.layers.1.norm.running_var"], torch.ones(20))
    assert torch.equal(after["blocks.0.layers.1.norm.running_mean"], torch.zeros(20))
    # Of block 0's channels and of block 2's, which come behind them in the 1×1 convolution's inputs.
    head, old_head = after["head.conv.weight"], before["head.conv.weight"]
    assert torch.equal(head[:, :16], old_head[:, :16])
    assert torch.equal(head[:, 20:], old_head[:, 16:])
    assert head[:, 16:20].abs().max() == 0


def test_the_score_is_the_batchs(random_module: RandomModule) -> None:
    """Of symmetric images, whose flips are themselves: F and g are of one gradient."""
    module = random_module(start(input_shape=(3, 8, 8), num_classes=3, channels=4), 0)
    images = torch.rand(24, 3, 8, 4)
    images = torch.cat([images, images.flip(3)], 3)
    labels = torch.arange(24) % 3
    F.cross_entropy(module(images), labels).backward()
    squares = torch.cat([parameter.grad.square().flatten() for parameter in module.parameters()])
    expected = (squares / (squares + 1e-5)).mean().item()
    generator = torch.Generator().manual_seed(0)
    assert RULE.natural_score(module, images, labels, generator) == pytest.approx(expected, rel=1e-3)
    whole = replace(RULE, per_parameter=False)
    assert whole.natural_score(module, images, labels, generator) == pytest.approx(expected * len(squares), rel=1e-3)


def test_the_best_candidate_must_double_the_score(expansion: OneByOne, random_module: RandomModule) -> None:
    architecture = start(input_shape=(3, 8, 8), num_classes=3, channels=4)
    module = random_module(architecture, 0)
    images, labels = torch.rand(24, 3, 8, 8), torch.arange(24) % 3
    for tau in (2.0, 0.0):
        rule = replace(RULE, tau=tau)
        look = Look(architecture, module, 1, 1, torch.Generator().manual_seed(0), lambda _: (images, labels))
        growth = replace(expansion, rule=rule).propose(look)
        best = max(growth.candidates, key=lambda one: one.score)
        assert len(growth.candidates) == 6
        assert bool(growth.steps) == (best.score > growth.threshold)
        for step in growth.steps:
            assert (step.kind, step.block, step.score) == (best.change.kind, best.change.block, best.score)


def test_whole_channels_are_dropped_behind_first_convolutions(random_module: RandomModule) -> None:
    architecture = start(input_shape=(3, 8, 8), num_classes=3, conv_dropout=0.0).grown(INSERT, exact=False)
    module = GraphModule(architecture.graph())
    TrainingStep(module, optim.make(module, CONFIG), CONFIG, Preprocessing(color="rgb", mean=(0,) * 3, std=(1,) * 3))
    module.train()
    ones = torch.ones(64, 16, 4, 4)
    dropped = module.get_submodule("blocks.0.layers.0.dropout")(ones)
    assert torch.equal(dropped, dropped[:, :, :1, :1].expand_as(dropped))
    assert 0.05 < (dropped == 0).float().mean() < 0.15
    assert torch.equal(module.get_submodule("blocks.0.layers.1.dropout")(ones), ones)
    assert torch.equal(module.eval().get_submodule("blocks.0.layers.0.dropout")(ones), ones)


def test_the_rate_falls_with_the_loss() -> None:
    optimizer = optim.make(nn.Linear(1, 1), CONFIG)
    scheduler = plateau(optimizer, CONFIG)
    for loss in (2.0, 1.0, *[1.5] * 14):
        scheduler.step(loss)
    assert optim.learning_rate(optimizer) == pytest.approx(2e-3)
    scheduler.step(1.5)
    assert optim.learning_rate(optimizer) == pytest.approx(1e-3)


@pytest.fixture
def small_run(tiny_run: RunConfig, expansion: OneByOne) -> RunConfig:
    """Every choice of the run on a small network, which grows at its first look and two epochs after that."""
    return replace(
        tiny_run,
        name="paper-code",
        recipe=replace(expansion, rule=replace(RULE, tau=0.0), cooldown_epochs=2, score_samples=32),
        epochs=4,
        channel_dropout=0.1,
        plateau_on="loss",
    )


def test_it_looks_at_every_epoch_but_those_after_an_expansion(tmp_path: Path, data: Data, small_run: RunConfig) -> None:
    records: list[Record] = []
    digests = grow(small_run, data, tmp_path, CPU, resume=False, observe=records.append)
    assert [record.epoch for record in records if isinstance(record, DecisionRecord)] == [1, 3]
    assert len({record.params for record in records if isinstance(record, EpochRecord)}) == 3
    lineage = load(Directory(tmp_path).path(digests[-1])).descriptor.lineage
    assert (lineage.run, lineage.num_expansions, lineage.expansions[0].exact) == ("paper-code", 2, False)


def test_an_interrupted_run_goes_on_exactly(
    tmp_path: Path, data: Data, small_run: RunConfig, interrupted_at: Callable[[int], Callable[[Record], None]]
) -> None:
    whole = grow(small_run, data, tmp_path / "whole", CPU, resume=False, observe=[].append)
    with pytest.raises(KeyboardInterrupt):
        grow(small_run, data, tmp_path / "zoo", CPU, resume=False, observe=interrupted_at(6))
    resumed = grow(small_run, data, tmp_path / "zoo", CPU, resume=True, observe=[].append)
    assert len(resumed) == len(whole)
    for zoo, digest, other in zip((tmp_path / "whole",) * len(whole), whole, resumed, strict=True):
        mine, theirs = load(Directory(zoo).path(digest)), load(Directory(tmp_path / "zoo").path(other))
        assert mine.tensors.keys() == theirs.tensors.keys()
        assert all((mine.tensors[name] == theirs.tensors[name]).all() for name in mine.tensors)
