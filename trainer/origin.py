"""A checkpoint that a run begins with: its own, where its state is lost, or one that somebody published."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from trainer.config import BlueprintStart, RunConfig
from trainer.data import Data
from zoo.checkpoint import Checkpoint, digest_of, load
from zoo.cost import num_macs, num_params
from zoo.descriptor import Descriptor
from zoo.errors import RunError
from zoo.families.blueprint import BlueprintArchitecture


@dataclass(frozen=True)
class Origin:
    """A checkpoint, with the name and the bytes of its file."""

    name: str
    content: bytes
    checkpoint: Checkpoint

    @property
    def digest(self) -> str:
        return digest_of(self.content)

    @property
    def descriptor(self) -> Descriptor:
        return self.checkpoint.descriptor


def read(path: Path) -> Origin:
    """Raises CheckpointError unless the file is one whole checkpoint, and OSError where it cannot be read."""
    return Origin(path.name, path.read_bytes(), load(path))


def check(origin: Origin, config: RunConfig, data: Data) -> None:
    """Raises RunError where a run with this configuration cannot go on from the checkpoint, on these images.

    Its validation images should be those that it was validated on. Names, numbers and classes show whether they are.
    """
    descriptor = origin.descriptor
    graph = descriptor.architecture.graph()
    of_data = {
        "data set": (descriptor.dataset, data.record()),
        "image shape": (graph.input_shape, data.image_shape),
        "classes": (descriptor.classes, data.classes),
        "preprocessing": (descriptor.preprocessing, data.preprocessing),
    }
    for what, (of_origin, here) in of_data.items():
        if of_origin != here:
            raise RunError(f"{origin.name}: its {what} is {of_origin}, here it is {here}")
    if isinstance(descriptor.architecture, BlueprintArchitecture) is not isinstance(config.start, BlueprintStart):
        family, run = descriptor.architecture.family, descriptor.lineage.run
        raise RunError(f"{origin.name}: run {config.name} does not grow {family} networks; this one is of run {run}")
    if descriptor.lineage.epoch >= config.epochs:
        raise RunError(
            f"{origin.name} has {descriptor.lineage.epoch} epochs of its trunk behind it, and the run ends after "
            f"{config.epochs}: --epochs counts them all"
        )
    params, macs = num_params(graph), num_macs(graph)
    if not config.limits.allow(params, macs):
        raise RunError(
            f"{origin.name} has {params:,} parameters and {macs:,} multiply-accumulates an image: allow as many, or "
            "begin with a smaller one"
        )


def kept_log_bytes(log: Path, origin: Origin) -> int:
    """How much of a run's log led to the checkpoint. Raises RunError for a log of anything that was saved since."""
    kept, last = 0, None
    position = 0
    for line in log.read_bytes().splitlines(keepends=True):
        position += len(line)
        try:
            record = json.loads(line)
        except ValueError:  # a line that a power cut left
            continue
        if record["event"] == "checkpoint":
            kept, last = position, record["digest"]
    if last not in (None, origin.digest):
        raise RunError(f"{log} is of a run whose last checkpoint is {last}: begin with that, or use another --zoo")
    return kept
