"""Batch-norm statistics: those of the weights, measured exactly, in every checkpoint of a run on few images."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from torch.optim.swa_utils import update_bn

from trainer.config import RunConfig
from trainer.data.datasets import Data, load
from trainer.distil.distil import distil
from trainer.grow import grow
from trainer.growth.batch_norms import batch_norms, measure
from trainer.loop.statistics import measure_on
from zoo.checkpoint.file import load as load_checkpoint
from zoo.network.families.secnn import SecnnArchitecture, start
from zoo.runtime.module import GraphModule, module_of, normalize
from zoo.store.directory import Directory

CPU = torch.device("cpu")
RandomModule = Callable[[SecnnArchitecture, int], GraphModule]


def statistics(module: GraphModule) -> list[torch.Tensor]:
    return [tensor for layer in batch_norms(module) for tensor in (layer.running_mean, layer.running_var)]


def test_they_are_those_of_torch(random_module: RandomModule) -> None:
    module = random_module(
        start(input_shape=(3, 8, 8), num_classes=3, channels=4, conv_dropout=0.0, linear_dropout=0.0), 0
    )
    batches = [torch.randn((24, 3, 8, 8)) for _ in range(5)]
    expected = deepcopy(module)
    update_bn(batches, expected)
    measure(module, batches)
    for mine, theirs in zip(statistics(module), statistics(expected), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert [layer.momentum for layer in batch_norms(module)] == [0.1] * 5
    assert not module.training


def test_dropout_takes_no_part(random_module: RandomModule) -> None:
    """They are of the network as it is used, and need no random numbers."""
    module = random_module(start(input_shape=(3, 8, 8), num_classes=3, channels=4, conv_dropout=0.5), 0)
    same = deepcopy(module)
    batches = [torch.randn((24, 3, 8, 8))]
    measure(module, batches)
    measure(same, batches)
    assert all(torch.equal(*pair) for pair in zip(statistics(module), statistics(same), strict=True))


def distance(module: GraphModule, data: Data, config: RunConfig) -> float:
    """Of a network's statistics to those of its weights, on other draws: the worst channel's, in standard deviations
    and in factors of variance."""
    measured = deepcopy(module)
    generator = torch.Generator().manual_seed(7)
    measure_on(measured, data.train, config, data.preprocessing, generator, 2_000)
    worst = 0.0
    for mine, theirs in zip(batch_norms(module), batch_norms(measured), strict=True):
        scale = (theirs.running_var + theirs.eps).sqrt()
        worst = max(worst, ((mine.running_mean - theirs.running_mean) / scale).abs().max().item())
        ratio = (mine.running_var + mine.eps) / (theirs.running_var + theirs.eps)
        worst = max(worst, ratio.log().abs().max().item())
    return worst


def test_every_checkpoint_has_those_of_its_weights(
    tmp_path: Path, data: Data, tiny_run: RunConfig, ladder_run: RunConfig
) -> None:
    """Of the trunk, of a branch, and taught; where an epoch is a few steps, running ones are far from them."""
    for config in (tiny_run, replace(ladder_run, distil_epochs=12)):
        config = replace(config, learning_rate=3e-2)
        digests = grow(config, data, tmp_path / "zoo", CPU, resume=False, observe=[].append)
        if config.distil_epochs:
            taught = tuple(distil(config, data, tmp_path / "zoo", digests, CPU, [].append))
            assert taught
            digests += taught
        for digest in digests:
            checkpoint = load_checkpoint(Directory(tmp_path / "zoo").path(digest))
            assert distance(module_of(checkpoint), data, config) < 0.3


def test_a_run_on_few_images_knows_what_its_weights_know(tmp_path: Path, write_images: Callable[..., Path]) -> None:
    """90 images that a network learns in seconds: with running statistics all of this is at chance."""
    from trainer.recipes import runs

    data = load(str(write_images(tmp_path / "bars", {"train": 50, "test": 20}, classes=("left", "middle"))))
    config = replace(runs.grow(), epochs=6, compile=False, mixed_precision=False, seed=1, max_shift=0)
    config = replace(config, recipe=replace(config.recipe, sizes=(5_000,)))
    *_, last = grow(config, data, tmp_path / "zoo", CPU, resume=False, observe=[].append)
    checkpoint = load_checkpoint(Directory(tmp_path / "zoo").path(last))
    assert checkpoint.descriptor.metrics.test is not None
    assert checkpoint.descriptor.metrics.test.accuracy > 0.9
    logits = module_of(checkpoint).eval()(normalize(data.test.images, data.preprocessing))
    assert (logits.argmax(1) == data.test.labels).float().mean() > 0.9
