"""An elastic run between two epochs: enough to go on exactly, in one file that is replaced whole."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

from trainer.config import RunConfig
from trainer.elastic.levels import Levels
from trainer.journal import saved
from trainer.journal.journal import RunLog
from zoo.checkpoint.file import digest_of
from zoo.errors import RunError
from zoo.network.cost import num_params

_VERSION = 1
_DEFAULTS = {one.name: repr(one.default) for one in fields(RunConfig) if one.default is not MISSING}


@dataclass
class ElasticState:
    """`stage` is what is trained together: all levels, or one of those that are frozen one after the other."""

    stage: int = 0
    # Of the stage.
    epoch: int = 0
    # Of the stage under way, see `trainer.elastic.stage`, and of the only one when it is over; None between two.
    training: dict[str, Any] | None = None
    # Files of the levels that are done, smallest first.
    files: list[bytes] = field(default_factory=list)
    num_epochs: int = 0
    device_seconds: float = 0.0
    training_flops: int = 0
    log_bytes: int = 0


@dataclass(frozen=True)
class Settings:
    """All that decides what comes of an elastic run, but for its images."""

    run: RunConfig
    levels: Levels
    freeze: bool = False
    ranked: bool = True
    teacher: str | None = None
    largest_weight: float = 1.0

    def flat(self) -> dict[str, str]:
        """Each by name, as text to be compared."""
        origin = self.levels.origin
        shown = {name: repr(value) for name, value in asdict(self.run).items() if name != "license" or value}
        sizes = [
            f"{num_params(one.graph()):,} parameters ({digest_of(one.model_dump_json().encode())[:8]})"
            for one in self.levels.architectures
        ]
        own: dict[str, object] = {"freeze": self.freeze, "ranking": self.ranked, "teacher": self.teacher}
        if self.largest_weight != 1:
            own["largest weight"] = self.largest_weight
        return shown | {
            "levels": ", ".join(sizes),
            "start": "random weights" if origin is None else digest_of(origin.content),
            **{name: repr(value) for name, value in own.items()},
        }


def save(log: RunLog, settings: Settings, state: ElasticState) -> None:
    """Of a group's processes the first one writes."""
    if not log.group.writes:
        return
    state.log_bytes = log.synced()
    saved.write(log.state_path, _VERSION, {"settings": _of(log, settings), "state": vars(state)})


def load(log: RunLog, settings: Settings) -> ElasticState:
    """Raises RunError where the file is damaged, or the run was started with other settings (more epochs are fine) or
    images."""
    kept = saved.read(log.state_path, _VERSION, log.device)
    # A setting that there was not yet when the state was saved had its default.
    before, now = _DEFAULTS | kept["settings"], _DEFAULTS | _of(log, settings)
    saved.require_same(log.directory, before, now, lambda setting: setting in ("epochs", "cpu_threads"))
    state, asked = ElasticState(**kept["state"]), int(before["epochs"])
    if asked != settings.run.epochs:
        _change_epochs(log, settings, state, asked)
    return state


def _change_epochs(log: RunLog, settings: Settings, state: ElasticState, asked: int) -> None:
    """To those of the settings, from so many that were asked for. A stage that was over goes on from its last epoch, at
    the learning rate that a run of so many epochs has there. Raises RunError where that cannot be."""
    epochs = settings.run.epochs
    if state.stage > 0 and settings.freeze:
        raise RunError(
            f"{log.directory}: its smallest level was frozen after {asked} epochs, so larger ones cannot have "
            f"{epochs}: --epochs {asked} goes on with it"
        )
    done = state.training["epochs_done"] if state.training is not None else 0
    saved.require_epochs(log.directory, asked, done, epochs)
    state.stage, state.files = 0, []


def _of(log: RunLog, settings: Settings) -> dict[str, str]:
    return settings.flat() | {name: repr(value) for name, value in log.data_record.items()}
