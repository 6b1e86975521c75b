"""Knowledge distillation: resumable epochs of training on a teacher's logits."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from trainer.config import Cutout, RunConfig
from trainer.data.datasets import Data
from trainer.distil.answers import Answers, Teacher
from trainer.distil.pretrained import PretrainedAnswers
from trainer.journal import saved
from trainer.journal.origin import Member
from trainer.journal.records import LessonRecord, Record
from trainer.loop import optim
from trainer.loop.epoch import Lesson, WeightAverage, metrics_of, require_finite, train_epoch
from trainer.loop.seeds import seed_epoch, seed_of
from trainer.loop.statistics import measure_on, num_for_checkpoint
from trainer.loop.step import TrainingStep, device_name, pays_to_compile
from zoo.checkpoint.descriptor import Accuracy, Descriptor, Metrics, PretrainedTeacher, join_devices
from zoo.checkpoint.file import Checkpoint, encode
from zoo.errors import RunError
from zoo.network.cost import forward_flops, num_macs, training_flops
from zoo.runtime.module import GraphModule
from zoo.store.directory import Directory

# Of what is kept of a student; changes whenever its contents do.
_VERSION = 1


class Lessons:
    """How students learn from one or more teachers, each epoch kept in the run's directory.

    Without a teacher they learn the labels alone. `pretrained` is one more, with answers of its own.
    """

    def __init__(
        self,
        config: RunConfig,
        data: Data,
        teachers: Sequence[Member],
        device: torch.device,
        run: Path,
        cutout: float = 0.0,
        answers: type[Answers] = Answers,
        pretrained: PretrainedAnswers | None = None,
        at: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`cutout`: sides of the part that is blacked out of what teachers answer, as a part of the image's. `at` is
        told what takes time now."""
        # Whole images: 74,090 parameters were taught to 88.1 % with them, and to 87.5 blacked out and mixed
        # (docs/log.md).
        self._is_taught = bool(teachers) or pretrained is not None
        self._config = replace(config, cutout=None, mixup=None) if self._is_taught else config
        self.pretrained = pretrained
        self._cutout = cutout
        self._at = at
        self._data = data
        self._teachers = teachers
        self._kept, self._folder = run / "distil.pt", run / "answers"
        self.device = device
        self._train = data.train.to(device)
        answering = [Teacher(one.digest, one.module(device), one.descriptor.preprocessing) for one in teachers]
        given = pretrained.logits.to(device) if pretrained else None
        self._answers = answers(self._folder, answering, self._train, self._config, cutout, given)

    def remove_answers(self) -> None:
        """Deletes the teachers' answers. A student that is half done, and answers of other teachers, stay."""
        self._answers.remove()

    def remove(self) -> None:
        """Deletes all that was kept, of whatever settings: the pass is over."""
        self._kept.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def lesson(self, number: int) -> Lesson | None:
        """The augmented images of epoch `number`, from 0, with the teacher's logits; None without a teacher."""
        return self._answers.lesson(number) if self._is_taught else None

    def teach(self, student: Member, tell: Callable[[Record], None]) -> tuple[GraphModule, list[LessonRecord]]:
        """Trains the student; returns its network and all epochs, those before an interruption too."""
        config, train = self._config, self._train
        module = student.module(self.device)
        optimizer = optim.make(module, config)
        names = [teacher.digest for teacher in self._teachers]
        taught_by = [*names, *([repr(self.pretrained.record)] if self.pretrained else [])]
        shown = [repr(self._cutout), self._data.record().model_dump_json()]
        what = [student.digest, *taught_by, repr(config), *shown]
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
        average = WeightAverage(step, config.average_decay)
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
            self._at("asking the teacher")
            lesson = self.lesson(number)
            self._at(step.activity)
            result = train_epoch(
                step,
                train,
                seed_epoch(config, number, f"distilling {student.digest}"),
                learning_rates=rates[number * steps : (number + 1) * steps],
                average=average,
                lesson=lesson,
            )
            require_finite(result.loss, f"fine-tuning {student.params:,} parameters", number + 1, max(rates))
            if number + 1 == config.distil_epochs:
                self._at("measuring batch norms")
                self._measure(average.module)
            epoch = LessonRecord(
                student=student.digest,
                teacher=names[0] if names else None,
                params=student.params,
                epoch=number + 1,
                epochs=config.distil_epochs,
                loss=result.loss,
                accuracy=result.accuracy,
                num_images=result.num_images,
                seconds=time.perf_counter() - started,
                num_answered=lesson.num_answered if lesson else 0,
            )
            epochs.append(epoch)
            _save(self._kept, what, step, average, epochs)
            tell(epoch)
        return average.module, epochs

    def _measure(self, module: GraphModule) -> None:
        """Gives a student's batch norms the statistics of its weights, on images such as it was shown.

        Others cost accuracy: at 139,450 parameters, taught with a quarter blacked out, 91.9 % of the validation images
        with a quarter blacked out, 91.7 with whole images and 90.9 with mixed ones (docs/log.md).
        """
        config = self._config
        if self._is_taught:
            cutout = Cutout(self._cutout, from_params=0) if self._cutout else None
            config = replace(config, cutout=cutout, full_shift_params=1)
        generator = torch.Generator().manual_seed(seed_of(self._config, 0, "statistics of students"))
        num_images = num_for_checkpoint(len(self._train))
        measure_on(module, self._train, config, self._data.preprocessing, generator, num_images)


