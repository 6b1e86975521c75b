"""The benchmarks run, on little; what they find is in benchmarks/results."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.checkpoint.file import Checkpoint, encode, read_header
from zoo.network.cost import num_macs, num_params, training_flops
from zoo.network.families import secnn
from zoo.store.directory import Directory

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    words = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    with start(script, *arguments) as process:
        stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def test_the_frontier_marks_floors_and_goals(tmp_path: Path, put: Callable[..., str]) -> None:
    put(tmp_path / "mine", dataset="cifar10", accuracy=0.82, seed=0)
    put(tmp_path / "mine", dataset="cifar10", accuracy=0.78, seed=1)
    other = {
        "dataset": {"name": "cifar10", "num_train": 45_000},
        "epochs": 200,
        "networks": {"other": {"params": 60_000, "seeds": [{"test": 0.925, "validation": 0.93}]}},
    }
    (tmp_path / "other.json").write_text(json.dumps(other))

    done = run("frontier.py", tmp_path / "mine", "--references", tmp_path / "other.json")

    assert done.returncode == 0, done.stderr
    lines = {line.split("  ")[0].strip(): line for line in map(str.strip, done.stdout.splitlines())}
    assert lines["≤ 5,000"].split()[2:] == ["76.7", "80", "–", "80.00", "±", "2.83", "**", "–"]
    assert lines["≤ 20,000"].split()[-4:] == ["80.00", "±", "2.83", "–"]
    assert lines["≤ 62,700"].endswith("92.50 **")
    assert "81.56 ± 2.19" in lines["≤ 62,700"]


def test_references_learn_and_are_on_the_frontier(tmp_path: Path, put: Callable[..., str]) -> None:
    put(tmp_path / "mine", dataset="digits")
    out = tmp_path / "references.json"
    network = ("--network", "mlperf-tiny-resnet8", "--epochs", 16, "--device", "cpu", "--out", out)

    trained = run("references.py", "--data", "digits", *network)

    assert trained.returncode == 0, trained.stderr
    (found,) = json.loads(out.read_text())["networks"]["mlperf-tiny-resnet8"]["seeds"]
    assert found["test"] > 0.5
    done = run("frontier.py", tmp_path / "mine", "--dataset", "digits", "--references", out)
    assert done.returncode == 0, done.stderr
    assert f"{100 * found['test']:.2f}" in done.stdout


def test_a_reference_that_diverges_is_no_result(tmp_path: Path) -> None:
    out = tmp_path / "references.json"
    network = ("--network", "mlperf-tiny-resnet8", "--limit-train", 200, "--device", "cpu", "--out", out)

    done = run("references.py", "--data", "digits", *network, "--learning-rate", 1e30)

    assert done.returncode == 2
    assert "mlperf-tiny-resnet8, seed 0: training diverged: the loss of epoch 1 is" in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_interrupted_reference_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    def words(out: str, *more: object) -> list[object]:
        network = ("--network", "mlperf-tiny-resnet8", "--epochs", 4, "--seeds", 2, "--limit-train", 200)
        return ["--data", "digits", *network, "--device", "cpu", "--out", tmp_path / out, *more]

    def accuracies(out: str) -> list[tuple[float, float]]:
        seeds = json.loads((tmp_path / out).read_text())["networks"]["mlperf-tiny-resnet8"]["seeds"]
        return [(seed["validation"], seed["test"]) for seed in seeds]

    whole = run("references.py", *words("whole.json"))
    assert whole.returncode == 0, whole.stderr
    with start("references.py", *words("cut.json")) as process:
        assert process.stderr is not None
        # Of the second seed: the first one's result is to stay.
        second_epochs = (line for line in process.stderr if line.startswith("epoch 2 of 4"))
        assert next(second_epochs)
        assert next(second_epochs)
        process.kill()
    assert len(accuracies("cut.json")) == 1

    other = run("references.py", *words("cut.json", "--resume", "--epochs", 5))
    resumed = run("references.py", *words("cut.json", "--resume"))

    assert other.returncode == 2
    assert "has other epochs: --resume with the same, or another --out" in other.stderr
    assert resumed.returncode == 0, resumed.stderr
    assert "epoch 1 of 4" not in resumed.stderr
    assert accuracies("cut.json") == accuracies("whole.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.json", "whole.json"]


def test_the_cost_of_a_baseline_is_that_of_its_full_schedule(tmp_path: Path, put: Callable[..., str]) -> None:
    small = secnn.start(input_shape=(1, 8, 8), num_classes=10, channels=2, num_blocks=2)
    wide = small.widened(1, 2)
    for architecture in (small, wide):
        put(tmp_path, architecture, dataset="digits", run="digits")

    done = run("one_run_beats_many.py", "--data", "digits", "--limit-train", 60, "--zoo", tmp_path, "--sizes", 2)

    assert done.returncode == 0, done.stderr
    assert "REDUCED: baselines have 54 of 80 images" in done.stdout
    # The descriptors say 3 epochs of 80 images, and 123,456 FLOPs for the whole growth.
    costs = [training_flops(num_macs(one.graph()), 3 * 80) / 123_456 for one in (small, wide)]
    rows = [line.strip() for line in done.stdout.splitlines()]
    for architecture, cost in zip((small, wide), costs, strict=True):
        row = next(line for line in rows if line.startswith(f"{num_params(architecture.graph()):,}"))
        assert f"{cost:.1%}" in row
    assert f"= {sum(costs):.2f}" in done.stdout


def test_growth_costs_what_its_distillation_costs_too(
    tmp_path: Path, put: Callable[..., str], make_checkpoint: Callable[..., Checkpoint]
) -> None:
    """And two checkpoints of one architecture are one architecture to train."""
    small = secnn.start(input_shape=(1, 8, 8), num_classes=10, channels=2, num_blocks=2)
    student, teacher = (put(tmp_path, each, dataset="digits", run="digits") for each in (small, small.widened(1, 2)))
    before = make_checkpoint(small, dataset="digits", run="digits", seed=0, val_accuracy=0.9)
    lineage = before.descriptor.lineage.model_copy(update={"parent": student, "distilled_from": teacher})
    cost = before.descriptor.cost.model_copy(update={"epochs": 5, "training_flops": 223_456})
    descriptor = before.descriptor.model_copy(update={"lineage": lineage, "cost": cost})
    Directory(tmp_path).put(encode(replace(before, descriptor=descriptor)))

    done = run("one_run_beats_many.py", "--data", "digits", "--limit-train", 60, "--zoo", tmp_path, "--sizes", 1)

    assert done.returncode == 0, done.stderr
    assert "2 checkpoints" in done.stdout
    assert "5 epochs with branches, 2.23e+05 FLOPs" in done.stdout


def test_a_zoo_of_another_recipe_is_not_compared(tmp_path: Path, put: Callable[..., str]) -> None:
    put(tmp_path, dataset="digits", run="grow")
    done = run("one_run_beats_many.py", "--data", "digits", "--zoo", tmp_path)
    assert done.returncode == 1
    assert "run grow annealed 0 epochs at epoch 3, and would anneal" in done.stderr


def test_cascades_are_compared_with_checkpoints_alone(grown: Path) -> None:
    done = run("cascade.py", "--zoo", grown, "--data", "digits")
    assert done.returncode == 0, done.stderr
    assert "digits: found on 30 validation images, tested on 359" in done.stdout
    checkpoints = [read_header(path).descriptor for path in grown.rglob("*.safetensors")]
    best = max(one.metrics.test.accuracy for one in checkpoints if one.metrics.test)
    [last] = [line for line in done.stdout.splitlines() if line.strip().startswith(f"{best:.4f}")]
    accuracies = [word for word in last.split() if word.startswith("0.")]
    assert set(accuracies) == {f"{best:.4f}"}, "what a checkpoint states is what is measured"
    assert "geometric mean of these" in done.stdout


def test_reference_networks_have_their_published_sizes() -> None:
    program = (
        "from reference_networks import *\n"
        "for size in ((16, 1), (16, 2), (28, 1), (28, 2), (40, 2)):\n"
        "    print(num_params(BlueprintWideResNet(3, 10, *size)))\n"
        "print(num_params(ResNet8(3, 10)), num_macs(ResNet8(3, 10), (3, 32, 32)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=BENCHMARKS)
    assert done.stdout.split() == ["18663", "60647", "35463", "115751", "170855", "78186", "12501632"], done.stderr


@pytest.mark.skipif(not (shutil.which("wrk") and shutil.which("nginx")), reason="needs wrk and nginx")
def test_downloads_are_measured_side_by_side() -> None:
    done = run("downloads.py", "--seconds", 1, "--rounds", 1)
    assert done.returncode == 0, done.stderr
    rows = {line[:16].strip(): line[16:].split() for line in done.stdout.splitlines() if line[:3].islower()}
    assert list(rows) == ["zoo", "nginx", "zoo, 304"]
    assert all(float(cell.replace(",", "")) > 0 for row in rows.values() for cell in row)


@pytest.mark.skipif(shutil.which("wrk") is None, reason="the load generator is missing: apt-get install wrk")
def test_predictions_are_counted_against_their_ceiling(tmp_path: Path, put: Callable[..., str]) -> None:
    put(tmp_path, secnn.start(input_shape=(3, 32, 32), num_classes=3, channels=4))
    done = run("predict.py", tmp_path, "--rounds", 1, "--seconds", 1, "--only", "ours", "ceiling")
    assert done.returncode == 0, done.stderr
    assert "at 16: this, 1 worker / this, no forward pass = " in done.stdout


def test_adaptive_answers_are_measured_beside_fixed_sizes(tmp_path: Path, put: Callable[..., str]) -> None:
    for channels, accuracy in ((4, 0.8), (8, 0.9)):
        network = secnn.start(input_shape=(3, 16, 16), num_classes=3, channels=channels)
        put(tmp_path / "zoo", network, accuracy=accuracy, dataset="cifar10")
    for split, count in (("train", 2), ("test", 6)):
        for label in ("class 0", "class 1", "class 2"):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = np.random.default_rng([index, len(split), int(label[-1])]).integers(
                    0, 256, (16, 16, 3), np.uint8
                )
                Image.fromarray(pixels).save(folder / f"{index}.png")
    words = ("--data", tmp_path / "images", "--images", 2, "--loads", 0.1, "--rounds", 1, "--seconds", 0.5)
    done = run("adaptive.py", tmp_path / "zoo", *words, "--clients", 1, "--policies", "adaptive")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("  0.1  ")]
    assert [row[1] for row in rows] == ["adaptive"]
    assert all(float(row[2]) > 0 for row in rows)


def test_recipes_of_distillation_are_compared_side_by_side(grown: Path, tmp_path: Path) -> None:
    by_size = sorted(grown.rglob("*.safetensors"), key=lambda path: path.stat().st_size)
    small, large = by_size[0], by_size[-1]
    words = ("--data", "digits", "--student", small, "--teacher", large, "--also", small, "--epochs", 1)
    results = tmp_path / "recipes.json"
    done = run("distil_recipes.py", *words, "--results", results, "--variants", "as it is", "plain", "two")
    assert done.returncode == 0, done.stderr
    rows = {line[:14].strip(): line[14:].split() for line in done.stdout.splitlines() if " ± " in line}
    assert list(rows) == ["as it is", "plain", "two"]
    assert rows["as it is"][1:4] == ["+0.00", "±", "0.00"]
    again = run("distil_recipes.py", *words, "--results", results, "--variants", "as it is", "plain", "two")
    assert again.stdout.splitlines()[-3:] == done.stdout.splitlines()[-3:], "what is kept is not taught again"


def test_ablations_go_on_where_they_were_stopped(tmp_path: Path) -> None:
    """With what was found before, of the same recipe only; here all of it was."""
    results = tmp_path / "results.json"
    variants = {"as it is": {"0": [0.5, 0.6]}, "inexact": {"0": [0.4, 0.5]}}
    results.write_text(json.dumps({"recipe": "another", "runs": variants}))
    words = ("--data", "digits", "--seeds", 1, "--sizes", 5000, "--variants", *variants, "--results", results)
    refused = run("ablations.py", *words)
    assert refused.returncode == 1
    found = re.fullmatch(r"ablations: .*results\.json is of another recipe, another, not (.*)\n", refused.stderr)
    assert found is not None, refused.stderr
    results.write_text(json.dumps({"recipe": found.group(1), "runs": variants}))
    done = run("ablations.py", *words)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^inexact +40\.00 +50\.00 +50\.00  -10\.00$", done.stdout, re.MULTILINE), done.stdout


def test_ways_of_training_elastic_networks_are_compared_side_by_side(tmp_path: Path) -> None:
    words = ("--data", "digits", "--limit-train", 100, "--from", "digits", "--first", 2, "--epochs", 1)
    done = run("elastic.py", *words, "--variants", "distilled", "--device", "cpu", "--zoo", tmp_path / "zoo")
    assert done.returncode == 0, done.stderr
    rows = {line[:18].strip(): line[18:].split() for line in done.stdout.splitlines() if line[18:].strip()}
    assert rows["separate"][2:4] == ["+0.00", "+0.00"]
    gaps = [float(rows["distilled"][level]) - float(rows["separate"][level]) for level in range(2)]
    assert float(rows["distilled"][2]) == pytest.approx(sum(gaps) / 2, abs=0.02)
    assert "distilled: epoch 1 of 1" in done.stderr
