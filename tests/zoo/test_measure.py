from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.data.datasets import load
from zoo.checkpoint.file import Checkpoint, decode, encode
from zoo.errors import DataError
from zoo.images import digits
from zoo.images.decode import Form
from zoo.images.decode import decode as decode_image
from zoo.runtime.measure import HeldOutImages, Measurement, measure
from zoo.runtime.module import module_of, normalize
from zoo.store.directory import Directory

Command = Callable[..., subprocess.CompletedProcess[str]]
MakeCheckpoint = Callable[..., Checkpoint]

CLASSES = ("left", "middle", "right")


def write_bars(root: Path, num_train: int, num_test: int) -> Path:
    """Colour JPEG files of 24×20 pixels: one bright bar per class, in noise."""
    random = np.random.default_rng(0)
    for split, count in (("train", num_train), ("test", num_test)):
        for place, label in enumerate(CLASSES):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 150, (24, 20, 3))
                pixels[:, 7 * place : 7 * place + 5] += 25
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)
    return root


def saying(checkpoint: Checkpoint, correct: int, total: int) -> Checkpoint:
    """The same network, with this test accuracy in its descriptor, and the classes of the bars."""
    descriptor = checkpoint.descriptor
    test = descriptor.metrics.validation.model_copy(update={"accuracy": correct / total, "n": total})
    metrics = descriptor.metrics.model_copy(update={"test": test, "confusion": None})
    return Checkpoint(descriptor.model_copy(update={"metrics": metrics, "classes": CLASSES}), checkpoint.tensors)


@pytest.fixture
def bars(tmp_path: Path) -> Path:
    return write_bars(tmp_path / "bars", num_train=2, num_test=50)


def right_by_torch(checkpoint: Checkpoint, bars: Path) -> int:
    """The slow and readable way: one image after the other, by the torch module."""
    module, descriptor = module_of(checkpoint), checkpoint.descriptor
    height, width = descriptor.architecture.input_height, descriptor.architecture.input_width
    right = 0
    for file in bars.glob("test/*/*.jpg"):
        pixels = decode_image(file.read_bytes(), descriptor.preprocessing.color, (height, width))
        logits = module(normalize(torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy()), descriptor.preprocessing))
        right += descriptor.classes[int(logits.argmax())] == file.parent.name
    return right


@pytest.mark.parametrize("seed", range(4))
def test_as_many_images_are_right_as_torch_says(make_checkpoint: MakeCheckpoint, bars: Path, seed: int) -> None:
    checkpoint = saying(make_checkpoint(seed=seed), 1, 150)
    right = right_by_torch(checkpoint, bars)
    measurement = measure(checkpoint, HeldOutImages(str(bars)))
    assert measurement == Measurement(correct=right, total=150, stated=1, stated_total=150)
    assert not measurement.agrees
    assert measure(saying(checkpoint, right, 150), HeldOutImages(str(bars))).agrees


@pytest.mark.parametrize(
    ("measurement", "agrees", "text"),
    [
        (Measurement(8120, 10000, 8123, 10000, True), False, "says 0.8123 (8123 of 10000), measured 8120"),
        (Measurement(8123, 10000, 8123, 10000), True, "says 0.8123 (8123 of 10000), measured 8123"),
        (
            Measurement(812, 1000, 8120, 10000),
            False,
            "says 0.8120 (8120 of 10000), measured 812 of 1000: perhaps on other images, the file does not say on "
            "which it was tested",
        ),
        (
            Measurement(8121, 10000, 8123, 10000, False),
            False,
            "says 0.8123 (8123 of 10000), measured 8121: other images than those it was tested on",
        ),
        (Measurement(812, 1000, None, None), True, "says nothing, measured 812 of 1000"),
    ],
)
def test_one_image_more_or_less_is_a_difference(measurement: Measurement, agrees: bool, text: str) -> None:
    assert (measurement.agrees, str(measurement)) == (agrees, text)


def test_other_classes_cannot_be_measured(make_checkpoint: MakeCheckpoint, bars: Path) -> None:
    with pytest.raises(DataError, match=r"tells apart 3 classes \(class 0, class 1, class 2\); the images are of 3 "):
        measure(make_checkpoint(), HeldOutImages(str(bars)))


def test_digits_are_those_of_training() -> None:
    images = HeldOutImages("digits")
    pixels, labels = digits.images_and_labels()
    train, test = digits.split(labels)
    assert (images.name, images.classes, len(images)) == ("digits", digits.CLASSES, 359)
    assert not set(train) & set(test)
    assert np.array_equal(images.pixels(Form("gray", (8, 8), "crop"))[..., 0], pixels[test])
    assert np.array_equal(images.labels, labels[test])


