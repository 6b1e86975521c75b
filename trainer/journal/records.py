"""What a run reports as it goes: one record a line in its JSONL log, the same records on the display."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import BinaryIO, ClassVar

from zoo.store.directory import naming


@dataclass(frozen=True)
class Record:
    """`event` says in the log which one it is: "epoch" of an EpochRecord."""

    event: ClassVar[str]

    def __init_subclass__(cls) -> None:
        cls.event = cls.__name__.removesuffix("Record").lower()


@dataclass(frozen=True)
class DataRecord(Record):
    """What is odd about the images, in sentences; a run's first record, where there is anything."""

    findings: tuple[str, ...]


@dataclass(frozen=True)
class LevelRecord:
    """One of the networks of an elastic run."""

    params: int
    val_accuracy: float


@dataclass(frozen=True)
class PlanRecord(Record):
    """The plan of a run with a time limit, and the seconds left. Shown, not logged."""

    what: str
    seconds_left: float


@dataclass(frozen=True)
class EpochRecord(Record):
    """`branch_epoch` of `branch_epochs` is where a checkpoint's annealing is; on the trunk both are 0.

    `epoch` of `epochs` is where the trunk is, and `num_epochs` counts all so far, those of branches too. `levels` are
    those that an elastic run trains, smallest first; `val_accuracy`, `accuracy` and `params` are the largest's.
    """

    epoch: int
    epochs: int
    num_epochs: int
    branch_epoch: int
    branch_epochs: int
    loss: float
    accuracy: float
    val_accuracy: float
    params: int
    learning_rate: float
    seconds: float
    levels: tuple[LevelRecord, ...] = ()


@dataclass(frozen=True)
class BatchesRecord(Record):
    """At the start of a run whose data were too few for the batches or the warm-up that it has otherwise."""

    batch_size: int
    batch_size_before: int
    warmup_steps: int
    warmup_steps_before: int
    num_train: int


@dataclass(frozen=True)
class ChanceRecord(Record):
    """Ways to grow were not scored, since validation accuracy is that of the majority class."""

    epoch: int
    val_accuracy: float
    chance: float


@dataclass(frozen=True)
class CandidateScore:
    """One way to grow and what it scored; `score` decides, in the unit of its rule."""

    change: str
    params_added: int
    score: float
    standard_error: float | None = None


@dataclass(frozen=True)
class DecisionRecord(Record):
    """`chosen` is empty where no candidate cleared the threshold, and has a change as often as it was made."""

    epoch: int
    threshold: float
    candidates: tuple[CandidateScore, ...]
    chosen: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class CheckpointRecord(Record):
    epoch: int
    digest: str
    name: str
    params: int
    macs: int
    val_accuracy: float
    test_accuracy: float


@dataclass(frozen=True)
class LessonRecord(Record):
    """An epoch of distillation; `loss` and `accuracy` are those of augmented training images.

    `num_answered` images went through the teacher in it: answers are kept, for further students. Without a teacher the
    labels alone are learned.
    """

    student: str
    teacher: str | None
    params: int
    epoch: int
    epochs: int
    loss: float
    accuracy: float
    num_images: int
    seconds: float
    num_answered: int = 0


@dataclass(frozen=True)
class PrunedRecord(Record):
    """A network was cut from `origin`, and is distilled now: `student` is the digest that its file would have."""

    origin: str
    student: str
    params_before: int
    params: int
    widths_before: tuple[int, ...]
    widths: tuple[int, ...]
    val_accuracy_before: float
    val_accuracy: float


@dataclass(frozen=True)
class DistilledRecord(Record):
    """`digest` is None where the student did not get better, and nothing was saved."""

    student: str
    teacher: str | None
    params: int
    val_accuracy_before: float
    val_accuracy: float
    digest: str | None
    seconds: float


@dataclass(frozen=True)
class AdaptedRecord(Record):
    """All sizes of a zoo were fine-tuned to these checkpoints, the largest first, or had been before."""

    checkpoints: tuple[str, ...]
    epochs: int
    # Those of them whose validation accuracy is no better than chance.
    at_chance: tuple[str, ...] = field(default_factory=tuple)


@dataclass(frozen=True)
class FinishedRecord(Record):
    epoch: int
    num_expansions: int
    device_seconds: float
    training_flops: int
    checkpoints: tuple[str, ...] = field(default_factory=tuple)
    # Those of them whose validation accuracy is no better than chance.
    at_chance: tuple[str, ...] = field(default_factory=tuple)


def line_of(record: Record) -> bytes:
    """As JSON, without the end of the line."""
    return json.dumps({"event": record.event, **asdict(record)}).encode()


def write(record: Record, log: BinaryIO) -> None:
    """Appends it as one line and flushes, for those who follow the log; plans are not logged."""
    if isinstance(record, PlanRecord):
        return
    with naming(getattr(log, "name", "log")):
        log.write(line_of(record) + b"\n")
        log.flush()
