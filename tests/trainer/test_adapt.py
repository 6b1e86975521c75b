"""A grown zoo fine-tuned on other images: of the same classes, and of others."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from trainer.commands.main import app
from trainer.config import BlueprintStart, RunConfig
from trainer.data.datasets import Data, load
from trainer.distil.adapt import Sources, adapt, begun_with, sources
from trainer.grow import grow
from trainer.journal.records import DistilledRecord, LessonRecord, Record
from trainer.loop.epoch import evaluate
from trainer.recipes.ladder import Ladder
from zoo.checkpoint.descriptor import Descriptor
from zoo.checkpoint.file import decode, read_header
from zoo.cli.main import app as zoo_app
from zoo.errors import RunError
from zoo.network.cost import num_params
from zoo.runtime.module import module_of
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
    learning_rate=1e-2,
    optimizer="adamw",
    plateau=False,
    l1=0.0,
    anneal_share=0.5,
    distil_epochs=12,
)
WriteImages = Callable[..., Path]


@pytest.fixture
def grown(tmp_path: Path, write_images: WriteImages) -> Path:
    data = load(str(write_images(tmp_path / "bars", {"train": 60, "test": 8}, size=(16, 16))))
    grow(CONFIG, data, tmp_path / "grown", CPU, resume=False, observe=[].append)
    return tmp_path / "grown"


@pytest.fixture
def other_images(tmp_path: Path, write_images: WriteImages) -> Data:
    """Larger images of the same classes."""
    return load(str(write_images(tmp_path / "wide", {"train": 60, "test": 8}, size=(16, 20), seed=1)))


@pytest.fixture
def other_classes(tmp_path: Path, write_images: WriteImages) -> Data:
    root = write_images(tmp_path / "letters", {"train": 60, "test": 8}, size=(16, 16), classes=("a", "b", "c", "d"))
    return load(str(root))


def adapted(found: Sources, data: Data, zoo: Path) -> tuple[list[Descriptor], list[Record]]:
    records: list[Record] = []
    digests = list(adapt(CONFIG, data, found, zoo, CPU, records.append))
    return [read_header(Directory(zoo).path(digest)).descriptor for digest in digests], records


def size(descriptor: Descriptor) -> int:
    return num_params(descriptor.architecture.graph())


@pytest.mark.parametrize("images", ["other_images", "other_classes"])
def test_every_size_is_fine_tuned_the_largest_first(
    tmp_path: Path, grown: Path, images: str, request: pytest.FixtureRequest
) -> None:
    data: Data = request.getfixturevalue(images)
    found = sources(begun_with(grown, grown), data)
    assert len(found.members) == 2
    zoo = tmp_path / "mine"
    descriptors, records = adapted(found, data, zoo)
    small, large = found.members
    assert [descriptor.lineage.parent for descriptor in descriptors] == [large.digest, small.digest]
    top, student = descriptors
    assert size(top) > size(student)
    by_digest = {read_header(path).descriptor.created_at: digest for digest, path in Directory(zoo).paths()}
    assert student.lineage.distilled_from == by_digest[top.created_at]
    assert top.lineage.distilled_from == (large.digest if images == "other_images" else None)
    for descriptor, member in zip(descriptors, (large, small), strict=True):
        assert descriptor.classes == data.classes
        steps = descriptor.lineage.expansions
        assert not steps or steps[-1].params_after == size(descriptor), "else nobody could publish it"
        assert descriptor.dataset == data.record()
        assert descriptor.preprocessing == data.preprocessing
        assert descriptor.architecture.graph().input_shape == data.image_shape
        assert descriptor.metrics.validation.accuracy >= member.val_accuracy
        assert descriptor.cost.epochs == member.descriptor.cost.epochs + 12
        checkpoint = decode(Directory(zoo).path(by_digest[descriptor.created_at]).read_bytes())
        measured = evaluate(module_of(checkpoint), data.test, data.preprocessing, len(data.classes))
        assert measured == descriptor.metrics.test
    gains = [
        after.metrics.validation.accuracy - before.val_accuracy
        for after, before in zip(descriptors, (large, small), strict=True)
    ]
    assert max(gains) > 0, "images this easy are soon learned"
    told = [record for record in records if isinstance(record, DistilledRecord)]
    assert [(record.student, record.teacher) for record in told] == [
        (descriptor.lineage.parent, descriptor.lineage.distilled_from) for descriptor in descriptors
    ]


def test_only_the_head_is_fresh_where_classes_are_others(grown: Path, other_classes: Data) -> None:
    for member in sources(begun_with(grown, grown), other_classes).members:
        before = decode(Directory(grown).path(member.digest).read_bytes()).tensors
        differing = {
            name
            for name, tensor in member.checkpoint.tensors.items()
            if tensor.shape != before[name].shape or not np.array_equal(tensor, before[name])
        }
        assert differing == {"head.output.weight", "head.output.bias"}


def test_an_interrupted_one_goes_on_exactly_and_computes_nothing_twice(
    tmp_path: Path, grown: Path, other_images: Data
) -> None:
    found = sources(begun_with(grown, grown), other_images)
    _, wanted = adapted(found, other_images, tmp_path / "whole")
    zoo = tmp_path / "mine"
    before: list[LessonRecord] = []

    def interrupted(record: Record) -> None:
        before.extend([record] if isinstance(record, LessonRecord) else [])
        if len(before) == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(adapt(CONFIG, other_images, found, zoo, CPU, interrupted))
    _, found_records = adapted(found, other_images, zoo)

    def lessons(records: list[Record]) -> list[LessonRecord]:
        return [each for each in records if isinstance(each, LessonRecord)]

    after = lessons(found_records)
    assert after[:3] == before[12:], "not trained again: the seconds are those of before"
    unlike = {"seconds": 0.0, "teacher": None}
    theirs = [replace(each, **unlike) for each in after]
    assert theirs == [replace(each, **unlike) for each in lessons(wanted)[12:]], "no answer was computed again"
    run = zoo / "runs" / "wide-tiny-s0"
    assert {path.name for path in run.iterdir()} == {"data.json", "distilled.jsonl", "log.jsonl"}


def test_what_cannot_be_a_source(tmp_path: Path, grown: Path, write_images: WriteImages, other_images: Data) -> None:
    colour = load(str(write_images(tmp_path / "colour", {"train": 4, "test": 2}, size=(16, 16), mode="RGB")))
    with pytest.raises(RunError, match="takes gray images, and these are colour ones"):
        sources(begun_with(grown, grown), colour)
    with pytest.raises(RunError, match="holds no checkpoint of data set x"):
        sources(begun_with(grown, grown, "x"), other_images)
    tiny = load(str(write_images(tmp_path / "tiny", {"train": 4, "test": 2}, size=(1, 3))))
    with pytest.raises(RunError, match="cannot take images of"):
        sources(begun_with(grown, grown), tiny)
    adapted(sources(begun_with(grown, grown), other_images), other_images, grown)
    with pytest.raises(RunError, match="several data sets: name one of bars, wide by --dataset"):
        sources(begun_with(grown, grown), other_images)


def test_gray_photos_are_taken_as_colour(tmp_path: Path, write_images: WriteImages) -> None:
    """By zoos that take colour, as all that ship do; predicting and verifying read them alike."""
    colour = load(str(write_images(tmp_path / "colour", {"train": 20, "test": 4}, size=(16, 16), mode="RGB")))
    grow(CONFIG, colour, tmp_path / "grown", CPU, resume=False, observe=[].append)
    photos = write_images(tmp_path / "gray", {"train": 20, "test": 4}, size=(16, 16), seed=2)
    words = ["--data", str(photos), "--zoo", str(tmp_path / "mine")]

    done = CliRunner().invoke(
        app, ["adapt", "--from", str(tmp_path / "grown"), *words, "--epochs", "2", "--device", "cpu"]
    )

    assert done.exit_code == 0, done.stderr
    assert "gray images, taken as colour ones" in done.stderr
    verified = CliRunner().invoke(zoo_app, ["verify", *words])
    assert verified.exit_code == 0, verified.stdout + verified.stderr
    [best, *_] = done.stdout.split()
    picture = next(photos.glob("test/*/*.png"))
    predicted = CliRunner().invoke(zoo_app, ["predict", str(picture), "--zoo", str(tmp_path / "mine"), "--model", best])
    assert predicted.exit_code == 0, predicted.stderr


def test_one_size_may_be_begun_with(tmp_path: Path, grown: Path, write_images: WriteImages) -> None:
    """A file, or a checkpoint of the zoo by its first digits."""
    photos = write_images(tmp_path / "photos", {"train": 20, "test": 4}, size=(16, 16), seed=2)
    digest, path = next(iter(Directory(grown).paths()))

    def adapt_from(source: str, zoo: Path) -> Any:
        words = ["adapt", "--from", source, "--data", str(photos), "--zoo", str(zoo), "--epochs", "1"]
        return CliRunner().invoke(app, [*words, "--device", "cpu"])

    for source, zoo in ((str(path), tmp_path / "mine"), (digest[:12], grown)):
        done = adapt_from(source, zoo)
        assert done.exit_code == 0, done.stderr
        [made] = done.stdout.split()
        assert read_header(Directory(zoo).path(made)).descriptor.lineage.parent == digest
    none = adapt_from("nowhere", tmp_path / "mine")
    assert none.exit_code == 1
    assert "nowhere is no directory and no file" in " ".join(none.stderr.split())


def test_the_command(tmp_path: Path, grown: Path, write_images: WriteImages) -> None:
    photos = write_images(tmp_path / "photos", {"train": 40, "test": 4}, size=(16, 16), seed=2)
    words = ["adapt", "--from", str(grown), "--data", str(photos), "--zoo", str(tmp_path / "mine"), "--epochs", "2"]
    result = CliRunner().invoke(app, [*words, "--batch-size", "16", "--device", "cpu"])
    assert result.exit_code == 0, result.stderr
    digests = result.stdout.split()
    assert sorted(digests) == sorted(digest for digest, _ in Directory(tmp_path / "mine").paths())
    assert "the largest first" in result.stderr
    again = CliRunner().invoke(app, [*words, "--batch-size", "16", "--device", "cpu"])
    assert again.stdout.split() == digests
    assert [f"kept: {digest[:12]} came of the same before" in again.stderr for digest in digests] == [True, True]


def test_other_images_of_one_name_are_refused(tmp_path: Path, grown: Path, write_images: WriteImages) -> None:
    """As where two folders are called data: their logs and pictures would be one run's."""
    for place, seed in (("one", 2), ("two", 3)):
        write_images(tmp_path / place / "data", {"train": 40, "test": 4}, size=(16, 16), seed=seed)

    def adapt_folder(place: str, *more: str) -> Any:
        words = [
            "adapt",
            "--from",
            str(grown),
            "--data",
            str(tmp_path / place / "data"),
            "--zoo",
            str(tmp_path / "mine"),
        ]
        return CliRunner().invoke(app, [*words, "--epochs", "1", "--batch-size", "16", "--device", "cpu", *more])

    assert adapt_folder("one").exit_code == 0
    run = tmp_path / "mine" / "runs" / "data-grow-s0"
    before = {path.name: path.read_bytes() for path in run.iterdir()}

    other = adapt_folder("two")

    assert other.exit_code == 1
    assert "is a run on other images that are called data too: give these another --name" in " ".join(
        other.stderr.split()
    )
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert adapt_folder("one").exit_code == 0, "the same again"
    assert adapt_folder("two", "--name", "others").exit_code == 0