def _save(kept: Path, what: list[str], step: TrainingStep, average: WeightAverage, lessons: list[LessonRecord]) -> None:
    saved.write(
        kept,
        _VERSION,
        {
            "what": what,
            "module": step.module.state_dict(),
            "optimizer": step.optimizer.state_dict(),
            "average": average.module.state_dict(),
            "num_updates": average.num_updates,
            "lessons": [vars(lesson) for lesson in lessons],
        },
    )


def _load(kept: Path, what: list[str], device: torch.device) -> dict[str, Any] | None:
    """What was kept of this student, taught by the same teacher in the same way; what is damaged is taught again."""
    with suppress(FileNotFoundError, RunError):
        state = saved.read(kept, _VERSION, device)
        return state if state.get("what") == what else None
    return None


def _descriptor(
    student: Member,
    teacher: Member | None,
    data: Data,
    metrics: Metrics,
    epochs: Sequence[LessonRecord],
    device: str,
    pretrained: PretrainedTeacher | None,
) -> Descriptor:
    """The student's descriptor, with the cost of its own further training and of the teacher's answers."""
    before = student.descriptor
    flops = training_flops(student.macs, sum(epoch.num_images for epoch in epochs))
    if teacher is not None:
        flops += forward_flops(teacher.macs, sum(epoch.num_answered for epoch in epochs))
    if epochs:
        flops += forward_flops(student.macs, num_for_checkpoint(len(data.train)))
    seconds = sum(epoch.seconds for epoch in epochs)
    return before.model_copy(
        update={
            "lineage": before.lineage.model_copy(
                update={
                    "parent": student.digest,
                    "distilled_from": teacher.digest if teacher else None,
                    "pretrained_teacher": pretrained,
                }
            ),
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


def save(
    directory: Directory,
    module: GraphModule,
    validation: Accuracy,
    student: Member,
    teacher: Member | None,
    data: Data,
    epochs: Sequence[LessonRecord],
    device: torch.device,
    pretrained: PretrainedTeacher | None = None,
) -> str:
    """Writes the trained student as a checkpoint, with its test accuracy, and returns the file's digest.

    The test split is read here, once for each file that is kept.
    """
    metrics = metrics_of(module, data.test.to(device), data.preprocessing, len(data.classes), validation)
    descriptor = _descriptor(student, teacher, data, metrics, epochs, device_name(device), pretrained)
    return directory.put(encode(Checkpoint(descriptor, module.tensors())))
