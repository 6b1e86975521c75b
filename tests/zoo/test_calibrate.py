from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trainer.data import datasets as data
from zoo.catalog.index import Catalog
from zoo.catalog.rows import CheckpointRow
from zoo.checkpoint.file import Checkpoint, encode, load
from zoo.choosing.budget import Budget
from zoo.choosing.cascade import Calibration, Cascade, Stage
from zoo.errors import DataError, NoModelMeetsConstraintsError, NotFoundError, ZooError
from zoo.images.decode import Form
from zoo.library.local import LocalZoo
from zoo.library.upkeep.calibrate import find_cascades, measure_latencies
from zoo.library.upkeep.device import device_name
from zoo.network.families.secnn import SecnnArchitecture
from zoo.runtime.measure import HeldOutImages
from zoo.store.directory import Directory
from zoo.store.entries import Latency

Put = Callable[..., str]
Command = Callable[..., subprocess.CompletedProcess[str]]
ALL = Budget(dataset="*")


@pytest.fixture
def three(tmp_path: Path, put: Put, tiny: SecnnArchitecture) -> list[str]:
    """Digests of three sizes, smallest first, of accuracies 0.5, 0.6 and 0.7."""
    sizes = [tiny, tiny.widened(0, 4), tiny.widened(0, 8)]
    return [put(tmp_path, size, seed=seed, accuracy=0.5 + seed / 10) for seed, size in enumerate(sizes)]


def measured(digest: str, median_ms: float, device: str | None = None) -> Latency:
    name = device or device_name()
    at = "2026-11-21T02:00:00Z"
    return Latency(digest=digest, device=name, median_ms=median_ms, p95_ms=2 * median_ms, num_runs=9, measured_at=at)


def shown(zoo: LocalZoo) -> dict[str, float | None]:
    return {view.id: view.latency_ms for view in zoo.chooser.views(zoo.chooser.rows(ALL))}


# --- latency as a budget ---------------------------------------------------------------------------------


def test_a_network_is_measured_where_it_will_answer(
    tmp_path: Path, three: list[str], opened: Callable[..., LocalZoo]
) -> None:
    zoo = opened(tmp_path)
    latencies = measure_latencies(zoo, three, num_rounds=3)
    assert [latency.digest for latency in latencies] == three
    for latency in latencies:
        assert 0 < latency.median_ms <= latency.p95_ms < 1000
        assert (latency.num_runs, latency.device) == (30, device_name())
    assert shown(zoo) == {latency.digest: latency.median_ms for latency in latencies}


def test_latency_selects_everywhere(tmp_path: Path, three: list[str], opened: Callable[..., LocalZoo]) -> None:
    small, middle, large = three
    zoo = opened(tmp_path)
    zoo.annotations.record_latencies([measured(small, 3.0), measured(middle, 1.0)])
    assert zoo.sync()
    assert not zoo.sync(), "nothing is new"
    assert zoo.smallest(max_latency_ms=3).id == small
    assert zoo.smallest(max_latency_ms=2).id == middle
    assert zoo.smallest(max_latency_ms=3, min_acc=0.6).id == middle
    assert [row.digest for row in zoo.chooser.rows(Budget(max_latency_ms=1e6))] == [middle, small], (
        "the most accurate first"
    )
    assert [row.digest for row in zoo.catalog.pareto(Budget(), "latency_ms")] == [middle]
    with pytest.raises(NoModelMeetsConstraintsError, match=r"min_acc=0\.7, max_latency_ms=1000000\.0; the nearest has"):
        zoo.smallest(max_latency_ms=1e6, min_acc=0.7)
    assert shown(zoo)[large] is None


def test_latencies_outlive_a_reindex_and_the_catalog(
    tmp_path: Path, three: list[str], opened: Callable[..., LocalZoo]
) -> None:
    zoo = opened(tmp_path)
    zoo.annotations.record_latencies([measured(three[0], 3.0)])
    assert zoo.reindex() == 3
    assert shown(zoo)[three[0]] == 3.0
    path = zoo.store.path(three[0])
    data = path.read_bytes()
    path.unlink()
    zoo.sync()
    path.write_bytes(data)
    zoo.sync()
    assert zoo.smallest(max_latency_ms=3).id == three[0]
    zoo.close()
    (tmp_path / "catalog.sqlite").unlink()
    assert shown(opened(tmp_path))[three[0]] == 3.0