@pytest.mark.parametrize("other", [("--seed", "5"), ("--learning-rate", "0.0001"), ("--batch-size", "4")])
def test_with_another_setting_it_is_trained_again(
    tmp_path: Path, grown: Path, write_images: WriteImages, other: tuple[str, str]
) -> None:
    """And with the same once more it is not: neither of the two."""
    photos = write_images(tmp_path / "photos", {"train": 40, "test": 4}, size=(16, 16), seed=2)
    words = ["adapt", "--from", str(grown), "--data", str(photos), "--zoo", str(tmp_path / "mine"), "--epochs", "2"]
    words += ["--batch-size", "16", "--device", "cpu"]

    def digests(*more: str) -> list[str]:
        done = CliRunner().invoke(app, [*words, *more])
        assert done.exit_code == 0, done.stderr
        return done.stdout.split()

    first, second = digests(), digests(*other)
    assert not set(first) & set(second)
    assert (digests(), digests(*other)) == (first, second)
    assert len(list(Directory(tmp_path / "mine").paths())) == 4


def test_a_zoo_without_its_runs_is_not_trained_again(tmp_path: Path, grown: Path, other_images: Data) -> None:
    found = sources(begun_with(grown, grown), other_images)
    digests, _ = adapted(found, other_images, tmp_path / "mine")
    (tmp_path / "mine" / "runs" / "wide-tiny-s0" / "distilled.jsonl").unlink()
    assert adapted(found, other_images, tmp_path / "mine")[0] == digests


