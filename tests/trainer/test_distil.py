"""Distillation of a finished run, on images that a network learns in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from trainer.config import BlueprintStart, Cutout, Mixup, RunConfig
from trainer.data.datasets import Data, load
from trainer.distil.distil import distil
from trainer.grow import grow
from trainer.journal.records import DistilledRecord, LessonRecord, Record
from trainer.loop import optim
from trainer.loop.epoch import evaluate
from trainer.loop.step import TrainingStep
from trainer.recipes.ladder import Ladder
from trainer.report import report
from trainer.report.trials import read_trials
from zoo.checkpoint.file import decode, encode, read_header
from zoo.errors import RunError
from zoo.network.cost import forward_flops, num_macs, num_params, training_flops
from zoo.network.families.blueprint import start
from zoo.runtime.module import GraphModule, module_of
from zoo.store.directory import Directory

CPU = torch.device("cpu")
CONFIG = RunConfig(
    name="tiny",
    start=BlueprintStart(channels=(4, 4), num_layers=(1, 0)),
    recipe=Ladder(
        sizes=(600,),
        threshold=0.0,
        standard_errors=0.0,
        score_samples=32,
        width_step=2,
    ),
    epochs=4,
    batch_size=16,
    learning_rate=2e-3,
    optimizer="adamw",
    plateau=False,
    l1=0.0,
    horizontal_flip=False,
    anneal_share=0.5,
    distil_epochs=16,
)


@pytest.fixture
def data(tmp_path: Path, write_images: Callable[..., Path]) -> Data:
    return load(str(write_images(tmp_path / "bars", {"train": 100, "test": 8}, size=(16, 16))))


@pytest.fixture
def digests(tmp_path: Path, data: Data) -> tuple[str, ...]:
    return grow(CONFIG, data, tmp_path / "zoo", CPU, resume=False, observe=[].append)


def test_a_better_student_is_a_new_file_beside_the_old_one(
    tmp_path: Path, data: Data, digests: tuple[str, ...]
) -> None:
    records: list[Record] = []
    directory = Directory(tmp_path / "zoo")
    before = {digest: path.read_bytes() for digest, path in directory.paths()}
    new = list(distil(CONFIG, data, tmp_path / "zoo", digests, CPU, records.append))
    assert {digest: directory.path(digest).read_bytes() for digest in before} == before
    assert {digest for digest, _ in directory.paths()} == {*before, *new}
    assert [record.digest for record in records if isinstance(record, DistilledRecord) and record.digest] == new
    assert new, "more epochs on images this easy help"
    assert len(data.train) == 270
    for digest in new:
        descriptor = read_header(directory.path(digest)).descriptor
        parent = read_header(directory.path(descriptor.lineage.parent or "")).descriptor
        assert descriptor.architecture == parent.architecture
        assert descriptor.metrics.validation.accuracy > parent.metrics.validation.accuracy
        teacher = read_header(directory.path(descriptor.lineage.distilled_from or "")).descriptor
        own, answers = (num_macs(one.architecture.graph()) for one in (parent, teacher))
        flops = descriptor.cost.training_flops - parent.cost.training_flops
        # Batch-norm statistics are those of four epochs' worth of images.
        assert flops == training_flops(own, 16 * 270) + forward_flops(answers, 16 * 270) + forward_flops(own, 4 * 270)
        assert num_params(teacher.architecture.graph()) > num_params(descriptor.architecture.graph())
        assert teacher.metrics.validation.accuracy >= parent.metrics.validation.accuracy


def test_its_cost_names_every_device(tmp_path: Path, data: Data, digests: tuple[str, ...]) -> None:
    """As where a zoo from a GPU is distilled on a CPU."""
    directory, there = Directory(tmp_path / "zoo"), []
    for digest in digests:
        checkpoint = decode(directory.path(digest).read_bytes())
        cost = checkpoint.descriptor.cost.model_copy(update={"device": "some GPU"})
        descriptor = checkpoint.descriptor.model_copy(update={"cost": cost})
        there.append(directory.put(encode(replace(checkpoint, descriptor=descriptor))))
        directory.path(digest).unlink()
    (digest, *_) = distil(CONFIG, data, tmp_path / "zoo", tuple(there), CPU, [].append)
    here = f"cpu, {torch.get_num_threads()} threads"
    assert read_header(directory.path(digest)).descriptor.cost.device == f"some GPU; {here}"
    (trial,), _ = read_trials(tmp_path / "zoo")
    assert trial.cost().device == f"some GPU; {here}"


def test_a_report_says_whose_teaching_it_cannot_count(tmp_path: Path, data: Data, digests: tuple[str, ...]) -> None:
    """As in a zoo of the taught ones alone: what they cost before they were taught is in files that are elsewhere."""
    directory = Directory(tmp_path / "zoo")
    list(distil(CONFIG, data, tmp_path / "zoo", digests, CPU, [].append))
    (whole,), _ = read_trials(tmp_path / "zoo")
    assert whole.uncounted() == 0
    assert "≥" not in report.write(tmp_path / "zoo", tmp_path / "report").split("### Trials")[1]
    student = next(one for one in whole.entries if one.descriptor.lineage.distilled_from)

    directory.path(student.descriptor.lineage.parent or "").unlink()

    (part,), _ = read_trials(tmp_path / "zoo")
    assert part.uncounted() == 1
    assert part.cost().device_seconds < whole.cost().device_seconds
    said = report.write(tmp_path / "zoo", tmp_path / "report").split("### Trials")[1]
    assert f"≥ {part.cost().device_seconds:,.1f}" in said
    assert "not counted where the file that they began with is not in this zoo" in said


def test_its_accuracy_is_that_of_the_file(tmp_path: Path, data: Data, digests: tuple[str, ...]) -> None:
    (digest, *_) = distil(CONFIG, data, tmp_path / "zoo", digests, CPU, [].append)
    checkpoint = decode(Directory(tmp_path / "zoo").path(digest).read_bytes())
    measured = evaluate(module_of(checkpoint), data.test, data.preprocessing, len(data.classes))
    assert measured == checkpoint.descriptor.metrics.test


def test_students_that_were_taught_are_not_again(tmp_path: Path, data: Data, digests: tuple[str, ...]) -> None:
    """But told of, and logged: a resumed run cuts its log back to the end of growth. Damaged files are no students."""
    zoo = tmp_path / "zoo"
    first: list[Record] = []
    better = list(distil(CONFIG, data, zoo, digests, CPU, first.append))
    assert better
    (zoo / "checkpoints" / f"{'0' * 64}.safetensors").write_bytes(b"damaged")
    log = zoo / "runs" / "bars-tiny-s0" / "log.jsonl"
    assert logged(log) == [record.digest for record in told(first)]
    assert grow(CONFIG, data, zoo, CPU, resume=True, observe=[].append) == digests
    assert logged(log) == []
    again: list[Record] = []
    assert list(distil(CONFIG, data, zoo, digests, CPU, again.append)) == better
    assert again == told(first)
    assert logged(log) == [record.digest for record in again]
    list(distil(CONFIG, data, zoo, digests, CPU, again.append))
    assert len(logged(log)) * 2 == len(again), "what stands in the log is told, and not written again"


def test_a_pass_with_other_settings_is_another_one(tmp_path: Path, data: Data, digests: tuple[str, ...]) -> None:
    """Its epochs, batches and learning rate; whether the student got better or not."""
    settings: list[dict[str, Any]] = [{}, {"learning_rate": 1e-5}, {"batch_size": 8}, {"distil_epochs": 2}, {}]
    taught = []
    for changes in settings:
        records: list[Record] = []
        config = replace(CONFIG, **{"distil_epochs": 1, **changes})
        list(distil(config, data, tmp_path / "zoo", digests, CPU, records.append))
        assert len(told(records)) == 1
        taught.append(len(lessons(records)))
    assert taught == [1, 1, 1, 2, 0]


def told(records: list[Record]) -> list[DistilledRecord]:
    return [record for record in records if isinstance(record, DistilledRecord)]


def lessons(records: list[Record]) -> list[LessonRecord]:
    """But for how long they took."""
    return [replace(record, seconds=0.0) for record in records if isinstance(record, LessonRecord)]


def test_students_are_shown_whole_images(tmp_path: Path, data: Data, digests: tuple[str, ...]) -> None:
    """Whether or not the run blacks them out and mixes them."""
    whole, other = tmp_path / "zoo", tmp_path / "other"
    copytree(whole, other)
    mixing = replace(CONFIG, cutout=Cutout(part=0.5, from_params=0), mixup=Mixup(alpha=0.5, from_params=0))
    wanted: list[Record] = []
    found: list[Record] = []
    list(distil(CONFIG, data, whole, digests, CPU, wanted.append))
    list(distil(mixing, data, other, digests, CPU, found.append))
    assert lessons(found) == lessons(wanted)


def test_an_interrupted_pass_goes_on_exactly(tmp_path: Path, data: Data, digests: tuple[str, ...]) -> None:
    whole, other = tmp_path / "zoo", tmp_path / "other"
    copytree(whole, other)
    wanted: list[Record] = []
    wanted_digests = list(distil(CONFIG, data, whole, digests, CPU, wanted.append))
    assert [lesson.epoch for lesson in lessons(wanted)] == list(range(1, 17))

    before: list[Record] = []

    def interrupted(record: Record) -> None:
        before.append(record)
        if isinstance(record, LessonRecord) and record.epoch == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(distil(CONFIG, data, other, digests, CPU, interrupted))
    found: list[Record] = []
    assert grow(CONFIG, data, other, CPU, resume=True, observe=[].append) == digests
    found_digests = list(distil(CONFIG, data, other, digests, CPU, found.append))
    assert lessons(found) == lessons(wanted)
    assert found[:7] == before, "how long they took says that they were not trained again"
    log = other / "runs" / "bars-tiny-s0" / "log.jsonl"
    logged = [json.loads(line) for line in log.read_bytes().splitlines()]
    assert [record["epoch"] for record in logged if record["event"] == "lesson"] == list(range(1, 17))
    for one, two in zip(found_digests, wanted_digests, strict=True):
        tensors, expected = (
            decode(Directory(zoo).path(digest).read_bytes()).tensors for zoo, digest in ((other, one), (whole, two))
        )
        assert all(np.array_equal(tensors[name], expected[name]) for name in expected)
    assert {path.name for path in log.parent.iterdir()} == {"data.json", "log.jsonl", "state.pt", "distilled.jsonl"}


def test_a_pass_of_other_length_begins_anew(tmp_path: Path, data: Data, digests: tuple[str, ...]) -> None:
    zoo, records = tmp_path / "zoo", list[Record]()

    def interrupted(record: Record) -> None:
        if isinstance(record, LessonRecord) and record.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(distil(CONFIG, data, zoo, digests, CPU, interrupted))
    list(distil(replace(CONFIG, distil_epochs=2), data, zoo, digests, CPU, records.append))
    assert [(lesson.epoch, lesson.epochs) for lesson in lessons(records)] == [(1, 2), (2, 2)]


def logged(log: Path) -> list[str | None]:
    """The digests of what was distilled."""
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return [record["digest"] for record in records if record["event"] == "distilled"]


def test_the_step_learns_the_teachers_softened_answers(data: Data) -> None:
    """One step of plain gradient descent, against the formula of Hinton et al. written out."""
    torch.manual_seed(0)
    config = replace(CONFIG, distil_temperature=3.0, distil_weight=0.7)
    architecture = start(input_shape=data.image_shape, num_classes=3, channels=(4, 4), num_layers=(1, 0))
    student, teacher = (GraphModule(architecture.graph()) for _ in range(2))
    images, labels = data.train.images[:16], data.train.labels[:16]
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.preprocessing.mean, data.preprocessing.std))
    inputs = (images / 255 - mean) / std
    with torch.no_grad():
        wanted = (teacher.eval()(inputs) / 3).softmax(1)
    logits = student.train()(inputs)
    soft = -(wanted * (logits / 3).log_softmax(1)).sum(1).mean()
    expected = torch.autograd.grad(0.3 * F.cross_entropy(logits, labels) + 0.7 * 9 * soft, list(student.parameters()))
    step = TrainingStep(student, optim.make(student, config), config, data.preprocessing)
    with torch.no_grad():
        answers = teacher.eval()(inputs)
    step.run(images, labels, answers)
    for parameter, gradient in zip(student.parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_a_pass_that_diverges_stops_and_keeps_no_file(tmp_path: Path, data: Data, digests: tuple[str, ...]) -> None:
    before = sorted((tmp_path / "zoo" / "checkpoints").iterdir())
    config = replace(CONFIG, learning_rate=1e25)
    with pytest.raises(RunError, match=r"fine-tuning [\d,]+ parameters diverged: the loss of epoch \d+ is (nan|inf)"):
        list(distil(config, data, tmp_path / "zoo", digests, CPU, [].append))
    assert sorted((tmp_path / "zoo" / "checkpoints").iterdir()) == before
