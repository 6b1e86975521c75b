"""Levels of elastic files in a zoo: checkpoints like any other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from io import BufferedReader, BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from zoo.checkpoint.elastic import ElasticFile, extract, pack, read_levels
from zoo.checkpoint.elastic_header import Level
from zoo.checkpoint.file import decode, digest_of
from zoo.errors import BusyError, CheckpointError, GoneError, NoModelMeetsConstraintsError, NotFoundError, ZooError
from zoo.library.local import LocalZoo
from zoo.library.upkeep.garbage import collect
from zoo.library.upkeep.verify import verified
from zoo.runtime.module import module_of, normalize
from zoo.runtime.predictor import Predictor
from zoo.store.directories import Directories
from zoo.store.directory import Directory


@pytest.fixture(scope="module")
def elastic(levels: list[bytes]) -> bytes:
    return pack(levels)


@pytest.fixture(scope="module")
def digests(levels: list[bytes]) -> list[str]:
    return [digest_of(data) for data in levels]


@pytest.fixture
def root(tmp_path: Path, elastic: bytes) -> Path:
    Directory(tmp_path / "zoo").put(elastic)
    return tmp_path / "zoo"


@pytest.fixture
def zoo(root: Path) -> Iterator[LocalZoo]:
    with LocalZoo([root]) as opened:
        opened.sync()
        yield opened


def listed(zoo: LocalZoo) -> list[str]:
    return [view.id for view in zoo.models(prefer="params")]


def path_of(root: Path, elastic: bytes) -> Path:
    return root / "checkpoints" / f"{digest_of(elastic)}.safetensors"


# --- reading ------------------------------------------------------------------------------------------------------


def test_each_level_is_listed_by_the_digest_of_its_own_file(
    zoo: LocalZoo, levels: list[bytes], digests: list[str], elastic: bytes, tmp_path: Path
) -> None:
    views = list(zoo.models(prefer="params"))
    assert [view.id for view in views] == digests
    ends = [level.prefix_bytes for level in read_levels(path_of(zoo.roots[0], elastic))]
    for number, view in enumerate(views):
        assert view.elastic is not None
        assert view.elastic.model_dump() == {
            "file": digest_of(elastic),
            "level": number,
            "levels": 4,
            "prefix_bytes": ends[number],
        }
    # But for that, they are what their own files would be.
    for data in levels:
        Directory(tmp_path / "apart").put(data)
    with LocalZoo([tmp_path / "apart"]) as apart:
        apart.sync()
        alone = [zoo.show(view.id).model_copy(update={"elastic": None}) for view in views]
        assert alone == [apart.show(digest) for digest in digests]


def test_a_budget_chooses_a_level(zoo: LocalZoo, digests: list[str]) -> None:
    assert zoo.choose(min_acc=0.7).id == digests[2]
    assert zoo.choose(max_params=zoo.show(digests[1]).params).id == digests[1]
    assert [view.id for view in zoo.pareto()] == digests
    with pytest.raises(NoModelMeetsConstraintsError):
        zoo.choose(min_acc=0.9)


@pytest.mark.parametrize("number", range(4))
def test_the_file_of_a_level_is_the_one_that_was_packed(
    zoo: LocalZoo, levels: list[bytes], digests: list[str], number: int, tmp_path: Path
) -> None:
    path = zoo.download(digests[number], tmp_path / "net.safetensors")
    assert path.read_bytes() == levels[number]
    assert zoo.show(digests[number]).bytes == len(levels[number])


def test_levels_answer_on_onnx_and_torch_as_they_did_before_they_were_packed(
    zoo: LocalZoo, levels: list[bytes], digests: list[str]
) -> None:
    import torch

    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    found = []
    for digest, data in zip(digests, levels, strict=True):
        session = onnxruntime.InferenceSession(zoo.files.file(digest, "onnx"))
        [logits] = session.run(["logits"], {"images": pixels})
        checkpoint = decode(data)
        assert np.array_equal(logits, Predictor(checkpoint).logits(pixels))
        images = normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2), checkpoint.descriptor.preprocessing)
        with torch.no_grad():
            assert np.abs(module_of(zoo.files.load(digest))(images).numpy() - logits).max() < 1e-4
        found.append(logits)
    assert all(np.abs(one - other).max() > 0.01 for one, other in pairwise(found))
    answers = [zoo.predict(pixels[0], digest, top_k=4) for digest in digests]
    assert len({tuple(prediction.score for prediction in answer) for answer in answers}) == 4


def test_each_level_is_verified(zoo: LocalZoo, digests: list[str]) -> None:
    found = [verified(digest, checkpoint, None) for digest, checkpoint in zoo.verified()]
    assert sorted(result["id"] for result in found if result["ok"]) == sorted(digests)


# --- what changes ---------------------------------------------------------------------------------------------------


def test_a_zoo_that_is_opened_again_knows_the_levels(root: Path, digests: list[str]) -> None:
    for _ in range(2):
        with LocalZoo([root]) as zoo:
            zoo.sync()
            assert listed(zoo) == digests
            assert not zoo.sync()
            assert zoo.reindex() == 4
            assert listed(zoo) == digests
            assert all(view.elastic is not None for view in zoo.models())


def test_files_come_and_go_while_it_is_followed(
    zoo: LocalZoo, root: Path, levels: list[bytes], digests: list[str], elastic: bytes
) -> None:
    path_of(root, elastic).rename(root / "away")
    assert zoo.sync()
    assert listed(zoo) == []
    (root / "away").rename(path_of(root, elastic))
    assert zoo.sync()
    assert listed(zoo) == digests


def test_a_level_that_is_a_file_too_is_one_checkpoint(
    zoo: LocalZoo, root: Path, levels: list[bytes], digests: list[str], elastic: bytes
) -> None:
    Directory(root).put(levels[1])
    zoo.sync()
    assert listed(zoo) == digests
    assert zoo.show(digests[1]).elastic is not None
    path_of(root, elastic).unlink()
    assert zoo.sync()
    [left] = zoo.models()
    assert (left.id, left.elastic) == (digests[1], None)
    Directory(root).put(elastic)
    assert zoo.sync()
    assert listed(zoo) == digests
    assert zoo.show(digests[1]).elastic is not None
    # The file alone goes: the level stays.
    (root / "checkpoints" / f"{digests[1]}.safetensors").unlink()
    zoo.sync()
    assert listed(zoo) == digests
    assert zoo.files.file(digests[1], "safetensors") == levels[1]


def test_a_level_of_two_elastic_files_is_one_checkpoint(
    zoo: LocalZoo, root: Path, levels: list[bytes], digests: list[str], elastic: bytes
) -> None:
    shorter = pack(levels[:2])
    Directory(root).put(shorter)
    zoo.sync()
    assert not zoo.sync()
    assert listed(zoo) == digests
    path_of(root, elastic).unlink()
    zoo.sync()
    assert listed(zoo) == digests[:2]
    assert [view.elastic.file for view in zoo.models() if view.elastic] == [digest_of(shorter)] * 2


def test_a_file_that_is_still_being_copied_is_left_out_until_it_is_whole(
    tmp_path: Path, levels: list[bytes], digests: list[str], elastic: bytes
) -> None:
    Directory(tmp_path).put(levels[0])
    path = path_of(tmp_path, elastic)
    with LocalZoo([tmp_path]) as zoo:
        for size in (4, 100, 5000, len(elastic) - 1):
            path.write_bytes(elastic[:size])
            zoo.sync()
            assert listed(zoo) == digests[:1]
        path.write_bytes(elastic)
        zoo.sync()
        zoo.sync()
        assert listed(zoo) == digests


def test_a_damaged_level_leaves_the_catalog_and_smaller_ones_stay(
    zoo: LocalZoo, root: Path, levels: list[bytes], digests: list[str], elastic: bytes
) -> None:
    damaged = bytearray(elastic)
    damaged[zoo.show(digests[1]).elastic.prefix_bytes + 5] ^= 1  # type: ignore[union-attr]
    path_of(root, elastic).write_bytes(damaged)
    with pytest.raises(CheckpointError, match="level 2: its values have SHA-256"):
        zoo.files.load(digests[2])
    zoo.sync()
    assert digests[2] not in listed(zoo)
    assert zoo.files.file(digests[1], "safetensors") == levels[1]
    found = {result["id"]: result["ok"] for result in (verified(*one, None) for one in zoo.verified())}
    assert [found[digest] for digest in digests] == [True, True, False, False]
    path_of(root, elastic).write_bytes(elastic)
    zoo.sync()
    assert listed(zoo) == digests


@pytest.mark.parametrize("is_file", [False, True], ids=["two elastic files", "elastic file and file of its own"])
def test_a_level_that_lies_in_two_files_is_read_from_the_one_that_is_whole(
    zoo: LocalZoo, root: Path, levels: list[bytes], digests: list[str], elastic: bytes, *, is_file: bool
) -> None:
    def damaged(data: bytes, end: int) -> bytes:
        return data[: end - 1] + bytes([data[end - 1] ^ 1]) + data[end:]

    other = levels[1] if is_file else pack(levels[:2])
    end = zoo.show(digests[1]).elastic.prefix_bytes  # type: ignore[union-attr]
    files = {
        path_of(root, elastic): (elastic, damaged(elastic, end)),
        path_of(root, other): (other, damaged(other, len(other))),
    }
    Directory(root).put(other)
    zoo.sync()
    for path, (whole, broken) in files.items():
        path.write_bytes(broken)
        assert zoo.files.file(digests[1], "safetensors") == levels[1]
        zoo.sync()
        assert digests[1] in listed(zoo)
        path.write_bytes(whole)
        zoo.sync()
    for path, (_, broken) in files.items():
        path.write_bytes(broken)
    with pytest.raises(CheckpointError, match="SHA-256"):
        zoo.files.load(digests[1])
    zoo.sync()
    assert digests[1] not in listed(zoo)
    for path, (whole, _) in files.items():
        path.write_bytes(whole)
    zoo.sync()
    assert zoo.files.file(digests[1], "safetensors") == levels[1]


class PassingStore(Directories):
    """Can be listed, and for a while not read, as storage behind a network."""

    is_away = False

    def open(self, digest: str) -> BufferedReader:
        if self.is_away:
            raise BusyError("cannot be reached: try again")
        return super().open(digest)


def test_levels_stay_where_they_were_while_their_file_cannot_be_read(root: Path, digests: list[str]) -> None:
    """Else a process that is started meanwhile takes them out of the catalog of all others."""
    store = PassingStore([root])
    with LocalZoo([root], store=store) as before:
        before.sync()
        views = list(before.models())
    store.is_away = True
    with LocalZoo([root], store=store) as zoo:
        for _ in range(2):
            zoo.sync()
            assert list(zoo.models()) == views
        with pytest.raises(BusyError, match="try again"):
            zoo.files.load(digests[0])
        store.is_away = False
        assert zoo.files.load(digests[0])
        zoo.sync()
        assert list(zoo.models()) == views
        store.is_away = True
        next((root / "checkpoints").iterdir()).unlink()
        zoo.sync()
        assert listed(zoo) == []


# --- what is said of them -------------------------------------------------------------------------------------------


def test_a_level_is_named_deprecated_and_measured_alone(zoo: LocalZoo, digests: list[str]) -> None:
    zoo.alias("phone", digests[0])
    assert zoo.show("phone").id == digests[0]
    zoo.deprecate(digests[2])
    assert zoo.choose(min_acc=0.7).id == digests[3]
    assert zoo.undeprecate(digests[2]).elastic is not None


def test_a_deleted_level_is_hidden_and_the_file_goes_with_the_last(
    zoo: LocalZoo, root: Path, levels: list[bytes], digests: list[str], elastic: bytes
) -> None:
    zoo.delete(digests[3])
    assert listed(zoo) == digests[:3]
    with pytest.raises(GoneError):
        zoo.show(digests[3])
    zoo.sync()
    assert collect(Directories([root]), [root]) == []
    assert zoo.undelete(digests[3]).elastic is not None
    assert listed(zoo) == digests
    for digest in digests:
        zoo.delete(digest)
    # In this order a level is brought back by a zoo that was opened after all of them were deleted.
    with LocalZoo([root]) as other:
        other.sync()
        assert listed(other) == []
        other.undelete(digests[1])
        assert listed(other) == [digests[1]]
        other.delete(digests[1])
    [garbage] = collect(Directories([root]), [root])
    assert (garbage.digest, garbage.reason) == (digest_of(elastic), "all levels deleted")
    assert not path_of(root, elastic).exists()
    zoo.sync()
    with pytest.raises(NotFoundError):
        zoo.undelete(digests[0])


def test_undeleted_elsewhere_it_comes_back_everywhere(zoo: LocalZoo, root: Path, digests: list[str]) -> None:
    zoo.delete(digests[0])
    with LocalZoo([root]) as other:
        other.sync()
        other.undelete(digests[0])
    zoo.sync()
    assert listed(zoo) == digests


# --- publishing -----------------------------------------------------------------------------------------------------


def test_publishing_an_elastic_file_publishes_its_levels(
    tmp_path: Path, levels: list[bytes], digests: list[str], elastic: bytes
) -> None:
    with LocalZoo([tmp_path]) as zoo:
        view = zoo.publish(elastic)
        assert view.id == digests[3]
        assert view.elastic is not None
        assert listed(zoo) == digests
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"{digest_of(elastic)}.safetensors"]
        assert zoo.publish(elastic) == view
        assert zoo.publish(levels[1]).id == digests[1]  # is there already
        assert len(list((tmp_path / "checkpoints").iterdir())) == 1
        assert not list((tmp_path / ".incoming").glob("*[0-9a-f]"))
        zoo.sync()
        assert listed(zoo) == digests


def test_published_staged_all_levels_are_and_those_that_were_there_stay_as_they_are(
    tmp_path: Path, levels: list[bytes], digests: list[str], elastic: bytes
) -> None:
    with LocalZoo([tmp_path]) as zoo:
        zoo.publish(levels[0])
        zoo.publish(elastic, stage=True)
        assert listed(zoo) == digests[:1]
        assert zoo.show(digests[0]).elastic is not None
        assert zoo.show(digests[3]).staged
        zoo.promote(digests[3])
        assert listed(zoo) == [digests[0], digests[3]]


def test_publishing_again_brings_deleted_levels_back(zoo: LocalZoo, digests: list[str], elastic: bytes) -> None:
    for digest in digests[:2]:
        zoo.delete(digest)
    zoo.publish(elastic)
    assert listed(zoo) == digests


@pytest.mark.parametrize("where", ["shortened", "flipped"])
def test_a_damaged_elastic_file_is_not_published(tmp_path: Path, elastic: bytes, where: str) -> None:
    damaged = elastic[:-4] if where == "shortened" else elastic[:-1] + bytes([elastic[-1] ^ 1])
    with LocalZoo([tmp_path]) as zoo:
        with pytest.raises(CheckpointError, match=r"promises|level 3: its values"):
            zoo.publish(damaged)
        assert listed(zoo) == []
        assert not list(tmp_path.rglob("*.safetensors"))


# --- upgrading from a directory --------------------------------------------------------------------------------------


def test_the_beginning_of_a_file_is_upgraded_level_by_level(
    zoo: LocalZoo, levels: list[bytes], digests: list[str], elastic: bytes, tmp_path: Path
) -> None:
    file = zoo.download(zoo.choose(min_acc=0.6), tmp_path / "net.safetensors", upgradable=True)
    place = zoo.show(digests[0]).elastic
    assert place is not None
    assert file.read_bytes() == elastic[: place.prefix_bytes]
    assert extract(file.read_bytes(), 0) == levels[0]
    assert zoo.upgrade(file, min_acc=0.7).id == digests[2]
    assert extract(file.read_bytes(), 2) == levels[2]
    assert len(file.read_bytes()) < len(elastic)
    before = file.stat().st_mtime_ns
    assert zoo.upgrade(file, min_acc=0.65).id == digests[1]  # is there
    assert file.stat().st_mtime_ns == before
    assert zoo.upgrade(file).id == digests[3]
    assert file.read_bytes() == elastic
    with pytest.raises(NoModelMeetsConstraintsError, match=r"none of 4 levels reaches accuracy 0\.9; .* 0\.75"):
        zoo.upgrade(file, min_acc=0.9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.safetensors", "zoo"]


def test_it_is_upgraded_to_itself_where_the_zoo_has_its_levels_in_other_files_too(
    zoo: LocalZoo, root: Path, levels: list[bytes], digests: list[str], tmp_path: Path
) -> None:
    """Of a level in several files the zoo names one, which may lack what is wanted next."""
    own, others = pack(levels[1:]), [pack(levels[:3]), pack(levels[1:3]), pack(levels[2:])]
    file = tmp_path / "net.safetensors"
    file.write_bytes(beginning := own[: read_levels_of(own)[0].prefix_bytes])
    for data in others:
        Directory(root).put(data)
    zoo.sync()
    with pytest.raises(ZooError, match="not in this zoo"):
        zoo.upgrade(file)
    assert file.read_bytes() == beginning
    assert zoo.upgrade(file, min_acc=0.65).id == digests[1]  # is there
    Directory(root).put(own)
    zoo.sync()
    for bound, end in ((0.7, 1), (None, 2)):
        zoo.upgrade(file, min_acc=bound)
        assert file.read_bytes() == own[: read_levels_of(own)[end].prefix_bytes]


def read_levels_of(data: bytes) -> tuple[Level, ...]:
    return ElasticFile(BytesIO(data)).levels


def test_a_file_of_its_own_cannot_be_upgraded(tmp_path: Path, levels: list[bytes], digests: list[str]) -> None:
    Directory(tmp_path / "zoo").put(levels[0])
    with LocalZoo([tmp_path / "zoo"]) as zoo:
        zoo.sync()
        with pytest.raises(ZooError, match="no level of an elastic file"):
            zoo.download(digests[0], tmp_path / "net.safetensors", upgradable=True)
        shutil.copy(tmp_path / "zoo" / "checkpoints" / f"{digests[0]}.safetensors", tmp_path / "net.safetensors")
        with pytest.raises(CheckpointError, match="format_version"):
            zoo.upgrade(tmp_path / "net.safetensors")
