"""The last pass of a run: its best checkpoint teaches the smaller ones. So may any pair of a zoo's checkpoints.

Each student trains on from its own weights, with a learning rate that falls to 0, on the teacher's softened answers.
One that gets better on validation images becomes a new file whose parent is the student; the old file stays. Each
epoch's end is kept in the run's directory, from which an interrupted pass goes on exactly.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from trainer import optim
from trainer.answers import Answers, Teacher
from trainer.config import RunConfig
from trainer.data import Data
from trainer.grow import device_name, lock, run_directory
from trainer.loop import WeightAverage, evaluate, train_epoch
from trainer.origin import check_images, differences
from trainer.records import DistilledRecord, LessonRecord, Record, line_of, write
from trainer.seeds import seed_epoch
from trainer.step import TrainingStep, pays_to_compile
from zoo.checkpoint import Checkpoint, decode, encode, read_header
from zoo.cost import num_macs, num_params, training_flops
from zoo.descriptor import Descriptor, Metrics, join_devices
from zoo.errors import CheckpointError, RunError
from zoo.module import GraphModule, module_of
from zoo.storage import Directory, write_atomically


@dataclass(frozen=True)
class Member:
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


def pair(zoo: Path, data: Data, student: str, teacher: str | None = None) -> tuple[Descriptor, tuple[str, str]]:
    """The student's descriptor, and both digests in full, of which the first digits are enough.

    Without a teacher, the best of those that could teach it. Raises RunError unless there is one of each, both are of
    these images, and the teacher is larger and no worse.
    """
    found = _descriptors(Directory(zoo))
    taught = _find(zoo, found, student)
    check_images(taught[:12], found[taught], data)
    accuracy, params = _rank(found[taught])

    def can_teach(descriptor: Descriptor) -> bool:
        theirs, size = _rank(descriptor)
        return size > params and theirs >= accuracy and not any(differences(descriptor, data))

    candidates = found if teacher is None else [_find(zoo, found, teacher)]
    able = [digest for digest in candidates if can_teach(found[digest])]
    if not able:
        who = f"none in {zoo} is" if teacher is None else f"{teacher} is not"
        raise RunError(
            f"{taught[:12]} has {params:,} parameters and validation accuracy {accuracy:.4f}: its teacher should be "
            f"larger, no worse, and of the same images, and {who}"
        )
    return found[taught], (taught, max(able, key=lambda digest: _rank(found[digest])))


def _find(zoo: Path, digests: Iterable[str], prefix: str) -> str:
    matching = [digest for digest in digests if digest.startswith(prefix)]
    if not matching:
        raise RunError(f"{zoo} holds no checkpoint whose digest begins with {prefix}")
    if len(matching) > 1:
        raise RunError(f"several checkpoints in {zoo} begin with {prefix}: give more of the digest's digits")
    return matching[0]


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
) -> Iterator[str]:
    """Distils the best of the checkpoints (by validation accuracy; of equals the largest) into those smaller than it,
    the smallest first.

    Yields the digest of each better one. Students that were distilled before are not again, but told of: a resumed run
    has cut its log back to the end of growth. Of one that was interrupted the epochs so far are. Raises RunError where
    another process is at work on it.
    """
    directory, run = Directory(zoo), run_directory(zoo, config, data.name)
    members = [Member(digest, decode(directory.path(digest).read_bytes(), digest)) for digest in digests]
    teacher = max(members, key=lambda member: _rank(member.descriptor))
    before = _distilled_before(directory, teacher.digest)
    students = sorted((one for one in members if one.params < teacher.params), key=lambda one: (one.params, one.digest))
    lessons = Lessons(config, data, [teacher], device, run)
    with logged(run, observe) as tell:
        for student in students:
            record = before.get(student.digest)
            if record is None:
                record = _distil_one(data, directory, student, teacher, lessons, tell)
            tell(record)
            if record.digest is not None:
                yield record.digest
    lessons.remove()


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


def _distilled_before(directory: Directory, teacher: str) -> dict[str, DistilledRecord]:
    """By student. Files that are no checkpoint, or gone by now, are none."""
    descriptors, found = _descriptors(directory), {}
    for digest, after in descriptors.items():
        parent = after.lineage.parent or ""
        if after.lineage.distilled_from == teacher and parent in descriptors:
            found[parent] = _record(descriptors[parent], digest, after)
    return found


def _descriptors(directory: Directory) -> dict[str, Descriptor]:
    """By digest. Files that are no checkpoint, or gone by now, have none."""
    found = {}
    for digest, path in directory.paths():
        with suppress(CheckpointError, FileNotFoundError):
            found[digest] = read_header(path).descriptor
    return found


def _record(before: Descriptor, digest: str, after: Descriptor) -> DistilledRecord:
    """Of a student that got better, from what the two files say."""
    parent, teacher = after.lineage.parent, after.lineage.distilled_from
    assert parent is not None
    assert teacher is not None
    return DistilledRecord(
        student=parent,
        teacher=teacher,
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
) -> DistilledRecord:
    result, epochs = lessons.teach(student, tell)
    validation = evaluate(result, data.validation.to(lessons.device), data.preprocessing, len(data.classes))
    seconds = sum(epoch.seconds for epoch in epochs)
    if validation.accuracy > student.val_accuracy:
        # The test split is read once, for a checkpoint that is kept.
        test = evaluate(result, data.test.to(lessons.device), data.preprocessing, len(data.classes))
        metrics = Metrics(validation=validation, test=test)
        descriptor = distilled(student, teacher, data, metrics, epochs, device_name(lessons.device))
        digest = directory.put(encode(Checkpoint(descriptor, result.tensors())))
        return _record(student.descriptor, digest, descriptor)
    return DistilledRecord(
        student=student.digest,
        teacher=teacher.digest,
        params=num_params(result.graph),
        val_accuracy_before=student.val_accuracy,
        val_accuracy=validation.accuracy,
        digest=None,
        seconds=round(seconds, 3),
    )


class Lessons:
    """How students learn from one or more teachers, each epoch kept in the run's directory."""

    def __init__(
        self, config: RunConfig, data: Data, teachers: Sequence[Member], device: torch.device, run: Path
    ) -> None:
        # Whole images: 74,090 parameters were taught to 88.1 % with them, and to 87.5 blacked out and mixed
        # (docs/log.md).
        self._config = replace(config, cutout=None, mixup=None)
        self._data = data
        self._teachers = teachers
        self._kept = run / "distil.pt"
        self.device = device
        self._train = data.train.to(device)
        answering = [Teacher(one.digest, one.module(device), one.descriptor.preprocessing) for one in teachers]
        self._answers = Answers(run / "answers", answering, self._train, self._config)

    def remove(self) -> None:
        """Deletes what was kept of students and answers."""
        self._kept.unlink(missing_ok=True)
        self._answers.remove()

    def teach(self, student: Member, tell: Callable[[Record], None]) -> tuple[GraphModule, list[LessonRecord]]:
        """The network that comes of it, and every epoch, those before an interruption too."""
        config, train = self._config, self._train
        module = student.module(self.device)
        optimizer = optim.make(module, config)
        names = [teacher.digest for teacher in self._teachers]
        what = [student.digest, *names, repr(config), self._data.record().model_dump_json()]
        before = _load(self._kept, what, self.device)
        if before is not None:
            module.load_state_dict(before["module"])
            optim.load_state(optimizer, before["optimizer"])
        step = TrainingStep(
            module,
            optimizer,
            config,
            self._data.preprocessing,
            compiled=pays_to_compile(config, num_macs(module.graph), len(train)),
        )
        epochs = []
        average = WeightAverage(module, config.average_decay)
        if before is not None:
            average.module.load_state_dict(before["average"])
            average.num_updates = before["num_updates"]
            epochs = [LessonRecord(**epoch) for epoch in before["lessons"]]
            for epoch in epochs:
                tell(epoch)
        steps = step.num_steps(len(train))
        total = config.distil_epochs * steps
        # Up quickly and down slowly: the student comes from the end of an annealing.
        rates = [config.learning_rate * min((number + 1) / steps, 1 - number / total) for number in range(total)]
        for number in range(len(epochs), config.distil_epochs):
            started = time.perf_counter()
            lesson = self._answers.lesson(number)
            result = train_epoch(
                step,
                train,
                seed_epoch(config, number, f"distilling {student.digest}"),
                learning_rates=rates[number * steps : (number + 1) * steps],
                average=average,
                lesson=lesson,
            )
            epoch = LessonRecord(
                student=student.digest,
                teacher=names[0],
                params=student.params,
                epoch=number + 1,
                epochs=config.distil_epochs,
                loss=result.loss,
                accuracy=result.accuracy,
                num_images=result.num_images,
                seconds=time.perf_counter() - started,
                num_answered=lesson.num_answered,
            )
            epochs.append(epoch)
            _save(self._kept, what, step, average, epochs)
            tell(epoch)
        return average.module, epochs


