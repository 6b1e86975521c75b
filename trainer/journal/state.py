"""Training state between two epochs, to resume a run exactly; one file, replaced atomically."""

from __future__ import annotations

import json
import re
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
from zoo.errors import RunError
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
        {
            "version": _VERSION,
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
    kept = saved.read(path, device)
    if kept.get("version") != _VERSION:
        raise RunError(f"{path.parent} was written by another version of the trainer: use another --zoo or --seed")
    # A setting that there was not yet when the state was saved had its default.
    settings = _upgraded(kept["config"])
    before = _defaults(config, settings) | settings | kept["data"]
    now = _flat(asdict(config)) | _flat(data)
    differing = [key for key in before | now if before.get(key) != now.get(key) and not _may_differ(key)]
    if differing:
        differences = "; ".join(f"{key} = {before.get(key)}, not {now.get(key)}" for key in differing)
        raise RunError(
            f"{path.parent} was started with {differences}: resume with the same, or use another --zoo or --seed; "
            "other images may have another --name"
        )
    if config.epochs < kept["epoch"]:
        raise RunError(
            f"{path.parent} was last asked for {kept['config']['epochs']} epochs and has {kept['epoch']} behind it, "
            f"so it cannot end after {config.epochs}: --epochs {kept['epoch']} or more goes on with it"
        )
    # Runs of before these were bounded by the data go on with what they asked for.
    kept = {"batch_size": config.batch_size, "warmup_steps": config.warmup_steps, **kept}
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
        begun=Beginning(**kept.get("begun", {})),
        **{name: kept[name] for name in _PLAIN},
    )


def _may_differ(setting: str) -> bool:
    return setting in {"limits.max_seconds", "epochs"} or setting.startswith("distil_")


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


# Settings of before 2026-11-29 that had another name.
_RENAMED = {
    "expansion.noise_std": "recipe.initialization.std",
    "expansion.box_identity": "recipe.initialization.box_identity",
    "expansion.resets_widened": "recipe.initialization.resets_widened",
    "expansion.calibration_samples": "recipe.initialization.calibration_samples",
}
# Those that there are no more, with what every run now has, or all those that have no use for them.
_GONE = {"choose": "score", "curvature": "diagonal"}


def _upgraded(saved: dict[str, Any]) -> dict[str, Any]:
    """Settings saved before 2026-11-29, by today's names; those that no longer exist stay, and so differ."""
    old = dict(saved)
    if not any(name.startswith("expansion.") for name in old):
        return old
    is_ladder, is_exact = "expansion.sizes" in old, old.pop("expansion.exact", True)
    if old.get("anneal_share", 0.0) == 0 or old.get("continue_from") == "branch":
        old.pop("continue_from", None)
    for name, value in _GONE.items():
        if old.get(f"expansion.{name}") == value:
            del old[f"expansion.{name}"]
    if is_ladder and not is_exact:
        old["expansion.exact"] = False
    unused = {"calibration_samples"} if is_ladder or not is_exact else {"noise_std", "box_identity", "resets_widened"}
    if old.pop("expansion.rule.fisher", "sample") == "sample":
        unused |= {"rule.damping", "rule.per_parameter"}
    kept = {name: value for name, value in old.items() if name.removeprefix("expansion.") not in unused}

    def renamed(name: str) -> str:
        return _RENAMED.get(name) or re.sub(r"^expansion\.", "recipe.", name)

    return {renamed(name): value for name, value in kept.items()}


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
