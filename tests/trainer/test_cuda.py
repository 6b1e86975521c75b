"""What only a GPU can show: captured steps train as others do, and runs move between a CPU and a GPU."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.config import Cutout, Mixup, RunConfig
from trainer.data.datasets import Data, Split
from trainer.elastic.module import ElasticModule
from trainer.elastic.step import Block, ElasticStep
from trainer.grow import grow
from trainer.growth.scores.kfac import kfac_gains
from trainer.journal.records import EpochRecord, Record
from trainer.loop import optim
from trainer.loop.epoch import WeightAverage, train_epoch
from trainer.loop.step import TrainingStep
from trainer.recipes.ladder import Ladder
from trainer.recipes.runs import paper
from zoo.checkpoint.descriptor import Preprocessing
from zoo.network.families import blueprint
from zoo.network.families.family import Architecture
from zoo.runtime.module import GraphModule

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
RGB = Preprocessing(color="rgb", mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3))
EAGER = replace(paper(), l1=1e-4, learning_rate=1e-2, mixed_precision=False, compile=False, batch_size=16, max_shift=2)
NUM_BATCHES = 10


@pytest.fixture
def module(random_module: Callable[[Architecture, int], GraphModule]) -> GraphModule:
    architecture = blueprint.start(input_shape=(3, 8, 10), num_classes=4, channels=(6, 8), num_layers=(1, 2))
    return random_module(architecture, 0)


@pytest.fixture
def split() -> Split:
    random = torch.Generator().manual_seed(1)
    count = NUM_BATCHES * EAGER.batch_size
    images = torch.randint(0, 256, (count, 3, 8, 10), generator=random, dtype=torch.uint8)
    return Split(images, torch.randint(0, 4, (count,), generator=random)).to(CUDA)


def trained(module: GraphModule, split: Split, config: RunConfig) -> tuple[Tensor, float]:
    """All weights after an epoch whose rate falls, the average's behind them; and the mean loss."""
    module = deepcopy(module).to(CUDA)
    step = TrainingStep(module, optim.make(module, config), config, RGB, compiled=config.compile)
    average = WeightAverage(step, 0.8)
    rates = [config.learning_rate * (1 - number / NUM_BATCHES) for number in range(NUM_BATCHES)]
    generator = torch.Generator().manual_seed(2)
    result = train_epoch(step, split, generator, learning_rates=rates, average=average)
    tensors = [*module.state_dict().values(), *average.module.state_dict().values()]
    return torch.cat([tensor.flatten().float() for tensor in tensors if tensor.is_floating_point()]).cpu(), result.loss


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "muon"])
def test_a_captured_step_trains_as_an_eager_one(module: GraphModule, split: Split, optimizer: Any) -> None:
    eager = replace(EAGER, optimizer=optimizer, weight_decay=0.0 if optimizer == "adam" else 0.02)
    wanted, wanted_loss = trained(module, split, eager)
    found, loss = trained(module, split, replace(eager, compile=True))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    assert loss == pytest.approx(wanted_loss, rel=1e-4)


@pytest.mark.parametrize("holds", [False, True], ids=["all levels", "around a block"])
def test_levels_are_captured_too(holds: bool, split: Split) -> None:
    small = blueprint.start(input_shape=(3, 8, 10), num_classes=4, channels=(4, 6), num_layers=(1, 1)).graph()
    large = blueprint.start(input_shape=(3, 8, 10), num_classes=4, channels=(6, 8), num_layers=(1, 2)).graph()
    eager = replace(EAGER, optimizer="muon", weight_decay=0.02)
    found = []
    for config in (eager, replace(eager, compile=True)):
        torch.manual_seed(0)
        block = GraphModule(small).state_dict()
        module = ElasticModule([large] if holds else [small, large]).to(CUDA)
        step = ElasticStep(module, optim.make(module, config), config, RGB, compiled=config.compile)
        if holds:
            step.frozen = Block(module, small, block)
            step.frozen.restore()
        result = train_epoch(step, split, torch.Generator().manual_seed(2))
        weights = {name: tensor.float().cpu() for name, tensor in module.state_dict().items()}
        if holds:
            assert torch.equal(weights["head.output.bias"], block["head.output.bias"])
        found.append((weights, result.loss))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-3, atol=1e-3)
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-4)


def test_mixed_images_are_captured_too(module: GraphModule, split: Split) -> None:
    mixing = replace(
        EAGER,
        padding_mode="reflect",
        mixup=Mixup(alpha=0.5, from_params=0),
        cutout=Cutout(part=0.25, from_params=0),
    )
    wanted, wanted_loss = trained(module, split, mixing)
    found, loss = trained(module, split, replace(mixing, compile=True))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    assert loss == pytest.approx(wanted_loss, rel=1e-4)
    assert loss != pytest.approx(trained(module, split, EAGER)[1], rel=1e-3)


def test_mixed_precision_computes_nearly_the_same(module: GraphModule, split: Split) -> None:
    (_, wanted), (_, loss) = (
        trained(module, split, replace(EAGER, compile=True, mixed_precision=mixed)) for mixed in (False, True)
    )
    assert loss == pytest.approx(wanted, rel=0.02)
    assert loss != wanted


@pytest.fixture
def captured_run(ladder_run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """Goes on from its branches; steps are compiled on a GPU, though its epochs are too short to pay for that."""
    # Of the CPU's steps, which take long to compile, tests/trainer/test_step.py speaks.
    monkeypatch.setenv("CXX", "no compiler")
    return replace(ladder_run, mixed_precision=True, compile=True, worth_compiling=0.0)


def run(config: RunConfig, data: Data, zoo: Path, device: torch.device, stop_after: int = 0) -> tuple[str, ...]:
    """`stop_after`: epochs, those of branches included; 0: not."""

    def observe(record: Record) -> None:
        if isinstance(record, EpochRecord) and record.num_epochs == stop_after:
            raise KeyboardInterrupt

    return grow(config, data, zoo, device, resume=True, observe=observe)


class ByKfac(Ladder):
    score = staticmethod(kfac_gains)


@pytest.mark.parametrize("kind", [Ladder, ByKfac])
def test_a_run_grows(tmp_path: Path, captured_run: RunConfig, data: Data, kind: type[Ladder]) -> None:
    assert isinstance(captured_run.recipe, Ladder)
    config = replace(captured_run, recipe=kind(**vars(captured_run.recipe)))
    assert len(run(config, data, tmp_path, CUDA)) == 3


@pytest.mark.parametrize("devices", [(CPU, CUDA), (CUDA, CPU), (CUDA, CUDA)], ids=str)
def test_a_run_goes_on_on_another_device(
    tmp_path: Path, captured_run: RunConfig, data: Data, devices: tuple[torch.device, torch.device]
) -> None:
    # Within a branch, after the first expansion.
    with pytest.raises(KeyboardInterrupt):
        run(captured_run, data, tmp_path, devices[0], stop_after=7)
    assert len(run(captured_run, data, tmp_path, devices[1])) == 3