def test_the_zoo_of_photos_that_ships_is_begun_from(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["adapt", "--data", str(tmp_path / "none"), "--zoo", str(tmp_path / "mine")])
    assert "begins from" in result.stderr
    assert "zoo/pretrained/imagenette96" in "".join(result.stderr.split())
    assert result.exit_code == 1


def test_a_pretrained_network_teaches_too_and_is_named(tmp_path: Path, grown: Path, write_images: WriteImages) -> None:
    photos = write_images(tmp_path / "photos", {"train": 20, "test": 4}, size=(16, 16), seed=2)
    words = ["adapt", "--from", str(grown), "--data", str(photos), "--zoo", str(tmp_path / "mine"), "--epochs", "2"]
    words += ["--teacher", "efficientnet-lite0", "--teacher-epochs", "1", "--device", "cpu"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.stderr
    assert "fine-tuning efficientnet-lite0  epoch 1/1  loss " in result.stderr
    digests = result.stdout.split()
    assert len(digests) == 2
    for digest in digests:
        taught_by = read_header(Directory(tmp_path / "mine").path(digest)).descriptor.lineage.pretrained_teacher
        assert taught_by is not None
        assert taught_by.name == "efficientnet-lite0"
    again = CliRunner().invoke(app, words)
    assert again.stdout.split() == digests
    assert "fine-tuning efficientnet-lite0" not in again.stderr


def test_minutes_are_planned(tmp_path: Path, grown: Path, write_images: WriteImages) -> None:
    photos = write_images(tmp_path / "photos", {"train": 20, "test": 4}, size=(16, 16), seed=2)
    words = ["adapt", "--from", str(grown), "--data", str(photos), "--zoo", str(tmp_path / "mine"), "--minutes", "0.5"]
    result = CliRunner().invoke(app, [*words, "--device", "cpu"])
    assert result.exit_code == 0, result.stderr
    [(epochs, sizes)] = re.findall(r"plans (\d+) epochs of (\d) of 2 sizes: \d\.\d minutes", result.stderr)
    digests = result.stdout.split()
    assert len(digests) == int(sizes)
    for digest in digests:
        parent = read_header(Directory(tmp_path / "mine").path(digest)).descriptor.lineage.parent
        before = read_header(Directory(grown).path(str(parent))).descriptor.cost.epochs
        assert read_header(Directory(tmp_path / "mine").path(digest)).descriptor.cost.epochs == before + int(epochs)
    again = CliRunner().invoke(app, [*words, "--device", "cpu"])
    assert again.stdout.split() == digests, "as it was planned the first time"
    longer = CliRunner().invoke(app, [*words[:-2], "--epochs", str(int(epochs) + 1), "--device", "cpu"])
    assert longer.exit_code == 0, longer.stderr
    assert not set(digests) & set(longer.stdout.split())
    replanned = CliRunner().invoke(app, [*words[:-1], "0.6", "--device", "cpu"])
    assert "plans" in replanned.stderr
    assert '"until 36 s"' in next((tmp_path / "mine" / "runs").glob("*/plan.json")).read_text(), "planned anew"


def test_the_learning_rate_is_higher_where_the_classes_are_others(
    tmp_path: Path, grown: Path, write_images: WriteImages
) -> None:
    """What comes of it without the option is what comes of it with that rate."""
    same = write_images(tmp_path / "same", {"train": 40, "test": 4}, size=(16, 16), seed=2)
    others = write_images(tmp_path / "others", {"train": 40, "test": 4}, size=(16, 16), classes=("a", "b"), seed=2)
    for photos, rate in ((same, "0.02"), (others, "0.04")):
        words = ["adapt", "--from", str(grown), "--data", str(photos), "--epochs", "1", "--device", "cpu", "--zoo"]
        first = CliRunner().invoke(app, [*words, str(tmp_path / rate)])
        again = CliRunner().invoke(app, [*words, str(tmp_path / rate), "--learning-rate", rate])
        assert first.exit_code == again.exit_code == 0, first.stderr
        assert "kept: " not in first.stderr
        assert again.stderr.count("kept: ") == 2
    none = CliRunner().invoke(app, [*words, str(tmp_path / "none"), "--learning-rate", "0"])
    assert none.exit_code != 0
