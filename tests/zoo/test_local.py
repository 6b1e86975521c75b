from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import pytest

from zoo.checkpoint.file import Checkpoint, digest_of, encode
from zoo.choosing.budget import Budget, wilson_interval
from zoo.errors import CheckpointError, GoneError, ImageError, NoModelMeetsConstraintsError, NotFoundError, ZooError
from zoo.library.local import LocalZoo
from zoo.library.upkeep.device import device_name
from zoo.network.cost import num_macs, num_params, ram_bytes
from zoo.network.families.blueprint import BlueprintArchitecture
from zoo.network.families.secnn import SecnnArchitecture
from zoo.store.entries import Latency

Put = Callable[..., str]
ALL = Budget(dataset="*")


def digests(zoo: LocalZoo) -> list[str]:
    return [row.digest for row in zoo.catalog.page(ALL, 100).rows]


@pytest.mark.parametrize("top_k", [0, -1, 1001, True, 2.5])
def test_so_many_classes_cannot_be_named(tmp_path: Path, put: Put, opened: Callable[..., LocalZoo], top_k: int) -> None:
    put(tmp_path)
    with pytest.raises(ZooError, match="how many classes to name for each image, 1 to 1000, not"):
        opened(tmp_path).predict(np.zeros((8, 8), np.uint8), top_k=top_k)


def test_an_array_without_pixels(tmp_path: Path, put: Put, opened: Callable[..., LocalZoo]) -> None:
    put(tmp_path)
    with pytest.raises(ImageError, match="an image of 0×0 pixels shows nothing"):
        opened(tmp_path).predict(np.zeros((0, 0, 3), np.uint8))


def test_sync_finds_what_is_new_and_drops_what_is_gone(
    tmp_path: Path, put: Put, opened: Callable[..., LocalZoo]
) -> None:
    first = put(tmp_path, seed=1)
    zoo = opened(tmp_path)
    assert digests(zoo) == [first]
    assert not zoo.sync()
    second = put(tmp_path, seed=2)
    assert zoo.sync()
    assert set(digests(zoo)) == {first, second}
    zoo.store.path(first).unlink()
    assert zoo.sync()
    assert digests(zoo) == [second]
    with pytest.raises(NotFoundError, match=f"the file of checkpoint {first} is gone"):
        zoo.files.load(first)


def test_another_process_sees_what_was_synced(tmp_path: Path, put: Put, opened: Callable[..., LocalZoo]) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    digest = put(tmp_path)
    assert one.sync()
    assert digests(other) == [digest]
    assert other.sync(), "the row is there already, the file is new to this one"
    assert not other.sync()
    assert digests(other) == [digest]
    assert other.files.load(digest).descriptor.dataset.name == "shapes"


def test_damaged_files_are_left_out_with_one_warning(
    tmp_path: Path, put: Put, opened: Callable[..., LocalZoo], caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = put(tmp_path, seed=1), put(tmp_path, seed=2)
    path = tmp_path / "checkpoints" / f"{bad}.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    zoo = opened(tmp_path)
    zoo.sync()
    assert digests(zoo) == [good]
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert f"left out of the catalog: {bad}.safetensors: the header promises {len(whole)} bytes" in record.message
    path.write_bytes(whole)
    assert zoo.sync()
    assert set(digests(zoo)) == {good, bad}


def test_what_takes_long_to_refuse_is_refused_once(
    tmp_path: Path, put: Put, make_checkpoint: Callable[..., Checkpoint]
) -> None:
    """A small file whose descriptor speaks of a large network must not take every look at the directory along."""
    data = encode(make_checkpoint())
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    descriptor = json.loads(header["__metadata__"]["descriptor"])
    stages = [{"channels": 2, "num_layers": 1024} for _ in range(6)]
    descriptor["architecture"] = BlueprintArchitecture(
        input_channels=1, input_height=64, input_width=64, num_classes=3, stem_pools=0, stages=stages
    ).model_dump(mode="json")
    header["__metadata__"]["descriptor"] = json.dumps(descriptor)
    text = json.dumps(header).encode()
    bad = len(text).to_bytes(8, "little") + text + data[8 + size :]
    path = tmp_path / "checkpoints" / f"{digest_of(bad)}.safetensors"
    put(tmp_path)
    path.write_bytes(bad)
    time.sleep(2.1)  # what was written just now is read again
    with LocalZoo([tmp_path]) as zoo:
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            zoo.sync()
            seconds.append(time.perf_counter() - started)
        assert len(digests(zoo)) == 1
    assert seconds[1] < seconds[0] / 4


def test_a_file_damaged_later_is_found_out_when_it_is_loaded(
    tmp_path: Path, put: Put, opened: Callable[..., LocalZoo]
) -> None:
    digest = put(tmp_path)
    zoo = opened(tmp_path)
    damaged = bytearray(zoo.store.path(digest).read_bytes())
    damaged[-1] ^= 1
    zoo.store.path(digest).write_bytes(damaged)
    with pytest.raises(CheckpointError, match="the file was changed or damaged"):
        zoo.files.load(digest)


@pytest.mark.parametrize("finder", [0, 1])
def test_what_one_process_finds_damaged_all_leave_out(
    tmp_path: Path, put: Put, opened: Callable[..., LocalZoo], finder: int
) -> None:
    digest = put(tmp_path)
    zoos = [opened(tmp_path), opened(tmp_path)]
    path = zoos[0].store.path(digest)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError):
        zoos[finder].files.load(digest)
    assert [zoo.sync() for zoo in zoos] == [True, True], "what is remembered elsewhere must be forgotten"
    newest = opened(tmp_path)
    assert digests(newest) == [digest], "it has seen the header alone"
    for zoo in (*zoos, newest):
        zoo.sync()
        assert digests(zoo) == []
    assert not any(zoo.sync() for zoo in zoos)
    path.write_bytes(whole)
    for zoo in zoos:
        zoo.sync()
        assert digests(zoo) == [digest]
    path.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError):
        zoos[finder].files.load(digest)
    path.unlink()
    for zoo in zoos:
        zoo.sync()
        assert digests(zoo) == []


