"""A teacher's answers: the same for every student, kept, and averaged over an image and its mirror image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from trainer.config import RunConfig
from trainer.data.datasets import Data, load
from trainer.distil.answers import NUM_EPOCHS, Answers, Teacher
from trainer.loop.augment import Augmentation
from trainer.recipes.ladder import Ladder
from zoo.network.families.blueprint import start
from zoo.runtime.module import GraphModule, normalize

CONFIG = RunConfig(name="tiny", recipe=Ladder(sizes=(600,)), max_shift=2)


@pytest.fixture(params=["constant", "reflect"])
def config(request: pytest.FixtureRequest) -> RunConfig:
    return replace(CONFIG, padding_mode=request.param)


@pytest.fixture
def data(tmp_path: Path, write_images: Callable[..., Path]) -> Data:
    return load(str(write_images(tmp_path / "bars", {"train": 20, "test": 4}, size=(16, 16))))


def teacher_of(data: Data, seed: int) -> Teacher:
    torch.manual_seed(seed)
    architecture = start(input_shape=data.image_shape, num_classes=3, channels=(4, 4), num_layers=(1, 0))
    return Teacher(f"{seed:064}", GraphModule(architecture.graph()).eval(), data.preprocessing)


def shown(data: Data, augmentation: Augmentation) -> torch.Tensor:
    return augmentation.of(data.train.images, slice(0, len(data.train)))


def logits(teacher: Teacher, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return teacher.module(normalize(images, teacher.preprocessing))


def test_an_answer_is_the_mean_over_an_image_and_its_mirror_image(
    tmp_path: Path, data: Data, config: RunConfig
) -> None:
    teacher = teacher_of(data, 1)
    answers = Answers(tmp_path / "answers", [teacher], data.train, config)
    first, second = answers.lesson(6), answers.lesson(7)
    images = shown(data, first.augmentation)
    assert torch.equal(shown(data, second.augmentation), images.flip(3))
    expected = (logits(teacher, images) + logits(teacher, images.flip(3))) / 2
    for lesson in (first, second):
        torch.testing.assert_close(lesson.answers.float(), expected, rtol=2e-3, atol=2e-3)


def test_a_run_that_never_mirrors_has_plain_answers(tmp_path: Path, data: Data, config: RunConfig) -> None:
    teacher = teacher_of(data, 1)
    answers = Answers(tmp_path / "answers", [teacher], data.train, replace(config, horizontal_flip=False))
    lessons = [answers.lesson(number) for number in (0, 1)]
    seen = [shown(data, lesson.augmentation) for lesson in lessons]
    assert not torch.equal(*seen)
    for lesson, images in zip(lessons, seen, strict=True):
        torch.testing.assert_close(lesson.answers.float(), logits(teacher, images), rtol=2e-3, atol=2e-3)


def test_of_several_teachers_it_is_the_mean(tmp_path: Path, data: Data) -> None:
    teachers = [teacher_of(data, seed) for seed in (1, 2)]
    alone = [Answers(tmp_path / one.digest, [one], data.train, CONFIG).lesson(0).answers.float() for one in teachers]
    both = Answers(tmp_path / "both", teachers, data.train, CONFIG).lesson(0).answers.float()
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2, rtol=2e-3, atol=2e-3)
    assert not torch.allclose(alone[0], alone[1], atol=0.05)


def test_each_is_computed_once_for_everybody(tmp_path: Path, data: Data) -> None:
    folder, n = tmp_path / "answers", len(data.train)
    first = Answers(folder, [teacher_of(data, 1)], data.train, CONFIG)
    assert [first.lesson(number).num_answered for number in range(4)] == [2 * n, 0, 2 * n, 0]
    later = Answers(folder, [teacher_of(data, 1)], data.train, CONFIG)
    for number in (0, 3, NUM_EPOCHS):
        found, expected = later.lesson(number), first.lesson(number)
        assert found.num_answered == 0
        assert torch.equal(found.answers, expected.answers)
        assert torch.equal(shown(data, found.augmentation), shown(data, expected.augmentation))
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:40])
    assert torch.equal(later.lesson(0).answers, first.lesson(0).answers), "damaged ones are computed again"
    assert later.lesson(0).num_answered == 0
    other_teacher = Answers(folder, [teacher_of(data, 2)], data.train, CONFIG)
    other_images = Answers(folder, [teacher_of(data, 1)], replace(data.train, images=255 - data.train.images), CONFIG)
    assert other_teacher.lesson(0).num_answered == other_images.lesson(0).num_answered == 2 * n
    unmirrored = Answers(folder, [teacher_of(data, 1)], data.train, replace(CONFIG, horizontal_flip=False))
    assert unmirrored.lesson(0).num_answered == 2 * n


def test_epochs_are_not_alike(tmp_path: Path, data: Data) -> None:
    answers = Answers(tmp_path / "answers", [teacher_of(data, 1)], data.train, CONFIG)
    images = [shown(data, answers.lesson(number).augmentation).float() for number in (0, 2, 4)]
    assert all(F.l1_loss(one, two) > 1 for one, two in pairwise(images))