def test_another_machines_latencies_are_kept_and_not_shown(
    tmp_path: Path, three: list[str], opened: Callable[..., LocalZoo]
) -> None:
    zoo = opened(tmp_path)
    zoo.annotations.record_latencies([measured(three[0], 1.0), measured(three[1], 2.0)])
    zoo.annotations.record_latencies([measured(three[0], 9.0, "toaster, 1 thread")])
    assert zoo.catalog.follow_latencies(zoo.annotations.latencies("toaster, 1 thread"))
    assert shown(zoo) == {three[0]: 9.0, three[1]: None, three[2]: None}
    assert zoo.sync()
    assert shown(zoo) == {three[0]: 1.0, three[1]: 2.0, three[2]: None}


def test_a_later_measurement_replaces_the_first(
    tmp_path: Path, three: list[str], opened: Callable[..., LocalZoo]
) -> None:
    zoo = opened(tmp_path)
    for median_ms in (1.0, 5.0):
        zoo.annotations.record_latencies([measured(three[0], median_ms)])
        zoo.sync()
    assert shown(zoo)[three[0]] == 5.0


def test_a_catalog_that_learns_latencies_later_answers_as_if_it_had_known_them() -> None:
    rng = np.random.default_rng(0)
    rows = [
        CheckpointRow(
            digest=f"{index:064x}",
            name=f"made-up-{index}",
            dataset="shapes",
            family="secnn",
            params=int(rng.integers(1, 20)),
            macs=int(rng.integers(1, 20)),
            bytes=int(rng.integers(1, 20)),
            onnx_bytes=int(rng.integers(1, 20)),
            ram_bytes=int(rng.integers(1, 20)),
            accuracy=float(rng.integers(1, 20)) / 20,
            accuracy_n=100,
            val_accuracy=0.5,
            classes='["a", "b"]',
            created_at="2026-11-21T02:00:00+00:00",
        )
        for index in range(60)
    ]
    known = {row.digest: float(rng.integers(1, 20)) for row in rows[::2]}
    later, before = Catalog(None), Catalog(None)
    later.add(rows)
    assert later.follow_latencies(known)
    before.add([row.model_copy(update={"latency_ms": known.get(row.digest)}) for row in rows])
    for limit in range(21):
        for budget in (Budget(max_latency_ms=limit), Budget(max_latency_ms=limit, min_acc=0.5)):
            assert later.choose(budget) == before.choose(budget)
            assert later.best_available(budget) == before.best_available(budget)
            assert later.page(budget, 100).rows == before.page(budget, 100).rows
    assert later.pareto(Budget(), "latency_ms") == before.pareto(Budget(), "latency_ms")
    later.close()
    before.close()


MEASURES = """
import os, sys
from pathlib import Path
from zoo.library.upkeep.calibrate import measure_latencies
from zoo.library.local import LocalZoo

if os.geteuid() == 0:  # whom no mode stops
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
measure_latencies(LocalZoo([Path(sys.argv[1])]), [], 1)
"""


def test_where_a_measurement_cannot_be_kept_none_is_made(put: Put) -> None:
    # Not tmp_path, which nobody but its owner may enter.
    with tempfile.TemporaryDirectory() as name:
        put(Path(name))
        Path(name).chmod(0o555)
        done = subprocess.run([sys.executable, "-c", MEASURES, name], capture_output=True, text=True)
        Path(name).chmod(0o755)
    assert f"ZooError: {name} is read-only, and the first zoo directory keeps the result" in done.stderr


# --- cascades --------------------------------------------------------------------------------------------


def calibration_of(digests: list[str]) -> Calibration:
    """The first alone for 0.5, the first and then the second for 0.55, all three for 0.65."""
    first, second, third = digests
    return Calibration(
        dataset="shapes",
        num_images=100,
        cascades=(
            Cascade(stages=(Stage(digest=first, threshold=None),), accuracy=0.5, macs=100.0),
            Cascade(
                stages=(Stage(digest=first, threshold=0.3), Stage(digest=second, threshold=None)),
                accuracy=0.55,
                macs=150.0,
            ),
            Cascade(
                stages=(Stage(digest=first, threshold=0.3), Stage(digest=third, threshold=None)),
                accuracy=0.65,
                macs=180.0,
            ),
        ),
    )


def test_the_cheapest_cascade_that_reaches_the_accuracy(
    tmp_path: Path, three: list[str], opened: Callable[..., LocalZoo]
) -> None:
    zoo = opened(tmp_path)
    with pytest.raises(NotFoundError, match=r"data set shapes has no cascades: `zoo calibrate --zoo DIR --data PATH`"):
        zoo.chooser.cascade(0.5)
    zoo.annotations.record_calibration(calibration_of(three))
    zoo.sync()
    assert zoo.chooser.cascade(0.0).cascade.macs == 100
    assert zoo.chooser.cascade(0.5).cascade.macs == 100
    assert zoo.chooser.cascade(0.51).cascade.macs == 150
    assert [row.digest for row in zoo.chooser.cascade(0.65, "shapes").rows] == [three[0], three[2]]
    with pytest.raises(NoModelMeetsConstraintsError, match=r"no cascade .* 0\.7; the best one promises 0\.65") as error:
        zoo.chooser.cascade(0.7)
    assert error.value.best_available is not None
    assert error.value.best_available["id"] == three[2]
    zoo.reindex()
    assert zoo.chooser.cascade(0.65).cascade.macs == 180


