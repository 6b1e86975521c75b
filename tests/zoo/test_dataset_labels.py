"""Two data sets of one name are never ranked against each other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from zoo.checkpoint.descriptor import Content
from zoo.checkpoint.file import Checkpoint, encode
from zoo.choosing.budget import Budget
from zoo.library.local import LocalZoo
from zoo.store.directory import Directory

MakeCheckpoint = Callable[..., Checkpoint]


def on(checkpoint: Checkpoint, digit: str, *, days: int = 0, mean: float | None = None) -> Checkpoint:
    """The same network, tested on the images of that digit, so many days later; "": it does not say on which."""
    descriptor = checkpoint.descriptor
    content = Content(train=64 * digit, validation=64 * digit, test=64 * digit, split=64 * "0") if digit else None
    preprocessing = descriptor.preprocessing
    if mean is not None:
        preprocessing = preprocessing.model_copy(update={"mean": (mean,) * len(preprocessing.mean)})
    update = {
        "dataset": descriptor.dataset.model_copy(update={"content": content}),
        "created_at": descriptor.created_at + timedelta(days=days),
        "preprocessing": preprocessing,
    }
    return Checkpoint(descriptor.model_copy(update=update), checkpoint.tensors)


def datasets(zoo: LocalZoo, *digests: str) -> list[str]:
    return [zoo.chooser.find(digest).dataset for digest in digests]


def test_other_images_under_one_name_are_kept_apart(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = make_checkpoint(dataset="photos")
    directory = Directory(tmp_path)
    first, second = (directory.put(encode(on(checkpoint, digit, days=day))) for digit, day in (("a", 0), ("b", 1)))
    zoo = LocalZoo([tmp_path])
    with caplog.at_level(logging.WARNING):
        zoo.sync()
    assert datasets(zoo, first, second) == ["photos", "photos-bbbbbbbb"]
    assert "other images under the name photos" in caplog.text
    assert zoo.smallest(dataset="photos-bbbbbbbb").id == second
    assert [row.digest for row in zoo.chooser.rows(Budget(dataset="photos"))] == [first]
    third = directory.put(encode(on(checkpoint, "b", days=2)))
    zoo.sync()
    assert datasets(zoo, first, second, third) == ["photos", "photos-bbbbbbbb", "photos-bbbbbbbb"]
    zoo.reindex()
    assert datasets(zoo, first, second, third) == ["photos", "photos-bbbbbbbb", "photos-bbbbbbbb"]
    zoo.close()


def test_a_label_once_given_stays_whatever_comes_later(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    """When a file was made it says itself: one that says long ago must not take over the name that others serve."""
    checkpoint = make_checkpoint(dataset="photos")
    directory = Directory(tmp_path)
    here = directory.put(encode(on(checkpoint, "b", days=1)))
    zoo = LocalZoo([tmp_path])
    zoo.sync()
    backdated = directory.put(encode(on(checkpoint, "a")))
    zoo.sync()
    assert datasets(zoo, here, backdated) == ["photos", "photos-aaaaaaaa"]
    assert zoo.smallest(dataset="photos").id == here
    zoo.reindex()
    assert datasets(zoo, here, backdated) == ["photos", "photos-aaaaaaaa"]
    zoo.close()
    for path in tmp_path.glob("catalog*"):
        path.unlink()
    with LocalZoo([tmp_path]) as anew:
        anew.sync()
        assert datasets(anew, here, backdated) == ["photos", "photos-aaaaaaaa"], "the catalog is disposable"


def test_what_does_not_say_its_images_is_told_apart_by_its_pixels(
    tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    checkpoint = make_checkpoint(dataset="photos")
    directory = Directory(tmp_path)
    plain, same, other, known = (
        directory.put(encode(one))
        for one in (
            on(checkpoint, ""),
            on(checkpoint, "", days=1),
            on(checkpoint, "", days=2, mean=0.123),
            on(checkpoint, "a", days=3),
        )
    )
    zoo = LocalZoo([tmp_path])
    zoo.sync()
    assert datasets(zoo, plain, same, known) == ["photos"] * 3, "nothing shows that these are others"
    [label] = datasets(zoo, other)
    assert label.startswith("photos-")
    zoo.close()


def test_other_classes_are_another_data_set(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint(dataset="data")
    trees = checkpoint.descriptor.model_copy(update={"classes": tuple(f"tree {n}" for n in range(3))})
    trees = trees.model_copy(update={"created_at": trees.created_at + timedelta(days=1)})
    assert len(checkpoint.descriptor.classes) == 3
    directory = Directory(tmp_path)
    pets = directory.put(encode(checkpoint))
    tree = directory.put(encode(Checkpoint(trees, checkpoint.tensors)))
    zoo = LocalZoo([tmp_path])
    zoo.sync()
    assert datasets(zoo, pets)[0] == "data" != datasets(zoo, tree)[0]
    zoo.close()
