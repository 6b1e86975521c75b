from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from trainer.commands.main import app
from trainer.config import RunConfig
from trainer.journal.state import load, save
from trainer.loop import optim
from trainer.loop.state import RunState, plateau
from trainer.recipes.rules import RatioRule
from zoo.checkpoint.descriptor import Accuracy, ExpansionStep
from zoo.errors import RunError
from zoo.network.families.secnn import start
from zoo.runtime.module import GraphModule

DATA = {"name": "bars", "num_train": 81, "classes": ("left", "right"), "checksum": "0123abcd"}
CPU = torch.device("cpu")


def trained(config: RunConfig) -> RunState:
    """After three steps, and as many evaluations that did not get better."""
    architecture = start(input_shape=(1, 8, 8), num_classes=2, num_blocks=2, channels=3)
    module = GraphModule(architecture.graph())
    optimizer = optim.make(module, config)
    scheduler = plateau(optimizer, config)
    for accuracy in (0.75, 0.5, 0.25):
        step(module, optimizer)
        scheduler.step(accuracy)
    expansion = ExpansionStep(
        epoch=2,
        kind="widen",
        block=1,
        channels_added=1,
        params_before=9,
        params_after=12,
        score=0.1,
        threshold=0.0,
        exact=True,
    )
    return RunState(
        architecture=architecture,
        module=module,
        optimizer=optimizer,
        scheduler=scheduler,
        epoch=3,
        num_epochs=5,
        validation=Accuracy(accuracy=0.25, n=8, per_class=(0.5, None)),
        expansions=(expansion,),
        checkpoints=("ab" * 32,),
        device_seconds=1.25,
        training_flops=12_345,
        saved_at=datetime(2026, 11, 21, 2, 3, 4, 5678, tzinfo=UTC),
        device="cpu, 3 threads",
        log_bytes=99,
    )


def step(module: GraphModule, optimizer: torch.optim.Optimizer) -> None:
    images, labels = torch.randn((6, 1, 8, 8), generator=torch.Generator().manual_seed(1)), torch.arange(6) % 2
    torch.manual_seed(2)
    optimizer.zero_grad()
    F.cross_entropy(module(images), labels).backward()
    optimizer.step()


def test_what_was_saved_goes_on_exactly(tmp_path: Path, tiny_run: RunConfig) -> None:
    config = replace(tiny_run, lr_patience=2)
    state = trained(config)
    save(tmp_path / "state.pt", state, config, DATA)
    loaded = load(tmp_path / "state.pt", config, DATA, CPU)

    for field in ("architecture", "epoch", "num_epochs", "validation", "expansions", "checkpoints"):
        assert getattr(loaded, field) == getattr(state, field)
    for field in ("device_seconds", "training_flops", "saved_at", "device", "log_bytes", "last_growth_epoch"):
        assert getattr(loaded, field) == getattr(state, field)
    assert loaded.last_growth_epoch == 2
    assert state.optimizer.param_groups[0]["lr"] == pytest.approx(config.learning_rate / 2)
    for each in (state, loaded):
        step(each.module, each.optimizer)
        each.scheduler.step(0.75)  # as good as the best is not better
        step(each.module, each.optimizer)
    after, loaded_after = state.module.state_dict(), loaded.module.state_dict()
    assert all(torch.equal(after[name], loaded_after[name]) for name in after)
    assert state.optimizer.param_groups[0]["lr"] == loaded.optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_a_state_of_another_device_goes_on(tmp_path: Path, tiny_run: RunConfig, name: Any) -> None:
    """A GPU's has the learning rate in a tensor, and says that its steps can be captured; here they cannot."""
    config = replace(tiny_run, optimizer=name)
    state = trained(config)
    save(tmp_path / "state.pt", state, config, DATA)
    saved = torch.load(tmp_path / "state.pt")
    for group in saved["optimizer"]["param_groups"]:
        group.update(lr=torch.tensor(group["lr"]))
        if "capturable" in group:
            group["capturable"] = True
    torch.save(saved, tmp_path / "state.pt")
    loaded = load(tmp_path / "state.pt", config, DATA, CPU)
    for each in (state, loaded):
        step(each.module, each.optimizer)
    for mine, its in zip(state.module.parameters(), loaded.module.parameters(), strict=True):
        torch.testing.assert_close(its, mine)
    assert [group.get("capturable") for group in loaded.optimizer.param_groups] == [
        group.get("capturable") for group in state.optimizer.param_groups
    ]


def test_a_file_is_replaced_whole(tmp_path: Path, tiny_run: RunConfig) -> None:
    state = trained(tiny_run)
    for epoch in (3, 4):
        state.epoch = epoch
        save(tmp_path / "state.pt", state, tiny_run, DATA)
    assert load(tmp_path / "state.pt", tiny_run, DATA, CPU).epoch == 4
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]


def more_channels(config: RunConfig) -> RunConfig:
    return replace(config, start=replace(config.start, channels=5))


