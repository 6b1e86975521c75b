"""The zoo that ships: real checkpoints, whole, and worth choosing between."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from itertools import pairwise
from math import log
from pathlib import Path

import numpy as np
import pytest

from zoo.checkpoint.elastic import extract
from zoo.checkpoint.file import Checkpoint, decode, digest_of, encode, load, read_header
from zoo.choosing.budget import Budget
from zoo.library.local import LocalZoo
from zoo.network.cost import num_params
from zoo.runtime import onnx_model
from zoo.runtime.predictor import Predictor
from zoo.store.directory import Directory

SHIPPED = Path(__file__).parents[1] / "zoo" / "pretrained" / "cifar10"
PHOTOS = SHIPPED.with_name("imagenette96")


@pytest.fixture(scope="module")
def checkpoints() -> list[Checkpoint]:
    """By size; loading checks digest-independent things: tensors against the descriptor, finite weights."""
    found = [load(path) for _, path in Directory(SHIPPED).paths()]
    return sorted(found, key=lambda checkpoint: num_params(checkpoint.descriptor.architecture.graph()))


def test_there_is_a_size_for_every_budget(checkpoints: list[Checkpoint]) -> None:
    """From under 4,000 parameters to over 130,000, no two neighbours more than a factor of 1.6 apart."""
    sizes = sorted({num_params(checkpoint.descriptor.architecture.graph()) for checkpoint in checkpoints})
    assert len(sizes) >= 12
    assert sizes[0] < 4_000
    assert sizes[-1] > 130_000
    assert max(log(larger / smaller) for smaller, larger in pairwise(sizes)) < log(1.6)


def test_they_are_of_one_run_on_all_of_cifar10(checkpoints: list[Checkpoint]) -> None:
    lineages = [checkpoint.descriptor.lineage for checkpoint in checkpoints]
    assert {(lineage.run, lineage.seed) for lineage in lineages} == {("grow", 0)}
    for checkpoint in checkpoints:
        dataset = checkpoint.descriptor.dataset
        assert (dataset.name, dataset.num_train, dataset.num_validation, dataset.num_test) == (
            "cifar10",
            45_000,
            5_000,
            10_000,
        )


def test_a_second_zoo_is_of_photos(tmp_path: Path) -> None:
    """Eight sizes or more, from under 4,000 parameters to over 90,000, in at most 5 MB, all of them distilled."""
    assert sum(path.stat().st_size for path in PHOTOS.rglob("*") if ".sqlite" not in path.name) < 5e6
    with closing(LocalZoo([tmp_path, PHOTOS])) as zoo:
        zoo.sync()
        rows = sorted(zoo.chooser.rows(Budget()), key=lambda row: row.params)
        assert len({row.params for row in rows}) == len(rows) >= 8
        assert rows[0].params < 4_000
        assert rows[-1].params > 90_000
        assert {(row.dataset, row.accuracy_n, row.distilled_from is not None) for row in rows} == {
            ("imagenette96", 3_925, True)
        }
        best = zoo.chooser.choose(Budget())
        assert (best.accuracy or 0) > 0.82
        assert zoo.chooser.cascade(0.8, "imagenette96").cascade.macs < best.macs


def test_each_photo_gets_a_finite_answer() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    for digest, path in Directory(PHOTOS).paths():
        assert digest_of(path.read_bytes()) == digest
        assert np.isfinite(Predictor(load(path)).logits(pixels)).all()


def test_the_length_of_the_onnx_file_is_known_without_the_weights() -> None:
    for _, path in (*Directory(SHIPPED).paths(), *Directory(PHOTOS).paths()):
        assert onnx_model.size_bytes(read_header(path).descriptor) == len(onnx_model.build(load(path)))


def test_names_tell_them_apart_and_which_were_distilled(tmp_path: Path) -> None:
    for _, path in Directory(SHIPPED).paths():
        shutil.copy(path, tmp_path)
    zoo = LocalZoo([tmp_path])
    zoo.sync()
    rows = zoo.chooser.rows(Budget())
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert zoo.chooser.find(row.name) == row
        assert ("-d" in row.name) == (row.distilled_from is not None)
    zoo.close()


def test_each_file_is_named_by_its_content_and_answers() -> None:
    directory = Directory(SHIPPED)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    for digest, path in directory.paths():
        assert digest_of(path.read_bytes()) == digest
        assert np.isfinite(Predictor(load(path)).logits(pixels)).all()


def test_more_parameters_buy_accuracy(tmp_path: Path, checkpoints: list[Checkpoint]) -> None:
    """Smallest and largest are on the front, and neighbours on it are at most a factor of 2.3 apart.

    The catalog lies in a folder of its own, as beside an installed package.
    """
    with closing(LocalZoo([tmp_path, SHIPPED])) as zoo:
        zoo.sync()
        front = sorted(row.params for row in zoo.catalog.pareto(Budget(), "params"))
    sizes = [num_params(checkpoint.descriptor.architecture.graph()) for checkpoint in checkpoints]
    assert (front[0], front[-1]) == (sizes[0], sizes[-1])
    assert max(larger / smaller for smaller, larger in pairwise(front)) < 2.3


def test_its_cascades_save_multiply_accumulates(tmp_path: Path) -> None:
    """Out of the box, without the images that they were found on."""
    with closing(LocalZoo([tmp_path, SHIPPED.parent])) as zoo:
        zoo.sync()
        alone = min(row.macs for row in zoo.chooser.rows(Budget(dataset="cifar10", min_acc=0.9)))
        assert zoo.chooser.cascade(0.9, "cifar10").cascade.macs < 0.7 * alone


def test_the_readme_says_what_is_in_the_files(checkpoints: list[Checkpoint]) -> None:
    """The best of at most so many parameters, chosen by validation accuracy: its test accuracy."""
    lines = (SHIPPED.parents[2] / "README.md").read_text().splitlines()
    [head] = [line for line in lines if line.startswith("| within |")]
    [row] = [line for line in lines if line.startswith("| shipped |")]
    limits = [int(cell.split()[0].replace(",", "")) for cell in head.strip("| ").split("|")[1:]]
    found = []
    for limit in limits:
        within = [one for one in checkpoints if num_params(one.descriptor.architecture.graph()) <= limit]
        best = max(within, key=lambda one: one.descriptor.metrics.validation.accuracy)
        found.append(f"{best.descriptor.metrics.test.accuracy:.1%}".replace("%", " %"))
    assert [cell.strip() for cell in row.strip("| ").split("|")[1:]] == found


def test_its_report_lists_them_all(checkpoints: list[Checkpoint]) -> None:
    report = (SHIPPED / "report" / "report.md").read_text()
    for checkpoint in checkpoints:
        assert f"{num_params(checkpoint.descriptor.architecture.graph()):,}" in report
    assert (SHIPPED / "report" / "cifar10.svg").read_text().startswith("<?xml")
    assert (SHIPPED / "report" / "cifar10.png").read_bytes().startswith(b"\x89PNG")


def test_the_logs_tell_how_they_grew() -> None:
    saved = {
        record["digest"]
        for log_file in SHIPPED.glob("runs/*/log.jsonl")
        for record in map(json.loads, log_file.read_text().splitlines())
        if record["event"] in ("checkpoint", "distilled")
    }
    assert {digest for digest, _ in Directory(SHIPPED).paths()} <= saved


def test_an_elastic_file_costs_little(checkpoints: list[Checkpoint]) -> None:
    """Four sizes in just over half of the bytes of separate files, at most a point less accurate each."""
    [(_, path)] = Directory(SHIPPED.with_name("cifar10-elastic")).paths()
    levels = [decode(extract(path.read_bytes(), number)).descriptor for number in range(4)]
    beside = []
    for level in levels:
        size = num_params(level.architecture.graph())
        largest = [one for one in checkpoints if num_params(one.descriptor.architecture.graph()) <= size][-1]
        beside.append(largest)
        found, wanted = level.metrics.test, largest.descriptor.metrics.test
        assert found is not None
        assert wanted is not None
        assert found.accuracy >= wanted.accuracy - 0.01
        assert level.dataset == largest.descriptor.dataset, "the same images"
    assert len({num_params(one.descriptor.architecture.graph()) for one in beside}) == 4
    assert path.stat().st_size < 0.55 * sum(len(encode(one)) for one in beside)
