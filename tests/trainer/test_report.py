from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import log10
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from trainer.commands.main import app
from trainer.config import RunConfig
from trainer.data.datasets import Data
from trainer.grow import grow
from trainer.report.trials import hypervolume, read_trials
from zoo.checkpoint.descriptor import Cost, ExpansionStep, Lineage
from zoo.checkpoint.elastic import pack
from zoo.checkpoint.file import Checkpoint, digest_of, encode, read_header
from zoo.network.cost import num_params
from zoo.network.families import secnn
from zoo.store.directory import Directory

Command = Callable[..., subprocess.CompletedProcess[str]]
MakeCheckpoint = Callable[..., Checkpoint]


@pytest.fixture
def add_trial(make_checkpoint: MakeCheckpoint) -> Callable[..., list[str]]:
    """Stores a trial: one checkpoint per (validation, test) accuracy, grown by turns wider and deeper."""

    def add(
        zoo: Path,
        accuracies: Sequence[tuple[float, float | None]],
        *,
        dataset: str = "cifar10",
        run: str = "fast",
        seed: int = 0,
        channels: int = 16,
    ) -> list[str]:
        architecture = secnn.start(input_shape=(3, 32, 32), num_classes=10, channels=channels)
        digests: list[str] = []
        steps: tuple[ExpansionStep, ...] = ()
        for index, (validation, test) in enumerate(accuracies):
            checkpoint = make_checkpoint(
                architecture, seed=seed, dataset=dataset, run=run, accuracy=test, val_accuracy=validation, n=10_000
            )
            epoch = 10 * (index + 1)
            lineage = Lineage(
                run=run,
                seed=seed,
                parent=digests[-1] if digests else None,
                num_expansions=len(steps),
                expansions=steps,
                epoch=epoch,
                code_version="0",
            )
            cost = Cost(epochs=epoch, device="cpu", device_seconds=1000.0 * (index + 1), training_flops=10**12)
            descriptor = checkpoint.descriptor.model_copy(update={"lineage": lineage, "cost": cost})
            digests.append(Directory(zoo).put(encode(Checkpoint(descriptor, checkpoint.tensors))))
            grown = architecture.deepened(1, "conv", split_slope=False) if index % 2 else architecture.widened(0, 4)
            step = ExpansionStep(
                epoch=epoch,
                kind="deepen" if index % 2 else "widen",
                block=index % 2,
                layer_kind="conv" if index % 2 else None,
                channels_added=0 if index % 2 else 4,
                params_before=num_params(architecture.graph()),
                params_after=num_params(grown.graph()),
                score=0.25,
                threshold=0.02,
                exact=True,
            )
            architecture, steps = grown, (*steps, step)
        return digests

    return add