def test_a_name_that_needs_torch(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cifar10: no such directory or archive; by name there is only digits"):
        HeldOutImages("cifar10")


def test_bad_files_are_left_out_as_a_run_leaves_them_out(tmp_path: Path) -> None:
    """Of the others the same are set aside for validation."""
    bars = write_bars(tmp_path / "bars", num_train=20, num_test=4)
    for number in (3, 8, 13):
        (bars / "train" / "left" / f"{number}.jpg").write_bytes(b"no image")
    (bars / "test" / "right" / "1.jpg").write_bytes(b"")
    run = load(str(bars), skip_bad=True)
    form = Form("rgb", (24, 20), "crop")
    with pytest.raises(DataError, match=r"^test/right/1\.jpg: 0 bytes .* \(--skip-bad goes on without it\)$"):
        HeldOutImages(str(bars)).pixels(form)
    tested = HeldOutImages(str(bars), skip_bad=True)
    assert len(tested.findings) == len(run.findings) == 1
    assert tested.findings[0].startswith("left out, as they cannot be read: 1 file: test/right/1.jpg: 0 bytes")
    for images, split in ((tested, run.test), (HeldOutImages(str(bars), run.record(), skip_bad=True), run.validation)):
        assert images.pixels(form).transpose(0, 3, 1, 2).tolist() == split.images.tolist()
        assert images.labels.tolist() == split.labels.tolist()


@pytest.mark.parametrize("layout", ["flat", "valid"])
def test_images_are_those_of_training_in_any_layout(tmp_path: Path, layout: str) -> None:
    bars = write_bars(tmp_path / "bars", num_train=20, num_test=6)
    if layout == "valid":
        shutil.copytree(bars / "test", bars / "valid")
    else:
        shutil.rmtree(bars / "test")
        bars = bars / "train"
    share = 0.3 if layout == "flat" else None
    run = load(str(bars), test_share=share, image_size=12)
    form = Form("rgb", (12, 12), "crop")
    tested = HeldOutImages(str(bars), test_share=share)
    validated = HeldOutImages(str(bars), run.record(), test_share=share)
    for images, split in ((tested, run.test), (validated, run.validation)):
        assert images.pixels(form).transpose(0, 3, 1, 2).tolist() == split.images.tolist()
    assert tested.content(form) == run.content.test
    if share:
        with pytest.raises(
            DataError, match=r"aside with --test-share 0\.2: give the share that they were trained with"
        ):
            HeldOutImages(str(bars), run.record())


# --- zoo verify --data ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, command: Command) -> tuple[Path, Path]:
    """A zoo that zoo-train grew on an archive of colour JPEG files, and the archive."""
    root = tmp_path_factory.mktemp("trained")
    bars = write_bars(root / "bars", num_train=60, num_test=100)
    with tarfile.open(root / "bars.tar.gz", "w:gz") as tar:
        tar.add(bars, arcname=".")
    options = ("--epochs", 17, "--threshold", 0, "--device", "cpu")
    cache = {"XDG_CACHE_HOME": str(root / "cache")}
    words = ("zoo-train", "digits", "--data", root / "bars.tar.gz", "--zoo", root / "zoo", *options)
    done = command(*words, environment=cache)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) >= 2
    return root / "zoo", root / "bars.tar.gz"


def test_a_run_is_what_it_says_to_the_image(command: Command, trained: tuple[Path, Path]) -> None:
    zoo, archive = trained
    for data in (archive, archive.with_name("bars")):
        done = command("zoo", "verify", "--zoo", zoo, "--data", data)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert len(lines) == len(list(zoo.rglob("*.safetensors")))
        assert all(line.startswith("ok      ") and " of 300), measured " in line for line in lines)
    results = json.loads(command("zoo", "verify", "--zoo", zoo, "--data", archive, "--json").stdout)
    accuracies = {
        entry["id"]: entry["accuracy"] for entry in json.loads(command("zoo", "list", "--zoo", zoo, "--json").stdout)
    }
    assert {result["id"]: round(result["measured"]["correct"] / 300, 4) for result in results} == accuracies
    assert min(accuracies.values()) < 1