def test_a_header_damaged_later_is_found_out_when_it_is_shown(
    tmp_path: Path, put: Put, opened: Callable[..., LocalZoo]
) -> None:
    digest = put(tmp_path)
    zoo = opened(tmp_path)
    zoo.store.path(digest).write_bytes(zoo.store.path(digest).read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="the header promises"):
        zoo.show(digest)
    with pytest.raises(NotFoundError):
        zoo.show(digest)


def test_reindex_gives_the_rows_of_a_sync(
    tmp_path: Path, put: Put, tiny: SecnnArchitecture, opened: Callable[..., LocalZoo]
) -> None:
    architectures = [tiny, tiny.widened(0, 1), tiny.deepened(1, "residual", split_slope=True)]
    for seed, architecture in enumerate(architectures):
        put(tmp_path, architecture, seed=seed, accuracy=0.5 + seed / 10)
    put(tmp_path, seed=9, accuracy=None, dataset="digits")
    zoo = opened(tmp_path)
    rows = zoo.catalog.page(ALL, 100).rows
    assert len(rows) == 4
    assert zoo.reindex() == 4
    assert zoo.catalog.page(ALL, 100).rows == rows
    zoo.close()
    (tmp_path / "catalog.sqlite").unlink()
    assert opened(tmp_path).catalog.page(ALL, 100).rows == rows


def test_rows_say_what_the_file_says(
    tmp_path: Path, make_checkpoint: Callable[..., Checkpoint], put: Put, opened: Callable[..., LocalZoo]
) -> None:
    digest = put(tmp_path, accuracy=0.7, n=50, parent="ab" * 32)
    zoo = opened(tmp_path)
    graph = make_checkpoint().descriptor.architecture.graph()
    view = zoo.smallest()
    low, high = wilson_interval(0.7, 50)
    assert view.model_dump() == {
        "id": digest,
        "name": "shapes-test-s0-164",
        "dataset": "shapes",
        "family": "secnn",
        "params": num_params(graph),
        "macs": num_macs(graph),
        "bytes": zoo.store.path(digest).stat().st_size,
        "onnx_bytes": len(zoo.files.file(digest, "onnx")),
        "ram_bytes": ram_bytes(graph),
        "latency_ms": None,
        "accuracy": 0.7,
        "accuracy_n": 50,
        "accuracy_ci95": (round(low, 4), round(high, 4)),
        "accuracy_source": "claimed",
        "val_accuracy": 0.8,
        "classes": ("class 0", "class 1", "class 2"),
        "created_at": datetime(2026, 11, 21, 2, tzinfo=UTC),
        "parent": "ab" * 32,
        "distilled_from": None,
        "aliases": ("smallest", "best", "latest"),
        "deprecated": False,
        "staged": False,
        "elastic": None,
        "links": {
            "self": f"models/{digest}",
            "file": f"models/{digest}/file",
            "onnx": f"models/{digest}/file?format=onnx",
        },
    }


