"""What an elastic run begins with: a checkpoint, or a named run's network with random weights; and how it trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trainer.config import RunConfig
from trainer.distil.distil import checkpoint_of
from trainer.journal.origin import Origin
from trainer.recipes.names import elastic_name, run_named
from trainer.recipes.overrides import Overrides
from trainer.recipes.runs import RUNS
from zoo.errors import RunError


def start_of(text: str, zoo: Path, overrides: Overrides) -> tuple[RunConfig, Origin | RunConfig]:
    """The run whose settings count, and what to begin with: `text` is a run, a file or the digits of a digest.

    A checkpoint counts as of the run that made it. Raises RunError where it is none of these.
    """
    if text in RUNS:
        run = run_named(text, overrides)
        return run, run
    try:
        origin = checkpoint_of(text, zoo)
    except RunError as error:
        raise RunError(f"{text} is no file, and no run ({', '.join(RUNS)}); {error}") from None
    return run_named(origin.descriptor.lineage.run, overrides), origin


def named(run: RunConfig, *, freeze: bool) -> RunConfig:
    """The run's settings under the name of its elastic run, whose learning rate falls by steps, not by validation."""
    return replace(run, name=elastic_name(run.name, freeze=freeze))
