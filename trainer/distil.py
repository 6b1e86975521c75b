"""The last pass of a run: its best checkpoint teaches the smaller ones.

Each student trains on from its own weights, with a learning rate that falls to 0, on the teacher's softened answers.
One that gets better on validation images becomes a new file whose parent is the student; the old file stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from trainer import optim
from trainer.config import RunConfig
from trainer.data import Data
from trainer.grow import lock, run_directory
from trainer.loop import WeightAverage, evaluate, train_epoch
from trainer.records import DistilledRecord, Record, write
from trainer.seeds import seed_epoch
from trainer.step import TrainingStep, pays_to_compile
from zoo.checkpoint import Checkpoint, decode, encode, read_header
from zoo.cost import num_macs, num_params, training_flops
from zoo.descriptor import Descriptor, Metrics
from zoo.errors import CheckpointError
from zoo.module import GraphModule, module_of
from zoo.storage import Directory


@dataclass(frozen=True)
class _Member:
    """A checkpoint of the run."""

    digest: str
    checkpoint: Checkpoint

    @property
    def descriptor(self) -> Descriptor:
        return self.checkpoint.descriptor

    @property
    def val_accuracy(self) -> float:
        return self.descriptor.metrics.validation.accuracy

    @property
    def params(self) -> int:
        return num_params(self.descriptor.architecture.graph())

    def module(self, device: torch.device) -> GraphModule:
        return module_of(self.checkpoint).to(device)


def distil(
    config: RunConfig,
    data: Data,
    zoo: Path,
    digests: tuple[str, ...],
    device: torch.device,
    observe: Callable[[Record], None],
) -> Iterator[str]:
    """Distils the best of the checkpoints (by validation accuracy; of equals the largest) into those smaller than it.

    Yields the digest of each new one as it is saved. Students that were distilled before are not again, but told of:
    a resumed run has cut its log back to the end of growth. Raises RunError where another process is at work on it.
    """
    directory, run = Directory(zoo), run_directory(zoo, config, data.name)
    members = [_Member(digest, decode(directory.path(digest).read_bytes(), digest)) for digest in digests]
    teacher = max(members, key=lambda member: (member.val_accuracy, member.params))
    before = _distilled_before(directory, teacher.digest)
    with (run / "log.jsonl").open("ab") as log:
        lock(log, run)
        for student in members:
            if student.params >= teacher.params:
                continue
            record = before.get(student.digest)
            if record is None:
                record = _distil_one(config, data, directory, student, teacher, device)
            write(record, log)
            observe(record)
            if record.digest is not None and student.digest not in before:
                yield record.digest


def _distilled_before(directory: Directory, teacher: str) -> dict[str, DistilledRecord]:
    """By student. Files that are no checkpoint, or gone by now, are none."""
    headers = {}
    for digest, path in directory.paths():
        with suppress(CheckpointError, FileNotFoundError):
            headers[digest] = read_header(path)
    found = {}
    for digest, header in headers.items():
        after, parent = header.descriptor, header.descriptor.lineage.parent or ""
        if after.lineage.distilled_from == teacher and parent in headers:
            before = headers[parent].descriptor
            found[parent] = DistilledRecord(
                student=parent,
                teacher=teacher,
                params=header.params,
                val_accuracy_before=before.metrics.validation.accuracy,
                val_accuracy=after.metrics.validation.accuracy,
                digest=digest,
                seconds=after.cost.device_seconds - before.cost.device_seconds,
            )
    return found


def _distil_one(
    config: RunConfig,
    data: Data,
    directory: Directory,
    student: _Member,
    teacher: _Member,
    device: torch.device,
) -> DistilledRecord:
    started = time.perf_counter()
    module, train = student.module(device), data.train.to(device)
    step = TrainingStep(
        module,
        optim.make(module, config),
        config,
        data.preprocessing,
        teacher=teacher.module(device),
        compiled=pays_to_compile(config, num_macs(module.graph), len(train)),
    )
    average = WeightAverage(module, config.average_decay)
    steps = step.num_steps(len(train))
    total = config.distil_epochs * steps
    # Up quickly and down slowly: the student comes from the end of an annealing.
    rates = [config.learning_rate * min((number + 1) / steps, 1 - number / total) for number in range(total)]
    for epoch in range(config.distil_epochs):
        generator = seed_epoch(config, epoch, f"distilling {student.digest}")
        train_epoch(step, train, generator, learning_rates=rates[epoch * steps : (epoch + 1) * steps], average=average)
    result = average.module
    validation = evaluate(result, data.validation.to(device), data.preprocessing, len(data.classes))
    seconds = time.perf_counter() - started
    digest = None
    if validation.accuracy > student.val_accuracy:
        # The test split is read once, for a checkpoint that is kept.
        test = evaluate(result, data.test.to(device), data.preprocessing, len(data.classes))
        metrics = Metrics(validation=validation, test=test)
        num_images = config.distil_epochs * step.num_trained(len(train))
        descriptor = _distilled(student, teacher, metrics, config.distil_epochs, num_images, seconds)
        digest = directory.put(encode(Checkpoint(descriptor, result.tensors())))
    return DistilledRecord(
        student=student.digest,
        teacher=teacher.digest,
        params=num_params(result.graph),
        val_accuracy_before=student.val_accuracy,
        val_accuracy=validation.accuracy,
        digest=digest,
        seconds=seconds,
    )


def _distilled(
    student: _Member, teacher: _Member, metrics: Metrics, epochs: int, num_images: int, seconds: float
) -> Descriptor:
    """The student's descriptor, with the cost of its own further training and of the teacher's answers."""
    before = student.descriptor
    macs, teacher_macs = (num_macs(member.descriptor.architecture.graph()) for member in (student, teacher))
    flops = training_flops(macs, num_images) + 2 * teacher_macs * num_images
    return before.model_copy(
        update={
            "lineage": before.lineage.model_copy(update={"parent": student.digest, "distilled_from": teacher.digest}),
            "metrics": metrics,
            "cost": before.cost.model_copy(
                update={
                    "epochs": before.cost.epochs + epochs,
                    "device_seconds": round(before.cost.device_seconds + seconds, 3),
                    "training_flops": before.cost.training_flops + flops,
                }
            ),
            "created_at": datetime.now(UTC),
        }
    )