def test_an_untested_checkpoint_has_no_accuracy(tmp_path: Path, put: Put, opened: Callable[..., LocalZoo]) -> None:
    put(tmp_path, accuracy=None)
    zoo = opened(tmp_path)
    view = zoo.smallest()
    assert (view.accuracy, view.accuracy_n, view.accuracy_ci95) == (None, None, None)
    with pytest.raises(NoModelMeetsConstraintsError, match="the nearest has 164 parameters and unknown accuracy"):
        zoo.smallest(min_acc=0)


def test_nothing_within_the_budget_names_the_nearest(
    tmp_path: Path, put: Put, tiny: SecnnArchitecture, opened: Callable[..., LocalZoo]
) -> None:
    put(tmp_path, accuracy=0.6)
    large = put(tmp_path, tiny.widened(0, 1), accuracy=0.7)
    zoo = opened(tmp_path)
    with pytest.raises(
        NoModelMeetsConstraintsError,
        match=r"no checkpoint of data set shapes meets min_acc=0.9; "
        r"the nearest has [\d,]+ parameters and accuracy 0.7000 \([\w-]+\): ask for less, or allow more",
    ) as caught:
        zoo.smallest(min_acc=0.9)
    assert caught.value.best_available is not None
    assert caught.value.best_available["id"] == large
    with pytest.raises(NoModelMeetsConstraintsError, match="the nearest has 164 parameters") as caught:
        zoo.smallest(max_params=100)


def test_a_data_set_that_is_not_there(tmp_path: Path, put: Put, opened: Callable[..., LocalZoo]) -> None:
    put(tmp_path)
    with pytest.raises(NoModelMeetsConstraintsError, match="the zoo holds no checkpoint of data set mnist") as caught:
        opened(tmp_path).smallest(dataset="mnist")
    assert caught.value.best_available is None


def test_the_data_set_is_said_once(tmp_path: Path, put: Put, opened: Callable[..., LocalZoo]) -> None:
    put(tmp_path)
    zoo = opened(tmp_path)
    for dataset, named in (("shapes", " of data set shapes"), ("*", "")):
        with pytest.raises(NoModelMeetsConstraintsError, match=f"^no checkpoint{named} meets min_acc=0.9; the nearest"):
            zoo.smallest(min_acc=0.9, dataset=dataset)


def test_what_no_more_and_no_less_would_help(tmp_path: Path, put: Put, opened: Callable[..., LocalZoo]) -> None:
    digest = put(tmp_path)
    zoo = opened(tmp_path)
    with pytest.raises(
        NoModelMeetsConstraintsError, match=r"meets family=resnet; there is the family secnn$"
    ) as caught:
        zoo.smallest(family="resnet")
    assert caught.value.best_available is not None
    unmeasured = (
        r"meets max_latency_ms=1\.0; no latency has been measured on this machine \(.+\): `zoo calibrate --zoo DIR`"
    )
    with pytest.raises(NoModelMeetsConstraintsError, match=unmeasured):
        zoo.smallest(max_latency_ms=1)
    latency = Latency(
        digest=digest, device=device_name(), median_ms=3, p95_ms=4, num_runs=1, measured_at="2026-11-21T02:00:00+00:00"
    )
    zoo.annotations.record_latencies([latency])
    zoo.sync()
    with pytest.raises(NoModelMeetsConstraintsError, match="ask for less, or allow more"):
        zoo.smallest(max_latency_ms=1)


def test_a_name_beside_a_data_set_is_one_of_it(tmp_path: Path, put: Put, opened: Callable[..., LocalZoo]) -> None:
    shape = put(tmp_path, accuracy=0.9)
    digit = put(tmp_path, accuracy=0.5, dataset="digits")
    zoo = opened(tmp_path)
    zoo.annotator.mark(shape, aliases=["stable"])
    for alias in ("best", "smallest", "latest"):
        assert zoo.chooser.find(alias, "digits").digest == digit
        assert zoo.chooser.find(alias, "shapes").digest == shape
    for reference in (shape, shape[:8], "stable", "shapes-test-s0-164"):
        assert zoo.chooser.find(reference, "shapes").digest == zoo.chooser.find(reference, "*").digest == shape
        with pytest.raises(NotFoundError, match="checkpoint shapes-test-s0-164 is of data set shapes, not of digits"):
            zoo.chooser.find(reference, "digits")
    with pytest.raises(NotFoundError, match="the zoo holds no checkpoint of data set mnist: there are digits, shapes"):
        zoo.chooser.find("best", "mnist")


