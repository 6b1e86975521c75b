"""A whole run in the time that there is: growth as it was planned, then as much distillation as is left time for.

What growth took longer or shorter than planned, distillation makes up for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from trainer.config import RunConfig
from trainer.data.datasets import Data
from trainer.distil import growth_plan as growth
from trainer.distil import plan as lessons
from trainer.distil.distil import members_of
from trainer.journal.journal import run_directory
from trainer.journal.plans import kept
from trainer.journal.records import PlanRecord, Record
from trainer.loop.batches import fitted

# Of the time: what growth is planned for, what it may take if all is slower, and the end of distillation.
_GROWTH, _LONGEST_GROWTH, _END = 0.65, 0.85, 0.95


@dataclass(frozen=True)
class TimedRun:
    """Both plans are kept in the run's directory: a run that goes on keeps to them. `started`: of `time.monotonic`."""

    data: Data
    zoo: Path
    device: torch.device
    started: float
    seconds: float
    observe: Callable[[Record], None]
    at: Callable[[str], None] = lambda _: None

    def growth(self, config: RunConfig) -> RunConfig:
        """The run with sizes and epochs that fit. Raises RunError, see `trainer.distil.growth_plan.planned`."""
        wanted = growth.in_short(config, self.seconds, self.device)

        def make() -> growth.Plan:
            return growth.planned(wanted, self.data, self.device, self._until(_GROWTH), self.at)

        key = [f"{self.seconds:g} s", str(self.device), repr(config), self.data.content.model_dump_json()]
        plan = kept(self._path(config, "plan.json"), key, growth.Plan, make)
        minutes = f"{plan.seconds / 60:.1f} of {self.seconds / 60:g} minutes"
        sizes = ", ".join(f"{size:,}" for size in plan.sizes)
        what = f"{plan.epochs} epochs, up to {sizes} parameters, in {minutes}; then distillation"
        self.observe(PlanRecord(what, self._until(_END)))
        return growth.within(wanted, plan, _LONGEST_GROWTH * self.seconds)

    def distillation(self, config: RunConfig, digests: Sequence[str]) -> RunConfig:
        """The run with as many epochs of it as the time that is left allows; 0: none."""
        *students, teacher = members = members_of(self.zoo, digests)
        spent = max(member.descriptor.cost.device_seconds for member in members)
        # A run that goes on has its time for growth behind it.
        seconds = min(self._until(_END), _END * self.seconds - spent)

        def make() -> int:
            if seconds <= 0 or not students:
                return 0
            fit = fitted(config, len(self.data.train))
            return lessons.epochs_within(members, self.data, fit, self.device, seconds, self.at)

        key = [f"{self.seconds:g} s", *digests]
        epochs = kept(self._path(config, "distil-plan.json"), key, int, make)
        what = f"{epochs} epochs of distillation from {teacher.params:,} parameters into each of {len(students)} sizes"
        self.observe(PlanRecord(what, max(0.0, seconds)))
        return replace(config, distil_epochs=epochs)

    def _until(self, share: float) -> float:
        return self.started + share * self.seconds - time.monotonic()

    def _path(self, config: RunConfig, name: str) -> Path:
        return run_directory(self.zoo, config, self.data.name) / name