def test_a_cascade_whose_checkpoint_is_gone_is_not_used(
    tmp_path: Path, three: list[str], opened: Callable[..., LocalZoo]
) -> None:
    zoo = opened(tmp_path)
    zoo.annotations.record_calibration(calibration_of(three))
    zoo.store.path(three[1]).unlink()
    zoo.sync()
    assert zoo.chooser.cascade(0.51).cascade.macs == 180


@pytest.mark.parametrize(
    ("withhold", "bring_back"), [("stage", "promote"), ("deprecate", "undeprecate"), ("delete", "undelete")]
)
def test_a_cascade_is_of_checkpoints_that_budgets_choose_from(
    tmp_path: Path, three: list[str], opened: Callable[..., LocalZoo], withhold: str, bring_back: str
) -> None:
    zoo, elsewhere = opened(tmp_path), opened(tmp_path)
    zoo.annotations.record_calibration(calibration_of(three))
    zoo.sync()
    for verb, macs in ((withhold, 180), (bring_back, 150)):
        getattr(elsewhere, verb)(three[1])
        zoo.sync()
        assert zoo.chooser.cascade(0.51).cascade.macs == macs
    getattr(zoo, withhold)(three[1])
    assert zoo.chooser.cascade(0.51).cascade.macs == 180, "at once, by its own doing"


def test_a_claimed_accuracy_is_a_stage_where_no_other_cascade_will_do(
    tmp_path: Path, three: list[str], opened: Callable[..., LocalZoo]
) -> None:
    zoo = opened(tmp_path)
    zoo.annotations.record_calibration(calibration_of(three))
    zoo.annotator.announce(three[1], staged=False, claimed=True, measured=None)
    zoo.sync()
    assert zoo.chooser.cascade(0.51).cascade.macs == 180
    zoo.delete(three[2])
    assert zoo.chooser.cascade(0.51).cascade.macs == 150