def test_what_another_process_says_of_a_checkpoint_is_found_at_once(
    tmp_path: Path, put: Put, opened: Callable[..., LocalZoo]
) -> None:
    digest = put(tmp_path)
    one, other = opened(tmp_path), opened(tmp_path)
    with pytest.raises(NotFoundError):
        other.chooser.find("stable")
    one.annotator.mark(digest, aliases=["stable"])
    assert other.chooser.find("stable").digest == digest
    assert "stable" in other.chooser.view(other.chooser.find(digest)).aliases
    assert other.sync(), "what is remembered elsewhere must be forgotten"
    assert not other.sync()
    one.delete(digest)
    with pytest.raises(GoneError):
        other.chooser.find(digest)


def test_a_moved_zoo_works_where_it_is_now(tmp_path: Path, put: Put, opened: Callable[..., LocalZoo]) -> None:
    digest = put(tmp_path / "old")
    opened(tmp_path / "old").close()
    shutil.move(tmp_path / "old", tmp_path / "new")
    zoo = opened(tmp_path / "new")
    assert digests(zoo) == [digest]
    assert zoo.store.path(digest).is_relative_to(tmp_path / "new")
    assert zoo.files.load(digest).descriptor.name == "shapes-test-s0-164"


def test_two_directories_are_one_zoo(
    tmp_path: Path, put: Put, tiny: SecnnArchitecture, opened: Callable[..., LocalZoo]
) -> None:
    mine, shipped = tmp_path / "mine", tmp_path / "shipped"
    small, large = put(shipped), put(mine, tiny.widened(0, 2))
    both = opened(mine, shipped)
    assert digests(both) == [small, large]
    assert both.store.path(small).is_relative_to(shipped)
    assert both.store.path(large).is_relative_to(mine)
    alone = opened(mine)
    assert digests(alone) == [large]
    assert digests(both) == [small, large], "the zoo of one directory leaves the other's rows alone"
    assert [path.name for path in shipped.iterdir()] == ["checkpoints"], "only the first directory is written to"


def test_a_zoo_must_be_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=f"{tmp_path}/none: no such zoo directory"):
        LocalZoo([tmp_path, tmp_path / "none"])


def test_show_is_the_checkpoint_with_its_descriptor(
    tmp_path: Path, make_checkpoint: Callable[..., Checkpoint], put: Put, opened: Callable[..., LocalZoo]
) -> None:
    digest = put(tmp_path)
    zoo = opened(tmp_path)
    for reference in (digest, digest[:8], "shapes-test-s0-164", "smallest"):
        detail = zoo.show(reference)
        assert detail.id == digest
        assert detail.descriptor == make_checkpoint().descriptor


def test_files_come_as_safetensors_or_onnx(tmp_path: Path, put: Put, opened: Callable[..., LocalZoo]) -> None:
    digest = put(tmp_path)
    zoo = opened(tmp_path)
    assert zoo.files.file(digest, "safetensors") == zoo.store.path(digest).read_bytes()
    assert onnx.load_from_string(zoo.files.file(digest, "onnx")).graph.name == "shapes-test-s0-164"


READER = """
import json, os, sys
from pathlib import Path
from zoo.choosing.budget import Budget
from zoo.library.local import LocalZoo

root = Path(sys.argv[1])
if os.geteuid() == 0:
    # No mode stops root. Dropped here and not at the start, since nobody may not read every Python.
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    (root / "probe").touch()
except PermissionError:
    pass
else:
    sys.exit("the directory can be written to: this checks nothing")
zoo = LocalZoo([root])
zoo.sync()
row = zoo.smallest(min_acc=0.5)
print(json.dumps({"digest": row.id, "classes": zoo.files.load(row.id).descriptor.classes}))
zoo.close()
"""


@pytest.mark.parametrize("has_catalog", [False, True])
def test_a_directory_that_is_read_only(put: Put, opened: Callable[..., LocalZoo], has_catalog: bool) -> None:
    # Not tmp_path, which nobody but its owner may enter.
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        digest = put(root)
        if has_catalog:
            opened(root).close()
        before = sorted(root.rglob("*"))
        root.chmod(0o555)
        answer = subprocess.run([sys.executable, "-c", READER, root], capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
        assert json.loads(answer.stdout) == {"digest": digest, "classes": ["class 0", "class 1", "class 2"]}
        assert sorted(root.rglob("*")) == before
        root.chmod(0o755)