def test_a_wrong_claim_is_found(command: Command, trained: tuple[Path, Path], tmp_path: Path) -> None:
    zoo, archive = trained
    honest = min(zoo.rglob("*.safetensors"))
    (tmp_path / honest.name).write_bytes(honest.read_bytes())
    checkpoint = decode(honest.read_bytes())
    assert checkpoint.descriptor.metrics.test is not None
    right = round(300 * checkpoint.descriptor.metrics.test.accuracy)
    claim = Directory(tmp_path).put(encode(saying(checkpoint, right - 1, 300)))
    assert command("zoo", "verify", "--zoo", tmp_path).returncode == 0, "without the images it looks whole"
    done = command("zoo", "verify", "--zoo", tmp_path, "--data", archive)
    assert done.returncode == 1
    [line] = [line for line in done.stdout.splitlines() if claim[:12] in line]
    assert line.startswith("differs ")
    assert line.endswith(f"says {(right - 1) / 300:.4f} ({right - 1} of 300), measured {right}")
    assert f"ok      {honest.stem[:12]}" in done.stdout


def test_other_images_under_the_same_name_are_not_a_wrong_claim(
    command: Command, trained: tuple[Path, Path], tmp_path: Path
) -> None:
    zoo, archive = trained
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "bars", filter="data")
    first = min((tmp_path / "bars" / "test").rglob("*.jpg"))
    with Image.open(first) as image:
        image.transpose(Image.Transpose.ROTATE_180).save(first, quality=90)
    done = command("zoo", "verify", "--zoo", zoo, "--data", tmp_path / "bars")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines
    assert all(line.startswith("other   ") for line in lines)
    assert all(line.endswith(": other images than those it was tested on") for line in lines)
    renamed = tmp_path / "renamed" / "bars"
    for split in ("train", "test"):
        shutil.copytree(tmp_path / "bars" / split, renamed / split)
        (renamed / split / "left").rename(renamed / split / "lefty")
    done = command("zoo", "verify", "--zoo", zoo, "--data", renamed)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert all(line.startswith("other   ") and "the images are of 3 classes (lefty" in line for line in lines)
    trained_on = min((tmp_path / "bars" / "train").rglob("*.jpg"))
    first.write_bytes(trained_on.read_bytes())
    min((tmp_path / "bars" / "test" / "right").rglob("*.jpg")).write_bytes(b"")
    done = command("zoo", "verify", "--zoo", zoo, "--data", tmp_path / "bars", "--skip-bad")
    assert "warning: 1 of 299 test images are training images too (test/left/0.jpg is train/left/0.jpg)" in done.stderr
    assert "warning: left out, as they cannot be read: 1 file: test/right/0.jpg: 0 bytes" in done.stderr
    assert "of 299" in done.stdout


def test_other_data_sets_are_checked_and_not_measured(
    command: Command, trained: tuple[Path, Path], tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    zoo, archive = trained
    one = min(zoo.rglob("*.safetensors"))
    (tmp_path / one.name).write_bytes(one.read_bytes())
    other = Directory(tmp_path).put(encode(make_checkpoint(dataset="shapes")))
    results = json.loads(command("zoo", "verify", "--zoo", tmp_path, "--data", archive, "--json").stdout)
    assert {result["id"]: "measured" in result for result in results} == {one.stem: True, other: False}
    bounded = command("zoo", "verify", "--zoo", tmp_path, "--data", archive, "--max-params", 100_000, "--json")
    assert [result["id"] for result in json.loads(bounded.stdout)] == [one.stem]


def test_a_renamed_archive_needs_the_data_sets_name(
    command: Command, trained: tuple[Path, Path], tmp_path: Path
) -> None:
    zoo, archive = trained
    renamed = tmp_path / "mine.tar.gz"
    renamed.symlink_to(archive)
    copy = tmp_path / "copy.tar.gz"
    copy.write_bytes(archive.read_bytes())
    assert command("zoo", "verify", "--zoo", zoo, "--data", renamed).returncode == 0
    done = command("zoo", "verify", "--zoo", zoo, "--data", copy)
    assert done.returncode == 1
    assert "holds images of copy, and no checkpoint is of that data set; --dataset names another" in done.stderr
    done = command("zoo", "verify", "--zoo", zoo, "--data", copy, "--dataset", "bars")
    assert (done.returncode, done.stdout.count(", measured ")) == (0, len(list(zoo.rglob("*.safetensors"))))


def test_images_that_cannot_be_read(command: Command, trained: tuple[Path, Path], tmp_path: Path) -> None:
    zoo, _ = trained
    done = command("zoo", "verify", "--zoo", zoo, "--data", tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert "nowhere: no such directory or archive" in done.stderr
    assert done.stderr.count("\n") == 1