def ratio(config: RunConfig) -> RunConfig:
    return replace(config, recipe=replace(config.recipe, rule=RatioRule(tau=1.5)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: replace(config, seed=7), "was started with seed = 0, not 7: resume with the same"),
        (lambda config: replace(config, batch_size=32), "started with batch_size = 16, not 32"),
        (more_channels, r"with start\.channels = 3, not 5:"),
        (ratio, r"recipe\.rule\.threshold = 0\.0, not None; .*recipe\.rule\.tau = None, not 1\.5"),
        (
            lambda config: replace(config, epochs=2),
            "last asked for 6 epochs and has 3 behind it, so .* 2: --epochs 3 or more",
        ),
        (lambda config: replace(config, epochs=2, seed=7), "started with seed = 0, not 7:"),
    ],
)
def test_another_configuration_is_refused(tmp_path: Path, tiny_run: RunConfig, change: Any, message: str) -> None:
    save(tmp_path / "state.pt", trained(tiny_run), tiny_run, DATA)
    with pytest.raises(RunError, match=message):
        load(tmp_path / "state.pt", change(tiny_run), DATA, CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_train": 80}, "state-of/run was started with num_train = 81, not 80: resume with the same"),
        ({"checksum": "deadbeef"}, "started with checksum = 0123abcd, not deadbeef"),
        ({"classes": ("right", "left")}, r"started with classes = \['left', 'right'\], not \['right', 'left'\]"),
        ({"name": "lines", "num_train": 3}, "name = bars, not lines; num_train = 81, not 3"),
    ],
)
def test_other_images_are_refused(tmp_path: Path, tiny_run: RunConfig, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "state-of" / "run" / "state.pt"
    save(path, trained(tiny_run), tiny_run, DATA)
    with pytest.raises(RunError, match=message):
        load(path, tiny_run, {**DATA, **change}, CPU)


def test_a_state_from_before_images_were_mirrored_at_their_border(tmp_path: Path, tiny_run: RunConfig) -> None:
    """It says nothing of that, and had none: a run that still has none goes on."""
    path = tmp_path / "state.pt"
    save(path, trained(tiny_run), tiny_run, DATA)
    saved = torch.load(path, weights_only=True)
    del saved["config"]["padding_mode"]
    torch.save(saved, path)
    assert load(path, tiny_run, DATA, CPU).epoch == 3
    with pytest.raises(RunError, match="was started with padding_mode = constant, not reflect"):
        load(path, replace(tiny_run, padding_mode="reflect"), DATA, CPU)


def test_a_state_from_before_the_defaults_of_distillation_changed(tmp_path: Path, tiny_run: RunConfig) -> None:
    """Growth does not depend on them."""
    path = tmp_path / "state.pt"
    save(path, trained(tiny_run), tiny_run, DATA)
    saved = torch.load(path, weights_only=True)
    saved["config"] |= {"distil_temperature": 4.0, "distil_weight": 0.9, "distil_epochs": 3}
    torch.save(saved, path)
    assert load(path, tiny_run, DATA, CPU).epoch == 3
    with pytest.raises(RunError, match=r"was started with l1 = 1e-05, not 0\.5: resume"):
        load(path, replace(tiny_run, l1=0.5), DATA, CPU)


def test_a_state_of_another_version_is_refused(tmp_path: Path, tiny_run: RunConfig) -> None:
    torch.save({"version": 2, "config": {}}, tmp_path / "state.pt")
    with pytest.raises(RunError, match="was written by another version of the trainer: use another --zoo or --seed"):
        load(tmp_path / "state.pt", tiny_run, DATA, CPU)


@pytest.mark.parametrize("epochs", [3, 5, 8, 300])
def test_a_run_may_become_longer_or_end_sooner(tmp_path: Path, tiny_run: RunConfig, epochs: int) -> None:
    """But for the epochs that it has behind it."""
    save(tmp_path / "state.pt", trained(tiny_run), tiny_run, DATA)
    assert load(tmp_path / "state.pt", replace(tiny_run, epochs=epochs), DATA, CPU).epoch == 3


def test_the_rate_is_halved_after_as_many_epochs_as_the_patience(tiny_run: RunConfig) -> None:
    config = replace(tiny_run, lr_patience=3, learning_rate=1.0)
    optimizer = optim.make(GraphModule(start(input_shape=(1, 8, 8), num_classes=2).graph()), config)
    scheduler = plateau(optimizer, config)
    rates = []
    for accuracy in (0.5, 0.5, 0.4, 0.3, 0.6, 0.6, 0.6, 0.6, 0.6):
        scheduler.step(accuracy)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(lambda _: b"", id="emptied"),
        pytest.param(lambda content: content[:1000], id="cut short"),
        pytest.param(lambda content: content[: len(content) // 2], id="half of it"),
        pytest.param(lambda content: content[:3000] + bytes([content[3000] ^ 4]) + content[3001:], id="a bit flipped"),
        pytest.param(lambda _: b"garbage", id="something else"),
    ],
)
def test_a_damaged_state_is_named(tmp_path: Path, tiny_run: RunConfig, damaged: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "state.pt"
    save(path, trained(tiny_run), tiny_run, DATA)
    path.write_bytes(damaged(path.read_bytes()))
    with pytest.raises(RunError, match=r"state\.pt is damaged \(.+\): .* once it is deleted, --resume says"):
        load(path, tiny_run, DATA, CPU)


def test_a_run_goes_on_with_other_threads(tmp_path: Path) -> None:
    words = ["digits", "--data", "digits", "--zoo", str(tmp_path), "--limit-train", "200", "--device", "cpu"]
    words += ["--max-params", "1200"]
    assert CliRunner().invoke(app, [*words, "--epochs", "1", "--threads", "1"]).exit_code == 0
    longer = CliRunner().invoke(app, [*words, "--epochs", "2", "--threads", "2", "--resume"])
    assert longer.exit_code == 0, longer.stderr
