from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from trainer.commands.main import app
from trainer.commands.options import RUN_EPOCHS, RUN_NAMES
from trainer.recipes.runs import RUNS
from zoo.checkpoint.file import load
from zoo.store.directory import Directory

Command = Callable[..., subprocess.CompletedProcess[str]]


def zoo_train(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def digests_in(output: str) -> list[str]:
    """Every line is one."""
    lines = output.splitlines()
    assert all(re.fullmatch(r"[0-9a-f]{64}", line) for line in lines), output
    return lines


# --- help -----------------------------------------------------------------------------------------------


def test_help_shows_examples_and_every_run() -> None:
    result = zoo_train("--help")
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    assert "zoo-train digits --data digits --zoo my-zoo" in text
    assert "--limit-train 10000 --device cpu" in text
    assert "{train,test}/<class>/…/*.{png,jpg,webp,bmp,gif,tif,ppm}" in text
    assert {name: RUNS[name]().epochs for name in sorted(RUNS)} == RUN_EPOCHS
    assert RUN_NAMES in text


def test_help_does_not_wait_for_torch() -> None:
    words = [sys.executable, "-X", "importtime", "-m", "trainer", "--help"]
    result = subprocess.run(words, capture_output=True, text=True)
    assert result.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "trainer.commands.train" in imported
    assert not {"torch", "torchvision", "numpy", "PIL", "trainer.grow"} & imported


# --- a run ----------------------------------------------------------------------------------------------


def test_standard_output_is_the_digests(tmp_path: Path, images: Path, command: Command) -> None:
    zoo = tmp_path / "[red]a zoo[/red]"
    words = ("zoo-train", "paper", "--data", images, "--zoo", zoo, "--epochs", 11, "--tau", 0, "--device", "cpu")
    result = command(*words)
    assert result.returncode == 0, result.stderr
    digests = digests_in(result.stdout)
    assert len(digests) == 2
    for digest in digests:
        assert load(Directory(zoo).path(digest)).descriptor.dataset.name == "bars"
    assert "paper on bars: 81 training, 9 validation, 24 test images (1, 8, 8), 3 classes; cpu;" in result.stderr
    assert f"log: {zoo}/runs/bars-paper-s0/log.jsonl\n" in result.stderr
    assert re.search(r"\n  epoch 10: expands block \d: .* more .*; best score .* over 0\n", result.stderr)
    assert re.search(r"\n  epoch 11: saved bars-paper-s0-\d+  .* validation .*, test .*\n", result.stderr)
    assert "\n  done: 2 checkpoints, 1 expansions," in result.stderr
    assert "\x1b" not in result.stderr

    assert_refused(zoo_train(*words[1:]), "bars-paper-s0 holds this run already: --resume goes on with it")
    assert digests_in(zoo_train(*words[1:], "--resume").stdout) == digests


def test_options_reach_the_run(tmp_path: Path, images: Path) -> None:
    options = ("--epochs", 2, "--seed", 7, "--limit-train", 40, "--image-size", 10, "--device", "auto")
    result = zoo_train("digits", "--data", images, "--zoo", tmp_path, *options)
    assert result.exit_code == 0, result.stderr
    [digest] = digests_in(result.stdout)
    descriptor = load(Directory(tmp_path).path(digest)).descriptor
    assert (descriptor.lineage.seed, descriptor.lineage.epoch) == (7, 2)
    assert (descriptor.dataset.num_train, descriptor.dataset.num_validation) == (36, 4)
    assert (descriptor.architecture.input_height, descriptor.architecture.input_width) == (10, 10)


def test_a_network_that_does_not_grow_is_trained_and_goes_on(tmp_path: Path, images: Path) -> None:
    words = ("resnet20", "--widths", "2,4,6", "--data", images, "--zoo", tmp_path, "--device", "cpu")
    result = zoo_train(*words, "--epochs", 1)
    assert result.exit_code == 0, result.stderr
    [digest] = digests_in(result.stdout)
    descriptor = load(Directory(tmp_path).path(digest)).descriptor
    assert descriptor.name.startswith("bars-resnet20-2-4-6-s0-")
    assert descriptor.architecture.widths()[:3] == (2, 2, 2)
    assert (descriptor.lineage.epoch, descriptor.lineage.anneal_epochs) == (1, 1)
    result = zoo_train(*words, "--epochs", 2, "--resume")
    assert result.exit_code == 0, result.stderr
    first, second = digests_in(result.stdout)
    assert first == digest
    assert load(Directory(tmp_path).path(second)).descriptor.lineage.parent == digest
    assert_refused(
        zoo_train(*words[:1], "--widths", "2,x", *words[3:]), "--widths should be whole numbers like 16,32,64"
    )


def test_a_run_begins_with_a_checkpoint(tmp_path: Path, images: Path) -> None:
    words = ("digits", "--data", images, "--device", "cpu", "--threshold", 0)
    [origin] = digests_in(zoo_train(*words, "--zoo", tmp_path / "first", "--epochs", 2).stdout)
    path = Directory(tmp_path / "first").path(origin)
    result = zoo_train(*words, "--zoo", tmp_path / "second", "--epochs", 3, "--from", path)
    assert result.exit_code == 0, result.stderr
    first, second = digests_in(result.stdout)
    assert first == origin
    before, after = (load(Directory(tmp_path / "second").path(digest)).descriptor for digest in (first, second))
    assert (before.lineage.epoch, after.lineage.epoch, after.lineage.parent) == (2, 3, origin)
    assert after.lineage.num_expansions == 1
    assert_refused(zoo_train(*words, "--zoo", tmp_path / "third", "--from", images), "Is a directory")


def test_the_paper_run_starts_from_the_papers_net(tmp_path: Path, write_images: Callable[..., Path]) -> None:
    classes = tuple(f"class {index}" for index in range(10))
    images = write_images(tmp_path / "ten", {"train": 2, "test": 1}, classes=classes, size=(32, 32), mode="RGB")
    result = zoo_train("paper", "--data", images, "--zoo", tmp_path, "--epochs", 1, "--device", "cpu")
    [digest] = digests_in(result.stdout)
    assert load(Directory(tmp_path).path(digest)).descriptor.name == "ten-paper-s0-9024"


def test_what_is_odd_about_the_images_is_said_and_logged(tmp_path: Path, write_images: Callable[..., Path]) -> None:
    images = write_images(tmp_path / "odd", {"train": 10, "test": 2})
    (images / "train" / "left" / "0003.png").write_bytes(b"")
    (images / "train" / "left" / "photo.jxl").write_bytes(b"")
    words = ("digits", "--data", images, "--zoo", tmp_path, "--epochs", 1, "--device", "cpu")
    assert_refused(zoo_train(*words), "train/left/0003.png: 0 bytes that are no PNG, JPEG, WebP, BMP, GIF, TIFF")
    result = zoo_train(*words, "--skip-bad")
    assert result.exit_code == 0, result.stderr
    about, sizes, first, second, third = result.stderr.splitlines()[:5]
    assert about == "odd: 29 training and 6 test images of 3 classes, 11 to 12 of each"
    assert sizes == "odd: images of 8×8 stay as they are"
    assert first == "odd: warning: left out: 1 .jxl (train/left/photo.jxl)"
    assert second.startswith("odd: warning: left out, as they cannot be read: 1 file: train/left/0003.png: 0 bytes")
    assert "26 training, 3 validation, 6 test images" in third
    log = tmp_path / "runs" / "odd-digits-s0" / "log.jsonl"
    assert json.loads(log.read_text().splitlines()[0]) == {
        "event": "data",
        "findings": [line.removeprefix("odd: warning: ") for line in (first, second)],
    }
    resumed = zoo_train(*words, "--skip-bad", "--resume")
    assert resumed.exit_code == 0
    assert log.read_text().count('"event": "data"') == 1


# --- what cannot be done --------------------------------------------------------------------------------


def assert_refused(result: Any, message: str) -> None:
    """On one line, on standard error, without a traceback."""
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.endswith("\n")
    last = result.stderr.splitlines()[-1]
    assert last.startswith("zoo-train: ")
    assert message in last
    assert "Traceback" not in result.stderr


def test_an_unknown_run(tmp_path: Path) -> None:
    result = zoo_train("papre", "--data", "digits", "--zoo", tmp_path)
    assert_refused(result, "no run is named 'papre'; there are: digits, grow, paper")
    assert result.stderr.count("\n") == 1


def test_an_empty_word_is_no_zoo(images: Path) -> None:
    """A variable that is not set is not the working directory."""
    result = CliRunner().invoke(app, ["digits", "--data", str(images), "--zoo", ""])
    assert result.exit_code == 2
    assert "a directory was expected, an empty word came" in " ".join(result.stderr.replace("│", " ").split())


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    result = zoo_train("digits", "--data", tmp_path / "[b]nowhere", "--zoo", tmp_path / "zoo")
    assert_refused(result, "[b]nowhere: no such directory or archive, and no data set of that name (digits, cifar10,")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "zoo").exists()