def _save(kept: Path, what: list[str], step: TrainingStep, average: WeightAverage, lessons: list[LessonRecord]) -> None:
    buffer = io.BytesIO()
    torch.save(
        {
            "what": what,
            "module": step.module.state_dict(),
            "optimizer": step.optimizer.state_dict(),
            "average": average.module.state_dict(),
            "num_updates": average.num_updates,
            "lessons": [vars(lesson) for lesson in lessons],
        },
        buffer,
    )
    write_atomically(kept, buffer.getvalue())


def _load(kept: Path, what: list[str], device: torch.device) -> dict[str, Any] | None:
    """What was kept of this student, taught by the same teacher in the same way."""
    if not kept.exists():
        return None
    saved: dict[str, Any] = torch.load(kept, map_location=device, weights_only=True)
    return saved if saved["what"] == what else None


def distilled(
    student: Member,
    teacher: Member,
    data: Data,
    metrics: Metrics,
    epochs: Sequence[LessonRecord],
    device: str,
) -> Descriptor:
    """The student's descriptor, with the cost of its own further training and of the teacher's answers."""
    before = student.descriptor
    macs, teacher_macs = (num_macs(member.descriptor.architecture.graph()) for member in (student, teacher))
    flops = training_flops(macs, sum(epoch.num_images for epoch in epochs))
    flops += 2 * teacher_macs * sum(epoch.num_answered for epoch in epochs)
    seconds = sum(epoch.seconds for epoch in epochs)
    return before.model_copy(
        update={
            "lineage": before.lineage.model_copy(update={"parent": student.digest, "distilled_from": teacher.digest}),
            "dataset": data.record(),
            "preprocessing": data.preprocessing,
            "metrics": metrics,
            "cost": before.cost.model_copy(
                update={
                    "device": join_devices(before.cost.device, device),
                    "epochs": before.cost.epochs + len(epochs),
                    "device_seconds": round(before.cost.device_seconds + seconds, 3),
                    "training_flops": before.cost.training_flops + flops,
                }
            ),
            "created_at": datetime.now(UTC),
        }
    )