@pytest.mark.parametrize("place", ["cascades.json", "shapes/cascades.json"])
def test_cascades_that_a_directory_brings_along(
    tmp_path: Path, three: list[str], opened: Callable[..., LocalZoo], place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Count until some are found here; a file that is none is told of once, and taken as soon as it is mended."""
    zoo = opened(tmp_path)
    brought = tmp_path / place
    brought.parent.mkdir(exist_ok=True)
    brought.write_text('{"dataset": "shapes"')
    for _ in range(2):
        assert not zoo.sync()
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(f"cascades left out: {brought}: ")
    brought.write_text(calibration_of(three).model_dump_json())
    assert zoo.sync()
    assert not zoo.sync()
    assert zoo.chooser.cascade(0.51).cascade.macs == 150

    found = calibration_of(three)
    zoo.annotations.record_calibration(found.model_copy(update={"cascades": found.cascades[:1]}))
    zoo.sync()
    assert zoo.chooser.cascade(0.5).cascade.macs == 100
    with pytest.raises(NoModelMeetsConstraintsError):
        zoo.chooser.cascade(0.51)
    # Found for checkpoints that are no longer there: those that came along count again.
    gone = [stage.model_copy(update={"digest": "0" * 64}) for stage in found.cascades[0].stages]
    stale = found.cascades[0].model_copy(update={"stages": tuple(gone)})
    zoo.annotations.record_calibration(found.model_copy(update={"cascades": (stale,)}))
    zoo.sync()
    assert zoo.chooser.cascade(0.51).cascade.macs == 150
    brought.unlink()
    assert zoo.sync()
    with pytest.raises(NotFoundError):
        zoo.chooser.cascade(0.51)


@pytest.mark.parametrize("limit", [None, 300])
def test_validation_images_are_those_of_training(limit: int | None) -> None:
    wanted = data.load("digits", limit_train=limit)
    images = HeldOutImages("digits", validation=wanted.record())
    assert np.array_equal(images.pixels(Form("gray", (8, 8), "crop"))[..., 0], wanted.validation.images[:, 0].numpy())
    assert np.array_equal(images.labels, wanted.validation.labels.numpy())


def test_the_command_measures_then_finds_cascades(command: Command, grown: Path, tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    for path in grown.rglob("*.safetensors"):
        (zoo / path.name).write_bytes(path.read_bytes())
    listed = json.loads(command("zoo", "list", "--zoo", zoo, "--json").stdout)
    assert {view["latency_ms"] for view in listed} == {None}

    done = command("zoo", "calibrate", "--zoo", zoo, "--rounds", 2)
    assert done.returncode == 0, done.stderr
    assert device_name() in done.stderr
    assert all(view["name"] in done.stdout for view in listed)
    fast = json.loads(command("zoo", "list", "--zoo", zoo, "--max-latency-ms", 1e6, "--json").stdout)
    assert [view["id"] for view in fast] == [view["id"] for view in listed]
    assert all(view["latency_ms"] > 0 for view in fast)

    done = command("zoo", "calibrate", "--zoo", zoo, "--data", "digits", "--json")
    assert done.returncode == 0, done.stderr
    calibration = Calibration.model_validate_json(done.stdout)
    assert (calibration.dataset, calibration.num_images) == ("digits", 30)
    assert calibration.cascades[-1].accuracy == max(view["accuracy"] for view in listed)
    assert "saved" in command("zoo", "calibrate", "--zoo", zoo, "--data", "digits").stdout


def test_a_claimed_accuracy_is_no_candidate_beside_measured_ones(grown: Path, tmp_path: Path) -> None:
    """A cascade promises what its stages' accuracies say."""
    for path in grown.rglob("*.safetensors"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    said: list[str] = []

    def stages() -> set[str]:
        found = find_cascades(zoo, "digits", "digits", said.append)
        return {stage.digest for cascade in found.cascades for stage in cascade.stages}

    with LocalZoo([tmp_path]) as zoo:
        zoo.sync()
        before = stages()
        best = zoo.best().id
        zoo.annotator.announce(best, staged=False, claimed=True, measured=None)
        zoo.sync()
        assert best in before
        assert best not in stages()
        assert any(line.startswith("left out: ") and "nobody has measured it" in line for line in said)
        for digest in before:
            zoo.annotator.announce(digest, staged=False, claimed=True, measured=None)
        zoo.sync()
        assert stages() == before, "where there are no others"


def test_cascades_are_found_as_a_checkpoint_is_published(command: Command, grown: Path, tmp_path: Path) -> None:
    file = next((grown / "checkpoints").glob("*.safetensors"))
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    done = command("zoo", "publish", file, "--zoo", zoo, "--data", "digits")
    assert done.returncode == 0, done.stderr
    local = LocalZoo([zoo])
    local.sync()
    [row] = local.chooser.rows(ALL)
    assert row.accuracy is not None
    assert [row.digest] == [stage.digest for stage in local.chooser.cascade(row.accuracy, "digits").cascade.stages]
    local.close()
    refused = command("zoo", "publish", file, "--url", "http://127.0.0.1:9", "--data", "digits")
    assert refused.returncode == 1
    assert "--data finds cascades in directories: give --zoo DIR" in refused.stderr


@pytest.mark.parametrize(
    ("source", "dataset", "message"),
    [
        ("digits", "digits", "no checkpoint of data set digits with a test accuracy; --dataset names another one"),
        ("digits", "shapes", "tells apart 3 classes"),
        ("nowhere.tar.gz", "shapes", r"nowhere\.tar\.gz: no such directory or archive"),
    ],
)
def test_what_cannot_be_calibrated_says_why(
    tmp_path: Path, three: list[str], opened: Callable[..., LocalZoo], source: str, dataset: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        find_cascades(opened(tmp_path), source, dataset, observe=lambda _: None, keep=True)


def test_other_images_than_those_of_training_are_refused(
    grown: Path, tmp_path: Path, opened: Callable[..., LocalZoo]
) -> None:
    """Of the same digits, split in another way."""
    for path in grown.rglob("*.safetensors"):
        checkpoint = load(path)
        split = {"num_train": 900, "num_validation": 100}
        dataset = checkpoint.descriptor.dataset.model_copy(update=split)
        descriptor = checkpoint.descriptor.model_copy(update={"dataset": dataset})
        Directory(tmp_path).put(encode(Checkpoint(descriptor, checkpoint.tensors)))
    with pytest.raises(DataError, match=r"says it gets 0\.\d+ of its validation images right, and gets 0\.\d+ of"):
        find_cascades(opened(tmp_path), "digits", "digits", observe=lambda _: None, keep=True)


def test_a_server_cannot_be_calibrated_from_afar(command: Command) -> None:
    done = command("zoo", "calibrate", "--url", "http://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "calibrate works on directories: give --zoo DIR" in done.stderr


def test_too_many_images_seen(three: list[str], tmp_path: Path, opened: Callable[..., LocalZoo]) -> None:
    record = opened(tmp_path).files.descriptor(three[0]).dataset.model_copy(update={"num_train": 5000})
    with pytest.raises(ZooError, match="the checkpoints saw 5020 images for training, digits holds 1438"):
        HeldOutImages("digits", validation=record)
