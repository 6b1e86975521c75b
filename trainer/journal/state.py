"""Training state between two epochs, to resume a run exactly; one file, replaced atomically."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from trainer.config import RunConfig
from trainer.growth.recipe import Beginning, Growth
from trainer.journal import saved
from trainer.loop import optim
from trainer.loop.state import Branch, RunState, plateau
from zoo.checkpoint.descriptor import Accuracy, ExpansionStep
from zoo.network.families.registry import parse as parse_architecture
from zoo.runtime.module import GraphModule

# Changes whenever the contents of the file do.
_VERSION = 6
# Fields of a RunState that are saved as they are.
_PLAIN = (
    *("epoch", "num_epochs", "checkpoint_epoch", "finished_branch", "device_seconds", "training_flops", "device"),
    *("log_bytes", "batch_size", "warmup_steps"),
)


def save(path: Path, state: RunState, config: RunConfig, data: dict[str, Any]) -> None:
    """`data` says which images the run uses; `load` refuses to go on with others."""
    assert state.saved_at is not None
    saved.write(
        path,
        _VERSION,
        {
            "config": _flat(asdict(config)),
            "data": _flat(data),
            "architecture": state.architecture.model_dump_json(),
            "module": state.module.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "scheduler": state.scheduler.state_dict(),
            "validation": state.validation.model_dump_json() if state.validation else None,
            "expansions": [step.model_dump_json() for step in state.expansions],
            "checkpoints": list(state.checkpoints),
            "decided": _saved_growth(state.growth),
            "branch": vars(state.branch) if state.branch else None,
            "saved_at": state.saved_at.isoformat(),
            "begun": vars(state.begun),
            **{name: getattr(state, name) for name in _PLAIN},
        },
    )


def load(path: Path, config: RunConfig, data: dict[str, Any], device: torch.device) -> RunState:
    """Raises RunError where the file is damaged, or the run was started with other data, or another configuration than
    this: growth does not depend on how long it may take in all, nor on distillation, which keeps its own settings.
    """
    kept = saved.read(path, _VERSION, device)
    # A setting that there was not yet when the state was saved had its default.
    before = _defaults(config, kept["config"]) | kept["config"] | kept["data"]
    saved.require_same(path.parent, before, _flat(asdict(config)) | _flat(data), _may_differ)
    saved.require_epochs(path.parent, kept["config"]["epochs"], kept["epoch"], config.epochs)
    architecture = parse_architecture(kept["architecture"])
    module = GraphModule(architecture.graph()).to(device)
    module.load_state_dict(kept["module"])
    optimizer = optim.make(module, config)
    optim.load_state(optimizer, kept["optimizer"])
    scheduler = plateau(optimizer, config)
    scheduler.load_state_dict(kept["scheduler"])
    validation = kept["validation"]
    return RunState(
        architecture=architecture,
        module=module,
        optimizer=optimizer,
        scheduler=scheduler,
        validation=Accuracy.model_validate_json(validation) if validation else None,
        expansions=tuple(ExpansionStep.model_validate_json(step) for step in kept["expansions"]),
        checkpoints=tuple(kept["checkpoints"]),
        growth=_growth(kept["decided"]),
        branch=Branch(**kept["branch"]) if kept["branch"] else None,
        saved_at=datetime.fromisoformat(kept["saved_at"]),
        begun=Beginning(**kept["begun"]),
        **{name: kept[name] for name in _PLAIN},
    )


def _may_differ(setting: str) -> bool:
    return setting in {"limits.max_seconds", "epochs", "cpu_threads"} or setting.startswith("distil_")


def _saved_growth(growth: Growth | None) -> dict[str, Any] | None:
    if growth is None:
        return None
    steps = [step.model_dump_json() for step in growth.steps]
    return {"architecture": growth.architecture.model_dump_json(), "steps": steps}


def _growth(saved: dict[str, Any] | None) -> Growth | None:
    if saved is None:
        return None
    steps = tuple(ExpansionStep.model_validate_json(step) for step in saved["steps"])
    return Growth(parse_architecture(saved["architecture"]), steps)


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