def report(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def cells(text: str, row: str) -> list[str]:
    """Of the first table row that begins so."""
    [line, *_] = [line for line in text.splitlines() if line.startswith(f"| {row} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def params(zoo: Path, digest: str) -> str:
    return f"{read_header(Directory(zoo).path(digest)).params:,}"


# --- the tables -----------------------------------------------------------------------------------------


def test_the_papers_table_beside_our_own(tmp_path: Path, add_trial: Callable[..., list[str]]) -> None:
    first = add_trial(tmp_path, [(0.6, 0.69), (0.7, 0.7), (0.8, 0.81), (0.9, 0.85), (0.85, 0.8499)], seed=0)
    second = add_trial(tmp_path, [(0.6, 0.71), (0.7, 0.75), (0.8, 0.7999)], seed=1)
    text = report(tmp_path).stdout
    size = [params(tmp_path, digest) for digest in first]
    other = [params(tmp_path, digest) for digest in second]
    paper_70 = ["13,696", "11,360", "11,360", "11,360", "9,024", "**11,360**"]
    mean = f"{(int(size[1].replace(',', '')) + int(other[0].replace(',', ''))) / 2:,.0f}"
    assert cells(text, "run fast")[:3] == ["seed 0", "seed 1", "mean"]
    assert cells(text, "params at 70 %") == [size[1], other[0], f"**{mean}**", *paper_70]
    assert cells(text, "params at 80 %")[:3] == [size[2], "not reached", f"**{size[2]}** (1 of 2)"]
    assert cells(text, "params at 80 %")[-1] == "**33,655**"
    assert cells(text, "best accuracy, %")[:3] == ["85.0", "80.0", "**82.5**"]
    assert cells(text, "best accuracy, %")[3:] == ["83.4", "84.6", "84.6", "84.5", "83.2", "**84.1**"]
    assert cells(text, "params at best")[:2] == [size[3], other[2]]
    assert cells(text, "params at best")[-1] == "**62,698**"
    assert "arXiv 2401.05686" in text


def test_a_budget_is_spent_by_validation_accuracy(tmp_path: Path, add_trial: Callable[..., list[str]]) -> None:
    """9,024, 9,760 and 12,096 parameters: the second is best on the test images, the third is to be chosen."""
    add_trial(tmp_path, [(0.50, 0.51), (0.60, 0.75), (0.70, 0.65)], seed=0)
    add_trial(tmp_path, [(0.50, 0.53), (0.60, 0.75), (0.70, 0.68)], seed=1)
    add_trial(tmp_path, [(0.50, 0.55)], seed=2, channels=40)
    text = report(tmp_path).stdout
    assert cells(text[text.index("within a budget") :], "run")[1:] == [
        "≤ 5,000",
        "≤ 10,000",
        "≤ 20,000",
        "≤ 40,000",
        "≤ 62,700",
        "≤ 100,000",
        "≤ 150,000",
    ]
    chosen = ["75.00 ± 0.00 (2 of 3)", "66.50 ± 2.12 (2 of 3)", *["62.67 ± 6.81"] * 4]
    assert cells(text, "fast") == ["3", "–", *chosen]


def test_every_checkpoint_is_listed_by_size_with_why_it_grew(
    tmp_path: Path, add_trial: Callable[..., list[str]]
) -> None:
    digests = add_trial(tmp_path, [(0.6, 0.61), (0.7, None), (0.8, 0.79)])
    text = report(tmp_path).stdout
    rows = [cells(text, f"`{digest[:12]}`") for digest in digests]
    assert [row[0] for row in rows] == [params(tmp_path, digest) for digest in digests]
    assert rows[0][0] == "9,024"
    assert [row[2:] for row in rows] == [
        ["60.00", "61.00", "10", "the start"],
        ["70.00", "–", "20", "epoch 10: widen block 0 by 4 channels (score 0.25, threshold 0.02)"],
        ["80.00", "79.00", "30", "epoch 20: deepen block 1 by a conv layer (score 0.25, threshold 0.02)"],
    ]
    places = [text.index(f"`{digest[:12]}`") for digest in digests]
    assert places == sorted(places)


def test_runs_and_their_cost(tmp_path: Path, add_trial: Callable[..., list[str]]) -> None:
    add_trial(tmp_path, [(0.6, 0.5), (0.7, 0.6)], seed=0, run="slow")
    add_trial(tmp_path, [(0.6, 0.5)], seed=1, run="slow")
    text = report(tmp_path).stdout
    [area] = {f"{trial.hypervolume():.4f}" for trial in read_trials(tmp_path)[0] if trial.seed == 0}
    rows = [line for line in text.splitlines() if line.startswith("| slow |") and "1e+12" in line]
    assert rows[0] == f"| slow | 0 | 2 | {area} | 20 | 2,000.0 | 1e+12 | cpu |"
    assert "| slow | **mean** | 1.5 |" in rows[2]
    assert "| 1,500.0 ± 707.1 |" in rows[2]


def test_data_sets_have_sections_of_their_own(tmp_path: Path, add_trial: Callable[..., list[str]]) -> None:
    add_trial(tmp_path, [(0.6, 0.61)])
    add_trial(tmp_path, [(0.6, 0.99)], dataset="shapes")
    text = report(tmp_path).stdout
    shapes = text[text.index("## shapes") :]
    assert "paper 1" not in shapes
    assert "budget" not in shapes
    assert cells(shapes, "best accuracy, %") == ["99.0", "**99.0**"]
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        f"{name}.{suffix}" for name in ("cifar10", "shapes") for suffix in ("png", "svg")
    } | {"report.md"}


def test_a_real_run(tmp_path: Path, data: Data, tiny_run: RunConfig) -> None:
    digests = grow(tiny_run, data, tmp_path, torch.device("cpu"), resume=False, observe=lambda _: None)
    result = report(tmp_path)
    assert result.exit_code == 0, result.stderr
    rows = [cells(result.stdout, f"`{digest[:12]}`") for digest in digests]
    assert rows[0][-1] == "the start"
    assert re.fullmatch(r"epoch 2: (widen|deepen) block \d by .* \(score .*, threshold 0\)", rows[1][-1])
    assert "## bars" in result.stdout


# --- hypervolume ----------------------------------------------------------------------------------------

points = st.lists(st.tuples(st.integers(1, 2_000_000), st.floats(0, 1)), max_size=8)


def test_one_point() -> None:
    assert hypervolume([(10_000, 0.8)]) == pytest.approx(1.6)
    assert hypervolume([]) == hypervolume([(1_000_000, 0.9)]) == 0


@given(points)
def test_hypervolume_is_the_integral_of_the_best_within_a_budget(points: list[tuple[int, float]]) -> None:
    """Against sums over strips between neighbouring sizes."""
    sizes = sorted({params for params, _ in points if params < 1_000_000} | {1_000_000})
    area = 0.0
    for left, right in pairwise(sizes):
        area += max(accuracy for params, accuracy in points if params <= left) * (log10(right) - log10(left))
    assert hypervolume(points) == pytest.approx(area, abs=1e-9)


@given(points, st.tuples(st.integers(1, 2_000_000), st.floats(0, 1)))
def test_another_point_never_takes_away(points: list[tuple[int, float]], another: tuple[int, float]) -> None:
    assert hypervolume([*points, another]) >= hypervolume(points) - 1e-12


# --- files and the command ------------------------------------------------------------------------------


def test_the_pictures(tmp_path: Path, add_trial: Callable[..., list[str]]) -> None:
    add_trial(tmp_path, [(0.6, 0.61), (0.7, 0.71), (0.8, 0.79), (0.9, None)])
    assert report(tmp_path, "--out", tmp_path / "out").exit_code == 0
    with Image.open(tmp_path / "out" / "cifar10.png") as picture:
        assert picture.width > picture.height > 700
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    svg = ET.parse(tmp_path / "out" / "cifar10.svg").getroot()
    assert svg.tag.endswith("svg")
    comments = (tmp_path / "out" / "cifar10.svg").read_text()
    for words in ("cifar10: every checkpoint by size", "fast, seed 0", "widened", "deepened", "the paper's trials"):
        assert f"<!-- {words}" in comments


def test_a_report_is_the_same_every_time(tmp_path: Path, add_trial: Callable[..., list[str]], command: Command) -> None:
    """In another process and at another time, too."""
    add_trial(tmp_path / "zoo", [(0.6, 0.61), (0.7, 0.71)])
    report(tmp_path / "zoo", "--out", tmp_path / "one")
    done = command("zoo-train", "report", tmp_path / "zoo", "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    for name in ("report.md", "cifar10.svg", "cifar10.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert done.stdout == (tmp_path / "two" / "report.md").read_text()
    assert done.stderr == f"written to {tmp_path / 'two'}\n"


def test_without_test_accuracies(tmp_path: Path, add_trial: Callable[..., list[str]]) -> None:
    add_trial(tmp_path, [(0.6, None), (0.7, None)])
    add_trial(tmp_path, [(0.6, None)], dataset="shapes")
    result = report(tmp_path)
    assert result.exit_code == 0, result.exception
    text = result.stdout
    assert cells(text, "best accuracy, %")[:2] == ["–", "–"]
    assert cells(text, "params at 70 %")[:2] == ["not reached", "–"]


def test_files_that_are_no_checkpoints_are_named(tmp_path: Path, add_trial: Callable[..., list[str]]) -> None:
    add_trial(tmp_path, [(0.6, 0.7)])
    bad = tmp_path / "checkpoints" / f"{'0' * 64}.safetensors"
    bad.write_text("words")
    assert f"- {bad.name}: not a whole safetensors file" in report(tmp_path).stdout


def test_nothing_to_report_on(tmp_path: Path) -> None:
    for place, message in [
        (tmp_path / "nowhere", "no such zoo directory"),
        (tmp_path, "holds no checkpoint to report"),
    ]:
        result = report(place)
        assert (result.exit_code, result.stdout) == (1, "")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_run_needs_no_matplotlib() -> None:
    program = "import sys; sys.modules['matplotlib'] = None; import trainer.grow, trainer.report.trials"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_without_matplotlib_a_report_says_so(tmp_path: Path) -> None:
    program = "import sys; sys.modules['matplotlib'] = None; from trainer.__main__ import main; main()"
    words = [sys.executable, "-c", program, "report", str(tmp_path)]
    result = subprocess.run(words, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("zoo-train: reports are drawn with matplotlib")
    assert "Traceback" not in result.stderr


# --- the command's parts --------------------------------------------------------------------------------


def test_help_lists_the_commands_and_explains_training() -> None:
    text = CliRunner().invoke(app, ["--help"]).stdout
    assert re.search(r"\btrain +Grow a network on images", text)
    assert re.search(r"\breport +Report on a zoo", text)


@pytest.mark.parametrize("words", [["digits"], ["train"], ["train", "digits"], ["--zoo", "zoo", "digits"]])
def test_a_run_or_the_word_train_explains_the_options(words: list[str]) -> None:
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    assert "--limit-train" in result.stdout


def test_levels_of_an_elastic_file_are_among_a_trials_checkpoints(tmp_path: Path, levels: list[bytes]) -> None:
    Directory(tmp_path).put(pack(levels))
    trials, left_out = read_trials(tmp_path)  # one for each seed, of which every level has its own here
    assert {entry.digest for trial in trials for entry in trial.entries} == {digest_of(data) for data in levels}
    assert left_out == []
