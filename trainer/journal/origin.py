"""Checkpoints that training begins with: what a run starts from (`--from`), a teacher, a student."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import torch

from trainer.config import RunConfig
from trainer.data.datasets import Data
from trainer.growth.recipe import Beginning
from zoo.checkpoint import file as checkpoint
from zoo.checkpoint.descriptor import Dataset, Descriptor
from zoo.checkpoint.elastic import ElasticFile, is_elastic
from zoo.checkpoint.file import Checkpoint, digest_of
from zoo.errors import CheckpointError, NotFoundError, RunError
from zoo.network.cost import num_macs, num_params
from zoo.runtime.module import GraphModule, module_of
from zoo.store.directory import Directory


@dataclass(frozen=True)
class Member:
    """A checkpoint that is begun with, teaches or learns. Its weights may be those of the file `digest`, adapted to
    other images."""

    digest: str
    checkpoint: Checkpoint

    def licensed(self, terms: str | None) -> Member:
        """The same with this licence, which what is trained from it inherits; None keeps its own."""
        if terms is None:
            return self
        descriptor = self.descriptor.model_copy(update={"license": terms})
        return Member(self.digest, replace(self.checkpoint, descriptor=descriptor))

    @property
    def descriptor(self) -> Descriptor:
        return self.checkpoint.descriptor

    @property
    def val_accuracy(self) -> float:
        return self.descriptor.metrics.validation.accuracy

    @property
    def params(self) -> int:
        return num_params(self.descriptor.architecture.graph())

    @property
    def macs(self) -> int:
        return num_macs(self.descriptor.architecture.graph())

    def module(self, device: torch.device) -> GraphModule:
        return module_of(self.checkpoint).to(device)


@dataclass(frozen=True)
class Origin(Member):
    """With the name and the bytes of its file."""

    name: str
    content: bytes

    def beginning(self) -> Beginning:
        epoch, cost = self.descriptor.lineage.epoch, self.descriptor.cost
        return Beginning(epoch, self.params, cost.device, cost.device_seconds, cost.training_flops)


def read(path: Path) -> Origin:
    """Raises CheckpointError unless the file is one whole checkpoint, and OSError where it cannot be read."""
    return origin_of(checkpoint.read(path), path.name)


def origin_of(content: bytes, name: str) -> Origin:
    """Of a file's bytes. Raises CheckpointError."""
    return Origin(digest_of(content), checkpoint.decode(content, name), name, content)


def read_from(directory: Directory, digest: str) -> Origin:
    """A checkpoint in a zoo: a file of its own, or a level of an elastic file. Raises NotFoundError, or as `read`."""
    try:
        return read(directory.path(digest))
    except NotFoundError:
        for _, path in directory.paths():
            with suppress(FileNotFoundError), path.open("rb") as file:
                if (level := _levels(file, path.name).get(digest)) is not None:
                    return origin_of(ElasticFile(file, path.name).extract(level), f"{digest}.safetensors")
        raise


def _levels(file: BinaryIO, name: str) -> dict[str, int]:
    """Their numbers by digest; none of a file that is no elastic one, or a damaged one."""
    if is_elastic(file):
        with suppress(CheckpointError):
            return {level.digest: level.number for level in ElasticFile(file, name).levels}
    return {}


def check(origin: Origin, config: RunConfig, data: Data) -> None:
    """Raises RunError where a run with this configuration cannot go on from the checkpoint, on these images."""
    descriptor, lineage = origin.descriptor, origin.descriptor.lineage
    if (lineage.run, lineage.seed) != (config.name, config.seed):
        raise RunError(
            f"{origin.name} is of run {lineage.run} with seed {lineage.seed}, not of {config.name} with seed "
            f"{config.seed}: begin with that run and seed"
        )
    check_images(origin.name, descriptor, data)
    if lineage.epoch >= config.epochs:
        raise RunError(
            f"{origin.name} has {lineage.epoch} epochs of its trunk behind it, and the run ends after "
            f"{config.epochs}: --epochs counts them all"
        )
    if descriptor.metrics.test is None:
        raise RunError(f"{origin.name} has no test accuracy, which this run's checkpoints have")
    if not config.limits.allow(origin.params, origin.macs):
        raise RunError(
            f"{origin.name} has {origin.params:,} parameters and {origin.macs:,} multiply-accumulates an image: allow "
            "as many, or begin with a smaller one"
        )


def check_images(name: str, descriptor: Descriptor, data: Data) -> None:
    """Raises RunError where the checkpoint of that name is one of other images.

    It should not be validated on images that it was trained on: name, numbers, classes and pixel statistics show
    whether these are the same.
    """
    for difference in differences(descriptor, data):
        raise RunError(f"{name} has another {difference}")


def differences(descriptor: Descriptor, data: Data) -> Iterator[str]:
    """Between a checkpoint's images and these."""
    then, now = descriptor.dataset, data.record()
    facts: dict[str, tuple[object, object]] = {
        "classes": (descriptor.classes, data.classes),
        "data set": (_counted(then), _counted(now)),
    }
    shape = channels, height, width = descriptor.architecture.graph().input_shape
    if shape != data.image_shape:
        resized = f": give --image-size {height}" if (channels, height) == (data.image_shape[0], width) else ""
        yield f"image shape: ({shape}), not ({data.image_shape}){resized}"
    for what, (before, here) in facts.items():
        if before != here:
            yield f"{what}: ({before}), not ({here})"
    if _counted(then) == _counted(now) and then.is_other_than(now):
        yield f"data set: it is called {then.name} too, but these are other images, or they are split in another way"
    if descriptor.preprocessing != data.preprocessing:
        fits = descriptor.preprocessing.fit, data.preprocessing.fit
        option = f": give --fit {fits[0] or 'squeeze'}" if fits[0] != fits[1] else ""
        yield f"preprocessing: ({descriptor.preprocessing}), not ({data.preprocessing}){option}"


def _counted(dataset: Dataset) -> str:
    counts = dataset.num_train, dataset.num_validation, dataset.num_test
    return f"{dataset.name}, {' + '.join(f'{count:,}' for count in counts)} images"


def last_saved(log: Path) -> tuple[str | None, int]:
    """The digest of the last checkpoint that a run's log tells of, and how many bytes it has up to there."""
    digest, end, position = None, 0, 0
    for line in log.read_bytes().splitlines(keepends=True):
        position += len(line)
        try:
            record = json.loads(line)
        except ValueError:  # the last line, if the process was killed while it wrote it
            continue
        if record["event"] == "checkpoint":
            digest, end = record["digest"], position
    return digest, end
