"""A run between two epochs: enough to go on exactly, in one file that is replaced whole."""

from __future__ import annotations

import io
import json
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.config import RunConfig
from trainer.loop import optim
from zoo.checkpoint.descriptor import Accuracy, ExpansionStep
from zoo.errors import RunError
from zoo.network.families.family import Architecture
from zoo.network.families.registry import parse as parse_architecture
from zoo.runtime.module import GraphModule
from zoo.store.directory import write_atomically

# Changes whenever the contents of the file do.
_VERSION = 6


@dataclass(frozen=True)
class Beginning:
    """What a run has behind it when it begins: the size of a checkpoint, what that took, and on which device."""

    epoch: int = 0
    params: int = 0
    device: str = ""
    device_seconds: float = 0.0
    training_flops: int = 0


FROM_NOTHING = Beginning()


@dataclass(frozen=True)
class Decided:
    """The network to grow into, and the steps to it."""

    architecture: Architecture
    steps: tuple[ExpansionStep, ...]


@dataclass(frozen=True)
class Branch:
    """A branch under way, from whose end the run goes on: the network and the optimiser of the state are its own."""

    epochs_done: int
    # The trunk's, to which the run returns.
    learning_rate: float
    # Of the network's weights and running statistics.
    average: dict[str, Tensor]


@dataclass
class RunState:
    architecture: Architecture
    module: GraphModule
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.ReduceLROnPlateau
    # Of the trunk; `num_epochs` counts those of branches too.
    epoch: int = 0
    num_epochs: int = 0
    validation: Accuracy | None = None
    expansions: tuple[ExpansionStep, ...] = ()
    checkpoints: tuple[str, ...] = ()
    # The trunk's epoch at the last checkpoint.
    checkpoint_epoch: int = 0
    # The content of a checkpoint of this epoch: there before its file is, see `grow`.
    finished_branch: bytes | None = None
    # How to grow once a branch, from which the run goes on, is finished.
    decided: Decided | None = None
    branch: Branch | None = None
    device_seconds: float = 0.0
    training_flops: int = 0
    saved_at: datetime | None = None
    # What the last epoch ran on, for people.
    device: str = ""
    begun: Beginning = FROM_NOTHING
    log_bytes: int = 0
    # What the run came to on these data, see `trainer.loop.batches`; a longer run keeps it.
    batch_size: int = 0
    warmup_steps: int = 0

    @property
    def last_growth_epoch(self) -> int:
        return self.expansions[-1].epoch if self.expansions else 0


def plateau(optimizer: torch.optim.Optimizer, config: RunConfig) -> torch.optim.lr_scheduler.ReduceLROnPlateau:
    """Multiplies the learning rate by `lr_factor` after `lr_patience` epochs without a better validation."""
    # Torch reduces once *more* than `patience` epochs were bad.
    return torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode="max" if config.plateau_on == "accuracy" else "min",
        factor=config.lr_factor,
        patience=config.lr_patience - 1,
        threshold=0,
    )


def save(path: Path, state: RunState, config: RunConfig, data: dict[str, Any]) -> None:
    """`data` says which images the run uses; `load` refuses to go on with others."""
    assert state.saved_at is not None
    buffer = io.BytesIO()
    torch.save(
        {
            "version": _VERSION,
            "config": _flat(asdict(config)),
            "data": _flat(data),
            "architecture": state.architecture.model_dump_json(),
            "module": state.module.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "scheduler": state.scheduler.state_dict(),
            "epoch": state.epoch,
            "num_epochs": state.num_epochs,
            "validation": state.validation.model_dump_json() if state.validation else None,
            "expansions": [step.model_dump_json() for step in state.expansions],
            "checkpoints": list(state.checkpoints),
            "checkpoint_epoch": state.checkpoint_epoch,
            "finished_branch": state.finished_branch,
            "decided": _saved_decision(state.decided),
            "branch": vars(state.branch) if state.branch else None,
            "device_seconds": state.device_seconds,
            "training_flops": state.training_flops,
            "saved_at": state.saved_at.isoformat(),
            "device": state.device,
            "begun": vars(state.begun),
            "log_bytes": state.log_bytes,
            "batch_size": state.batch_size,
            "warmup_steps": state.warmup_steps,
        },
        buffer,
    )
    write_atomically(path, buffer.getvalue())


