"""Distillation: the best checkpoint of a run, or any larger one, teaches the smaller ones.

Each student trains on from its own weights, with a learning rate that falls to 0, on the teacher's softened answers.
One that gets better on validation images becomes a new file whose parent is the student; the old file stays. Each
epoch's end is kept in the run's directory, from which an interrupted pass goes on exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from trainer.config import RunConfig
from trainer.data.datasets import Data
from trainer.distil.distilled import DISTILLED, Memory
from trainer.distil.lessons import Lessons, save
from trainer.journal.journal import lock, run_directory
from trainer.journal.origin import Member, Origin, check_images, differences, read, read_from
from trainer.journal.records import DistilledRecord, Record, line_of, write
from trainer.loop.batches import fitted
from trainer.loop.epoch import evaluate
from trainer.loop.step import prepared
from zoo.checkpoint.descriptor import Descriptor
from zoo.checkpoint.elastic import headers_of
from zoo.checkpoint.file import read_header
from zoo.errors import CheckpointError, RunError
from zoo.network.cost import num_params
from zoo.store.directory import Directory


def pair(zoo: Path, data: Data, student: str, teacher: str | None = None) -> tuple[Descriptor, tuple[str, str]]:
    """The student's descriptor, and both digests in full, of which the first digits are enough.

    Without a teacher, the best of those that could teach it. Raises RunError unless there is one of each, both are of
    these images, and the teacher is larger and no worse.
    """
    found = descriptors_of(Directory(zoo))
    taught = find(zoo, found, student)
    check_images(taught[:12], found[taught], data)
    accuracy, params = _rank(found[taught])

    def can_teach(descriptor: Descriptor) -> bool:
        theirs, size = _rank(descriptor)
        return size > params and theirs >= accuracy and not any(differences(descriptor, data))

    candidates = found if teacher is None else [find(zoo, found, teacher)]
    able = [digest for digest in candidates if can_teach(found[digest])]
    if not able:
        who = f"none in {zoo} is" if teacher is None else f"{teacher} is not"
        raise RunError(
            f"{taught[:12]} has {params:,} parameters and validation accuracy {accuracy:.4f}: its teacher should be "
            f"larger, no worse, and of the same images, and {who}"
        )
    return found[taught], (taught, max(able, key=lambda digest: _rank(found[digest])))


def find(zoo: Path, digests: Iterable[str], prefix: str) -> str:
    """The digest that begins so. Raises RunError unless there is one and no other."""
    matching = [digest for digest in digests if digest.startswith(prefix)]
    if not matching:
        raise RunError(f"{zoo} holds no checkpoint whose digest begins with {prefix}")
    if len(matching) > 1:
        raise RunError(f"several checkpoints in {zoo} begin with {prefix}: give more of the digest's digits")
    return matching[0]


def checkpoint_of(text: str, zoo: Path) -> Origin:
    """A file, or the checkpoint in the zoo whose digest begins so. Raises RunError and CheckpointError."""
    path = Path(text)
    if path.is_file():
        return read(path)
    directory = Directory(zoo)
    return read_from(directory, find(zoo, descriptors_of(directory) if zoo.is_dir() else {}, text))


def _rank(descriptor: Descriptor) -> tuple[float, int]:
    """By validation accuracy; of equals the largest."""
    return descriptor.metrics.validation.accuracy, num_params(descriptor.architecture.graph())


def distil(
    config: RunConfig,
    data: Data,
    zoo: Path,
    digests: tuple[str, ...],
    device: torch.device,
    observe: Callable[[Record], None],
    at: Callable[[str], None] = lambda _: None,
) -> Iterator[str]:
    """Distils the best of the checkpoints (by validation accuracy; of equals the largest) into those smaller than it,
    the smallest first.

    Yields the digest of each better one. Students that were distilled before are not again, but told of: a resumed run
    has cut its log back to the end of growth. Of one that was interrupted the epochs so far are. Raises RunError where
    another process is at work on it. `at` is told what takes time now.
    """
    directory, run = Directory(zoo), run_directory(zoo, config, data.name)
    *students, teacher = members_of(zoo, digests)
    config = fitted(config, len(data.train))
    memory = Memory(run / DISTILLED, config)
    students = [student.licensed(config.license) for student in students]
    lessons = Lessons(config, data, [teacher], device, run, at=at)
    with logged(run, observe) as tell:
        before = _distilled_before(directory, teacher.digest, config.distil_epochs, memory)
        for student in students:
            record = before.get(student.digest)
            if record is None:
                with prepared(device, config):
                    record = _distil_one(data, directory, student, teacher, lessons, tell, at)
                memory.add(record)
            tell(record)
            if record.digest is not None:
                yield record.digest
    lessons.remove()


def members_of(zoo: Path, digests: Sequence[str]) -> list[Member]:
    """The best of the checkpoints, last, and those smaller than it, which it can teach, the smallest first."""
    directory = Directory(zoo)
    members = [read_from(directory, digest) for digest in digests]
    best = max(members, key=lambda member: _rank(member.descriptor))
    students = sorted((one for one in members if one.params < best.params), key=lambda one: (one.params, one.digest))
    return [*students, best]


@contextmanager
def logged(run: Path, observe: Callable[[Record], None]) -> Iterator[Callable[[Record], None]]:
    """Records are observed, and appended to the run's log unless they stand there. Raises RunError where another
    process is at work on the run."""
    run.mkdir(parents=True, exist_ok=True)
    with (run / "log.jsonl").open("ab+") as log:
        lock(log, run)
        log.seek(0)
        lines = {line.rstrip(b"\n") for line in log}

        def tell(record: Record) -> None:
            if line_of(record) not in lines:
                write(record, log)
            observe(record)

        yield tell


def _distilled_before(directory: Directory, teacher: str, epochs: int, memory: Memory) -> dict[str, DistilledRecord]:
    """By student, with these settings. Files that are no checkpoint, or gone by now, are none.

    Files that nothing is remembered of, from another machine or from before there was a memory, show their epochs only.
    """
    descriptors, found = descriptors_of(directory), {}
    for digest, after in descriptors.items():
        before = descriptors.get(after.lineage.parent or "")
        if after.lineage.distilled_from != teacher or before is None or memory.knows(digest):
            continue
        if after.lineage.run != before.lineage.run:  # a level of an elastic run that began with it
            continue
        if after.cost.epochs - before.cost.epochs == epochs:
            record = record_of(before, digest, after)
            found[record.student] = record
    remembered = [record for record in memory.same() if record.teacher == teacher]
    return found | {one.student: one for one in remembered if one.digest is None or one.digest in descriptors}


def descriptors_of(directory: Directory) -> dict[str, Descriptor]:
    """By digest, levels of elastic files too. Files that are no checkpoint, or gone by now, have none."""
    found: dict[str, Descriptor] = {}
    for _, path in directory.paths():
        with suppress(CheckpointError, FileNotFoundError):
            found |= {digest: header.descriptor for digest, header in headers_of(path).items()}
    return found


def record_of(before: Descriptor, digest: str, after: Descriptor) -> DistilledRecord:
    """Of a student with a file of its own now, from what the two files say."""
    assert after.lineage.parent is not None
    return DistilledRecord(
        student=after.lineage.parent,
        teacher=after.lineage.distilled_from,
        params=num_params(after.architecture.graph()),
        val_accuracy_before=before.metrics.validation.accuracy,
        val_accuracy=after.metrics.validation.accuracy,
        digest=digest,
        seconds=round(after.cost.device_seconds - before.cost.device_seconds, 3),
    )


def _distil_one(
    data: Data,
    directory: Directory,
    student: Member,
    teacher: Member,
    lessons: Lessons,
    tell: Callable[[Record], None],
    at: Callable[[str], None],
) -> DistilledRecord:
    result, epochs = lessons.teach(student, tell)
    at("evaluating and testing")
    validation = evaluate(result, data.validation.to(lessons.device), data.preprocessing, len(data.classes))
    seconds = sum(epoch.seconds for epoch in epochs)
    if validation.accuracy > student.val_accuracy:
        digest = save(directory, result, validation, student, teacher, data, epochs, lessons.device)
        return record_of(student.descriptor, digest, read_header(directory.path(digest)).descriptor)
    return DistilledRecord(
        student=student.digest,
        teacher=teacher.digest,
        params=num_params(result.graph),
        val_accuracy_before=student.val_accuracy,
        val_accuracy=validation.accuracy,
        digest=None,
        seconds=round(seconds, 3),
    )
