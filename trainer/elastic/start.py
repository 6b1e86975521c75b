"""What an elastic run begins with: a checkpoint, or a named run's network with random weights; and how it trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trainer.config import RunConfig
from trainer.distil.distil import descriptors_of, find
from trainer.journal.origin import Origin, read, read_from
from trainer.recipes.names import elastic_name, run_named
from trainer.recipes.overrides import Overrides
from trainer.recipes.runs import RUNS
from zoo.errors import RunError
from zoo.store.directory import Directory


def start_of(text: str, zoo: Path, overrides: Overrides) -> tuple[RunConfig, Origin | RunConfig]:
    """The run whose settings count, and what to begin with: `text` is a run, a file or the digits of a digest.

    A checkpoint counts as of the run that made it. Raises RunError where it is none of these.
    """
    if text in RUNS:
        run = run_named(text, overrides)
        return run, run
    origin = checkpoint_of(text, zoo)
    return run_named(origin.descriptor.lineage.run, overrides), origin


def checkpoint_of(text: str, zoo: Path) -> Origin:
    """A file, or the checkpoint in the zoo whose digest begins so. Raises RunError and CheckpointError."""
    path = Path(text)
    if path.is_file():
        return read(path)
    directory = Directory(zoo)
    try:
        return read_from(directory, find(zoo, descriptors_of(directory) if zoo.is_dir() else {}, text))
    except RunError as error:
        raise RunError(f"{text} is no file, and no run ({', '.join(RUNS)}); {error}") from None


def named(run: RunConfig, *, freeze: bool) -> RunConfig:
    """The run's settings under the name of its elastic run, whose learning rate falls by steps, not by validation."""
    return replace(run, name=elastic_name(run.name, freeze=freeze))