def load(path: Path, config: RunConfig, data: dict[str, Any], device: torch.device) -> RunState:
    """Raises RunError where the run was started with another configuration (more epochs are fine) or data."""
    saved = torch.load(path, map_location=device, weights_only=True)
    if saved.get("version") != _VERSION:
        raise RunError(f"{path.parent} was written by another version of the trainer: use another --zoo or --seed")
    # A setting that there was not yet when the state was saved had its default.
    before = _defaults(config, saved["config"]) | saved["config"] | saved["data"]
    now = _flat(asdict(config)) | _flat(data)
    longer = {"limits.max_seconds", "distil_epochs", "epochs"}
    differing = [key for key in before | now if before.get(key) != now.get(key) and key not in longer]
    if differing:
        differences = "; ".join(f"{key} = {before.get(key)}, not {now.get(key)}" for key in differing)
        raise RunError(
            f"{path.parent} was started with {differences}: resume with the same, or use another --zoo or --seed; "
            "other images may have another --name"
        )
    if config.epochs < saved["epoch"]:
        raise RunError(
            f"{path.parent} was last asked for {saved['config']['epochs']} epochs and has {saved['epoch']} behind it, "
            f"so it cannot end after {config.epochs}: --epochs {saved['epoch']} or more goes on with it"
        )
    architecture = parse_architecture(saved["architecture"])
    module = GraphModule(architecture.graph()).to(device)
    module.load_state_dict(saved["module"])
    optimizer = optim.make(module, config)
    optim.load_state(optimizer, saved["optimizer"])
    scheduler = plateau(optimizer, config)
    scheduler.load_state_dict(saved["scheduler"])
    validation = saved["validation"]
    return RunState(
        architecture=architecture,
        module=module,
        optimizer=optimizer,
        scheduler=scheduler,
        epoch=saved["epoch"],
        num_epochs=saved["num_epochs"],
        validation=Accuracy.model_validate_json(validation) if validation else None,
        expansions=tuple(ExpansionStep.model_validate_json(step) for step in saved["expansions"]),
        checkpoints=tuple(saved["checkpoints"]),
        checkpoint_epoch=saved["checkpoint_epoch"],
        finished_branch=saved["finished_branch"],
        decided=_decision(saved["decided"]),
        branch=Branch(**saved["branch"]) if saved["branch"] else None,
        device_seconds=saved["device_seconds"],
        training_flops=saved["training_flops"],
        saved_at=datetime.fromisoformat(saved["saved_at"]),
        device=saved["device"],
        begun=Beginning(**saved.get("begun", {})),
        log_bytes=saved["log_bytes"],
        # Runs of before these were bounded by the data go on with what they asked for.
        batch_size=saved.get("batch_size", config.batch_size),
        warmup_steps=saved.get("warmup_steps", config.warmup_steps),
    )


def _saved_decision(decided: Decided | None) -> dict[str, Any] | None:
    if decided is None:
        return None
    steps = [step.model_dump_json() for step in decided.steps]
    return {"architecture": decided.architecture.model_dump_json(), "steps": steps}


def _decision(saved: dict[str, Any] | None) -> Decided | None:
    if saved is None:
        return None
    steps = tuple(ExpansionStep.model_validate_json(step) for step in saved["steps"])
    return Decided(parse_architecture(saved["architecture"]), steps)


def _defaults(config: Any, saved: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Of the settings of a dataclass, those of nested ones too, flat; not of a nested one that was another kind."""
    if not any(f"{prefix}{one.name}" in saved for one in fields(config)):
        return {}
    flat: dict[str, Any] = {}
    for one in fields(config):
        value = getattr(config, one.name)
        if is_dataclass(value):
            flat |= _defaults(value, saved, f"{prefix}{one.name}.")
        elif one.default is not MISSING:
            flat |= _flat({one.name: one.default}, prefix)
    return flat


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"rule": {"tau": 2.0}} -> {"rule.tau": 2.0}, with values as JSON gives them back, so that two runs compare."""
    flat: dict[str, Any] = {}
    for key, value in json.loads(json.dumps(values)).items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
