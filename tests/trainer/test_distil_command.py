"""`zoo-train distil`, in a zoo of which nothing but its checkpoint files is left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from shutil import copytree
from typing import Any

import onnx
import pytest
from typer.testing import CliRunner

from trainer.commands.main import app
from zoo.catalog.model_card import model_card
from zoo.checkpoint.descriptor import Descriptor
from zoo.checkpoint.file import load, read_header
from zoo.runtime.onnx_model import build
from zoo.store.directory import Directory

IMAGES = ("--data", "digits", "--device", "cpu")


def zoo_train(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three checkpoints, each larger and better than the one before."""
    zoo = tmp_path_factory.mktemp("grown")
    result = zoo_train("digits", *IMAGES, "--zoo", zoo, "--epochs", 24, "--seed", 1, "--license", "MIT")
    assert result.exit_code == 0, result.stderr
    return zoo


@pytest.fixture
def zoo(tmp_path: Path, grown: Path) -> Path:
    copytree(grown / "checkpoints", tmp_path / "zoo" / "checkpoints")
    return tmp_path / "zoo"


def by_size(zoo: Path) -> list[str]:
    headers = {digest: read_header(path) for digest, path in Directory(zoo).paths()}
    return sorted(headers, key=lambda digest: headers[digest].params)


def descriptor_of(zoo: Path, digest: str) -> Descriptor:
    return read_header(Directory(zoo).path(digest)).descriptor