def test_a_directory_of_another_shape(tmp_path: Path) -> None:
    result = zoo_train("digits", "--data", tmp_path, "--zoo", tmp_path / "zoo")
    assert_refused(
        result, "should hold {train,test}/<class>/*.{png,jpg} or <class>/*.{png,jpg}, with two classes or more"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_gpu(tmp_path: Path, images: Path) -> None:
    result = zoo_train("digits", "--data", images, "--zoo", tmp_path, "--device", "cuda")
    assert_refused(result, "--device cuda: torch finds no CUDA device here; use --device cpu or auto")
    assert result.stderr.count("\n") == 1


def test_a_zoo_that_is_a_file(tmp_path: Path, images: Path) -> None:
    (tmp_path / "zoo").write_text("no directory")
    result = zoo_train("digits", "--data", images, "--zoo", tmp_path / "zoo")
    assert_refused(result, "Not a directory")


def test_a_threshold_that_the_rule_does_not_have(tmp_path: Path) -> None:
    result = zoo_train("digits", "--data", "digits", "--zoo", tmp_path, "--tau", 2)
    assert_refused(result, "run digits has no ratio rule, so no --tau; it has --threshold")


def test_without_torch(tmp_path: Path) -> None:
    """As where only the service is installed."""
    code = "import sys; sys.modules['torch'] = None; from trainer.__main__ import main; main()"
    for words in (("paper", "--data", "digits"), ("distil", "5d41402a", "--data", "digits", "--epochs", "1")):
        result = subprocess.run([sys.executable, "-c", code, *words, "--zoo", tmp_path], capture_output=True, text=True)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.startswith("zoo-train: training needs the extra `train`: pip install"), result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="of GCC's OpenMP")