def log_of(zoo: Path) -> list[dict[str, Any]]:
    lines = (zoo / "runs" / "digits-digits-s1" / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def assert_refused(result: Any, *messages: str) -> None:
    """On one line, on standard error."""
    assert (result.exit_code, result.stdout) == (1, "")
    last = result.stderr.splitlines()[-1]
    assert last.startswith("zoo-train: ")
    assert all(message in last for message in messages), last


def test_the_better_student_is_a_new_file_with_its_log(zoo: Path) -> None:
    student, _, teacher = by_size(zoo)
    result = zoo_train("distil", student[:8], *IMAGES, "--zoo", zoo, "--epochs", 8)
    assert result.exit_code == 0, result.stderr
    [digest] = result.stdout.split()
    before, after = (descriptor_of(zoo, one) for one in (student, digest))
    assert (after.lineage.parent, after.lineage.distilled_from) == (student, teacher)
    assert (after.lineage.run, after.lineage.seed, after.architecture) == ("digits", 1, before.architecture)
    assert after.metrics.validation.accuracy > before.metrics.validation.accuracy
    assert after.cost.epochs == before.cost.epochs + 8
    assert [record["event"] for record in log_of(zoo)] == [*["lesson"] * 8, "distilled"]
    assert log_of(zoo)[-1]["digest"] == digest
    assert "saved" in result.stderr.splitlines()[-1]


def test_the_licence_is_the_students_or_as_asked_for(zoo: Path) -> None:
    """In the file, in its ONNX metadata, on its card."""
    student = by_size(zoo)[0]
    for options, wanted in (([], "MIT"), (["--license", "Apache-2.0", "--epochs", 9], "Apache-2.0")):
        result = zoo_train("distil", student[:8], *IMAGES, "--zoo", zoo, "--epochs", 8, *options)
        assert result.exit_code == 0, result.stderr
        [digest] = result.stdout.split()
        checkpoint = load(Directory(zoo).path(digest))
        assert checkpoint.descriptor.license == wanted
        properties = {one.key: one.value for one in onnx.load_from_string(build(checkpoint)).metadata_props}
        assert properties["license"] == wanted
        assert f'license: "{wanted.lower()}"' in model_card(checkpoint.descriptor, digest)
    result = zoo_train("distil", student[:8], *IMAGES, "--zoo", zoo, "--epochs", 1, "--license", "free\nfor all")
    assert_refused(result, "license should be an SPDX expression like Apache-2.0")


def test_what_got_better_is_not_taught_again(zoo: Path) -> None:
    words = ("distil", by_size(zoo)[0], *IMAGES, "--zoo", zoo, "--epochs", 8)
    first = zoo_train(*words)
    files, log = sorted(Directory(zoo).paths()), log_of(zoo)
    again = zoo_train(*words)
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert (sorted(Directory(zoo).paths()), log_of(zoo)) == (files, log)


def test_it_goes_on_where_it_was_stopped(zoo: Path) -> None:
    words = ("distil", by_size(zoo)[0], *IMAGES, "--zoo", str(zoo), "--epochs", "30")
    log = zoo / "runs" / "digits-digits-s1" / "log.jsonl"
    # As from a terminal: tests that run in the background hand down that Ctrl-C is ignored.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heeding}; from trainer.__main__ import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None and not (log.exists() and len(log_of(zoo)) >= 2):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, ""), errors
    assert "the same command goes on from the last whole epoch" in errors
    before = log_of(zoo)
    assert 2 <= len(before) < 30
    result = zoo_train(*words)
    assert result.exit_code == 0, result.stderr
    assert log_of(zoo)[: len(before)] == before
    assert [record["epoch"] for record in log_of(zoo) if record["event"] == "lesson"] == list(range(1, 31))


def test_batches_and_rate_are_the_commands(grown: Path, tmp_path: Path) -> None:
    """Else those of the run that grew it, 64 and 0.01. What no network survives is not saved."""
    losses = []
    for number, words in enumerate(
        (
            (),
            ("--batch-size", 64, "--learning-rate", 0.01),
            ("--batch-size", 32),
            ("--learning-rate", 1000),
        )
    ):
        zoo = tmp_path / f"{number}"
        copytree(grown / "checkpoints", zoo / "checkpoints")
        result = zoo_train("distil", by_size(zoo)[0], *IMAGES, "--zoo", zoo, "--epochs", 1, *words)
        assert result.exit_code == 0, result.stderr
        lesson, distilled = log_of(zoo)
        losses.append(lesson["loss"])
    assert losses[0] == losses[1]
    assert losses[2] != losses[0]
    assert losses[3] > losses[0]
    assert (distilled["digest"], result.stdout, len(by_size(zoo))) == (None, "", 3)


def test_several_are_taught_by_the_one_that_is_named(zoo: Path) -> None:
    small, middle, large = by_size(zoo)
    options = ("--zoo", zoo, "--teacher", large[:10], "--epochs", 8)
    result = zoo_train("distil", small, middle, *IMAGES, *options)
    assert result.exit_code == 0, result.stderr
    records = [record for record in log_of(zoo) if record["event"] == "distilled"]
    assert [(record["student"], record["teacher"]) for record in records] == [(small, large), (middle, large)]
    assert result.stdout.split() == [record["digest"] for record in records if record["digest"]]
    assert records[0]["digest"], "more epochs on images this easy help"
    asked = [record["student"] for record in log_of(zoo) if record["event"] == "lesson" and record["num_answered"]]
    assert set(asked) == {small}, "the teacher answers once, for both"


def test_who_cannot_be_taught(zoo: Path) -> None:
    small, _, large = by_size(zoo)
    options = (*IMAGES, "--zoo", zoo, "--epochs", 1)
    assert_refused(zoo_train("distil", "x", *options), f"{zoo} holds no checkpoint whose digest begins with x")
    assert_refused(zoo_train("distil", "", *options), "several checkpoints in", "give more of the digest's digits")
    assert_refused(zoo_train("distil", large, *options), "should be larger, no worse", f"none in {zoo} is")
    assert_refused(zoo_train("distil", large, *options, "--teacher", small), f"{small} is not")
    other = zoo_train("distil", small, *options, "--limit-train", 500)
    assert_refused(other, f"{small[:12]} has another data set", "1,294 + ", "450 + ")
    assert not (zoo / "runs").exists()