@pytest.mark.parametrize(
    ("given", "spins"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")]
)
def test_threads_that_wait_do_not_keep_the_cores(given: dict[str, str], spins: str) -> None:
    """As the library says that shares work among threads; a person's own setting is left alone."""
    unset = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    environment = {**unset, **given, "OMP_DISPLAY_ENV": "VERBOSE"}
    words = [sys.executable, "-m", "trainer", "digits", "--data", "nowhere", "--zoo", "nowhere"]
    result = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert f"GOMP_SPINCOUNT = '{spins}'" in result.stderr


def test_torch_does_not_write_into_the_display() -> None:
    """Where it was built for CUDA, a toolkit is there and no GPU, compiling a step has it log that."""
    code = "from trainer.commands.options import reported\nwith reported(''): import torch.utils.cpp_extension"
    environment = {**os.environ, "CUDA_HOME": "/usr", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_batches_fit_few_images_unless_told_otherwise(tmp_path: Path, images: Path) -> None:
    """81 images: at most 8 at once, of which the run tells; 30 if one says so."""
    for words, told in (((), True), (("--batch-size", 30), False)):
        zoo = tmp_path / f"zoo{told}"
        result = zoo_train("digits", "--data", images, "--zoo", zoo, "--epochs", 1, "--device", "cpu", *words)
        assert result.exit_code == 0
        assert ("81 training images: batches of 8, not 64" in result.stderr) is told
        resumed = zoo_train("digits", "--data", images, "--zoo", zoo, "--epochs", 2, "--device", "cpu", "--resume")
        assert (resumed.exit_code == 0) is told
    assert_refused(resumed, "was started with batch_size = 30, not 64")


def test_resuming_with_another_threshold(tmp_path: Path, images: Path) -> None:
    words = ("digits", "--data", images, "--zoo", tmp_path, "--epochs", 1, "--device", "cpu")
    assert zoo_train(*words).exit_code == 0
    result = zoo_train(*words, "--threshold", 0.5, "--resume")
    assert_refused(result, "was started with recipe.rule.threshold = 0.02, not 0.5: resume with the same, or use")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--limit-train", 3),
        ("--epochs", 0),
        ("--distil", -3),
        ("--batch-size", 1),
        ("--learning-rate", "nan"),
        ("--seed", -1),
        ("--device", "tpu"),
    ],
)
def test_options_out_of_range(tmp_path: Path, option: str, value: object) -> None:
    result = zoo_train("digits", "--data", "digits", "--zoo", tmp_path, option, value)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"Invalid value for '{option}'" in result.stderr


def test_interrupted_while_it_starts_it_ends_without_a_traceback(tmp_path: Path) -> None:
    """As where one notices a typing mistake at once; imports take most of a second."""
    code = (
        "import sys\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'trainer.commands.options': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "from trainer.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, "check", tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
