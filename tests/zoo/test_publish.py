from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from zoo.checkpoint.file import Checkpoint, digest_of, encode
from zoo.choosing.budget import Budget
from zoo.errors import AnnotationsError, CheckpointError, ConflictError
from zoo.library.local import LocalZoo
from zoo.library.publishing.publish import PublishSettings, Upload, publish
from zoo.library.upkeep.garbage import collect
from zoo.network.families import secnn
from zoo.store.annotations import Annotations
from zoo.store.directories import Directories
from zoo.store.directory import INCOMING, Directory
from zoo.store.entries import Measured
from zoo.store.locks import locked

Make = Callable[..., Checkpoint]
Put = Callable[..., str]
Command = Callable[..., subprocess.CompletedProcess[str]]


def upload(root: Path, data: bytes) -> str:
    digest = digest_of(data)
    with Upload(root / INCOMING) as upload:
        upload.write(data)
        upload.keep(digest)
    return digest


def files(root: Path) -> set[str]:
    return {path.name for path in root.rglob("*") if path.is_file() and not path.name.startswith("catalog.sqlite")}


def test_a_person_publishes_into_a_directory(tmp_path: Path, make_checkpoint: Make, command: Command) -> None:
    zoo, file = tmp_path / "zoo", tmp_path / "mine.safetensors"
    zoo.mkdir()
    file.write_bytes(encode(make_checkpoint()))
    digest = digest_of(file.read_bytes())
    done = command("zoo", "publish", file, "--zoo", zoo)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [digest, "shapes-test-s0-164"]
    assert files(zoo) == {f"{digest}.safetensors", "annotations.jsonl"}
    file.write_bytes(file.read_bytes()[:-1])
    refused = command("zoo", "publish", file, "--zoo", zoo)
    assert refused.returncode == 1
    assert "the header promises" in refused.stderr
    assert files(zoo) == {f"{digest}.safetensors", "annotations.jsonl"}


def test_gc_sweeps_what_is_deleted_and_what_was_left(tmp_path: Path, put: Callable[..., str], command: Command) -> None:
    kept, deleted = put(tmp_path, seed=1), put(tmp_path, seed=2)
    zoo = LocalZoo([tmp_path])
    zoo.sync()
    zoo.delete(deleted)
    zoo.close()
    incoming = tmp_path / ".incoming"
    incoming.mkdir()
    unfinished = tmp_path / "checkpoints" / f".{kept}.safetensors.{'0' * 16}.tmp"
    names = [incoming / ("a" * 64), incoming / "old.tmp", unfinished]
    for path in [*names, incoming / "new.tmp", tmp_path / ".someone-elses.tmp"]:
        path.write_bytes(b"12345")
        if path.name != "new.tmp":
            os.utime(path, (time.time() - 90_000,) * 2)
    before = files(tmp_path)

    listed = json.loads(command("zoo", "gc", "--zoo", tmp_path, "--dry-run", "--json").stdout)
    assert {Path(item["path"]).name for item in listed} == {*(path.name for path in names), f"{deleted}.safetensors"}
    assert files(tmp_path) == before
    done = command("zoo", "gc", "--zoo", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4
    assert files(tmp_path) == {f"{kept}.safetensors", "new.tmp", ".someone-elses.tmp", "annotations.jsonl"}
    assert command("zoo", "gc", "--zoo", tmp_path).stdout == ""
    shown = command("zoo", "show", deleted, "--zoo", tmp_path)
    assert f"checkpoint {deleted} was deleted" in shown.stderr


def test_a_descriptor_that_is_json_and_wrong_is_told(tmp_path: Path, put: Callable[..., str], command: Command) -> None:
    """By every command that looks at files: nothing else would show that one is missing."""
    good = (tmp_path / "checkpoints" / f"{put(tmp_path)}.safetensors").read_bytes()
    data = good.replace(b'num_classes\\": 3', b'num_classes\\": 4').replace(b'num_classes\\":3', b'num_classes\\":4')
    assert data != good
    digest = digest_of(data)
    (tmp_path / "checkpoints" / f"{digest}.safetensors").write_bytes(data)
    wrong = f"{digest}.safetensors: descriptor: Value error, 3 classes named, the network has 4"
    collected = command("zoo", "gc", "--zoo", tmp_path)
    assert (collected.returncode, collected.stdout) == (0, "")
    assert f"kept, and in no catalog: {wrong}" in collected.stderr
    verified = command("zoo", "verify", "--zoo", tmp_path)
    assert verified.returncode == 1
    assert f"FAILED  {digest[:12]}  {wrong}" in verified.stdout
    assert "2 checkpoints: 1 ok, 1 not" in verified.stderr


def test_gc_deletes_nothing_where_a_line_is_damaged(tmp_path: Path, put: Callable[..., str]) -> None:
    """It may be the one that brought the checkpoint back."""
    digest, other = put(tmp_path, seed=1), put(tmp_path, seed=2)
    with LocalZoo([tmp_path]) as zoo:
        zoo.sync()
        zoo.delete(digest)
        zoo.undelete(digest)
        path = tmp_path / "annotations.jsonl"
        whole = path.read_bytes().splitlines(keepends=True)
        for damaged in (b"##" + whole[1][2:], whole[1][:-2] + b"##"):
            path.write_bytes(whole[0] + damaged)
            with pytest.raises(AnnotationsError, match=rf"{path}: line 2 is no annotation: no file is deleted until"):
                collect(Directories([tmp_path]), [tmp_path])
        zoo.deprecate(other)
        assert Annotations(Directories([tmp_path])).said.deprecated == {other}, "other changes go on"
        path.write_bytes(b"".join(whole))
        assert collect(Directories([tmp_path]), [tmp_path]) == []
    assert files(tmp_path) >= {f"{digest}.safetensors", f"{other}.safetensors"}


def test_marks_survive_a_reindex_and_are_those_of_the_directory(
    tmp_path: Path, put: Callable[..., str], command: Command
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    digest, deprecated, deleted = (put(one, seed=seed) for seed in range(3))
    put(other, seed=9)
    zoo = LocalZoo([one])
    zoo.sync()
    zoo.annotator.mark(digest, aliases=["stable"])
    zoo.annotator.mark(deprecated, deprecated=True)
    zoo.delete(deleted)
    zoo.close()
    assert command("zoo", "reindex", "--zoo", one).stdout == "2 checkpoints\n"
    for roots in ([one], [one, other], [other, one]):
        options = [word for root in roots for word in ("--zoo", root)]
        assert json.loads(command("zoo", "show", "stable", "--json", *options).stdout)["id"] == digest
        listed = [item["id"] for item in json.loads(command("zoo", "list", "--json", *options).stdout)]
        assert digest in listed
        assert not {deprecated, deleted} & set(listed)


def test_gc_and_publishing_wait_for_each_other(tmp_path: Path, put: Callable[..., str]) -> None:
    """What is brought back while gc waits is no garbage any more."""
    kept, deleted = put(tmp_path, seed=1), put(tmp_path, seed=2)
    path = Directory(tmp_path).path(kept)
    zoo = LocalZoo([tmp_path])
    zoo.sync()
    for digest in (kept, deleted):
        zoo.delete(digest)
    (tmp_path / ".incoming").mkdir()
    roots = [tmp_path, path.parent, tmp_path]
    with ThreadPoolExecutor() as threads:
        with locked(tmp_path / ".incoming"):
            collected = threads.submit(collect, Directories(roots), roots)
            time.sleep(0.2)
            assert not collected.done()
            zoo.annotator.admit(kept)
        assert {item.digest for item in collected.result()} == {deleted}
    assert files(tmp_path) == {path.name, "annotations.jsonl"}
    zoo.close()


def test_what_any_directory_says_can_be_taken_back(tmp_path: Path, put: Callable[..., str]) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    first, second = put(one, seed=1), put(other, seed=2)
    alone = LocalZoo([other])
    alone.sync()
    alone.annotator.mark(second, aliases=["stable", "v1"], deprecated=True)
    both = LocalZoo([one, other])
    both.sync()
    with pytest.raises(ConflictError, match=f"alias stable is that of checkpoint {second}"):
        both.annotator.mark(first, aliases=["stable"])
    both.annotator.mark(second, aliases=["v1"], deprecated=False)
    both.annotator.mark(first, aliases=["stable"])
    assert both.chooser.find("stable").digest == first
    assert not both.chooser.find("v1").deprecated
    said = Annotations(Directories([other])).said
    assert said.aliases == {"v1": {"shapes": second}}
    assert not said.deprecated
    both.delete(second)
    assert "v1" not in Annotations(Directories([other])).said.aliases
    both.annotator.mark(first, aliases=["v1"])
    alone.sync()
    alone.delete(second)
    _, is_new = publish(both, upload(one, (other / "checkpoints" / f"{second}.safetensors").read_bytes()))
    assert is_new
    assert both.sync()
    assert both.chooser.find(second).digest == second
    alone.close()
    both.close()


def test_a_damaged_file_is_replaced_by_what_is_published(tmp_path: Path, put: Callable[..., str]) -> None:
    """By any process, whichever of them has noticed the damage."""
    digest = put(tmp_path)
    path = tmp_path / "run" / f"{digest}.safetensors"
    path.parent.mkdir()
    (tmp_path / "checkpoints" / path.name).rename(path)
    data, zoos = path.read_bytes(), [LocalZoo([tmp_path]) for _ in range(3)]
    for zoo in zoos:
        zoo.sync()
    for noticed in (False, True):
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        if noticed:
            with pytest.raises(CheckpointError):
                zoos[0].files.load(digest)
            with pytest.raises(CheckpointError, match="was changed or damaged"):
                publish(zoos[1], digest)
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 2]))
        row, is_new = publish(zoos[1], upload(tmp_path, data))
        assert (row.digest, is_new) == (digest, True)
        assert path.read_bytes() == data
        for zoo in zoos:
            zoo.sync()
            assert zoo.chooser.find(digest).digest == digest
            zoo.files.load(digest)
    assert publish(zoos[1], upload(tmp_path, data)) == (row, False)
    assert not row.claimed, "these are the bytes that were trained here"
    path.unlink()
    row, is_new = publish(zoos[1], upload(tmp_path, data))
    assert (row.digest, row.claimed, is_new) == (digest, True, True)
    assert files(tmp_path) == {path.name, "annotations.jsonl"}
    for zoo in zoos:
        zoo.close()


def test_annotations_that_cannot_be_read_are_served_with_and_never_written_over(
    tmp_path: Path, put: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    digest = put(tmp_path)
    path, aside = tmp_path / "annotations.jsonl", tmp_path / "aside.jsonl"
    zoo = LocalZoo([tmp_path])
    zoo.sync()
    zoo.alias("stable", digest)
    text = path.read_text()
    path.rename(aside)
    path.mkdir()
    for _ in range(3):
        zoo.sync()
    assert zoo.chooser.find("stable").digest == digest, "as it was before the damage"
    zoo.close()
    zoo = LocalZoo([tmp_path])
    zoo.sync()
    assert zoo.chooser.find(digest).digest == digest, "and from the start without"
    said = [record.message for record in caplog.records if record.name == "zoo.store.directory_log"]
    assert said == [f"{path} cannot be read (no ordinary file): as it was when it could"] * 2, "once for each process"
    changes: list[Callable[[], object]] = [
        lambda: zoo.alias("v1", digest),
        lambda: zoo.deprecate(digest),
        lambda: zoo.delete(digest),
        lambda: collect(Directories([tmp_path]), [tmp_path]),
    ]
    for change in changes:
        with pytest.raises(AnnotationsError, match="cannot be read"):
            change()
    path.rmdir()
    aside.rename(path)
    zoo.alias("v1", digest)
    assert zoo.chooser.find("v1").digest == zoo.chooser.find("stable").digest == digest
    assert path.read_text().startswith(text)
    zoo.close()


MARKER = """
import sys
from pathlib import Path
from zoo.store.annotations import Annotations
from zoo.store.directories import Directories
from zoo.store.entries import FlagEntry

annotations, first = Annotations(Directories([Path(sys.argv[1])])), int(sys.argv[2])
for number in range(first, first + 50):
    annotations.change(lambda said: [FlagEntry(kind="deprecated", digest=f"{number:064x}")], "somebody")
"""


def test_two_processes_do_not_undo_each_others_marks(tmp_path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", MARKER, tmp_path, str(first)]) for first in (0, 50)]
    assert [process.wait() for process in processes] == [0, 0]
    assert Annotations(Directories([tmp_path])).said.deprecated == {f"{number:064x}" for number in range(100)}


def test_a_network_too_large_to_run_is_refused(tmp_path: Path, make_checkpoint: Make) -> None:
    architecture = secnn.start(input_shape=(1, 4096, 4096), num_classes=3, channels=8, num_blocks=2, head="average")
    data = encode(make_checkpoint(architecture))
    assert len(data) < 20_000
    zoo = LocalZoo([tmp_path])
    with Upload(tmp_path / INCOMING) as upload:
        upload.write(data)
        upload.keep(digest_of(data))
    with pytest.raises(
        CheckpointError,
        match=r"layers' outputs for an image, at most 536,870,912 are taken \(ZOO_MAX_MODEL_ACTIVATION_BYTES\)",
    ):
        publish(zoo, digest_of(data))
    assert files(tmp_path) == set()
    zoo.close()


def test_a_file_is_never_replaced_by_what_is_refused(tmp_path: Path, make_checkpoint: Make) -> None:
    zoo = LocalZoo([tmp_path])
    data = encode(make_checkpoint())[:-4]
    with Upload(tmp_path / INCOMING) as upload:
        upload.write(data)
        upload.keep(digest_of(data))
    with pytest.raises(CheckpointError, match="the header promises"):
        publish(zoo, digest_of(data))
    assert files(tmp_path) == set()
    assert dict(Directory(tmp_path).paths()) == {}
    zoo.close()


def test_a_claim_is_chosen_only_where_nothing_else_will_do(tmp_path: Path, make_checkpoint: Make, put: Put) -> None:
    """Whoever may publish could else have `best` answered by a file that says 100 %."""
    measured = put(tmp_path, accuracy=0.7)
    with LocalZoo([tmp_path]) as zoo:
        zoo.sync()
        liar = zoo.publish(encode(make_checkpoint(seed=5, accuracy=1.0))).id
        assert zoo.best().id == zoo.show("best").id == zoo.choose(min_acc=0.6).id == measured
        assert [view.id for view in zoo.models()] == [measured, liar], "listed, last"
        assert [view.id for view in zoo.pareto()] == [measured]
        assert zoo.best(min_acc=0.9).id == liar, "nothing measured reaches that"
        pages = [zoo.catalog.page(Budget(), 1)]
        pages.append(zoo.catalog.page(Budget(), 1, pages[0].next_cursor))
        assert [row.digest for page in pages for row in page.rows] == [measured, liar]
        zoo.reindex()
        assert zoo.best().id == measured
        zoo.annotator.measured(liar, Measured(accuracy=0.8, n=100))
        assert zoo.best().id == liar, "now it is known"
    with LocalZoo([tmp_path], publishing=PublishSettings(trust_claims=True)) as zoo:
        trusted = zoo.publish(encode(make_checkpoint(seed=6, accuracy=0.95))).id
        assert zoo.best().id == trusted, "who publishes has said so"


def test_what_is_brought_back_counts_as_it_did_before(tmp_path: Path, make_checkpoint: Make, put: Put) -> None:
    """`zoo undelete --url` publishes it again: what a trainer wrote must not become a claim, nor a claim the best."""
    trained, other = put(tmp_path, accuracy=0.9), put(tmp_path, accuracy=0.7, seed=1)
    with LocalZoo([tmp_path]) as zoo:
        zoo.sync()
        liar = zoo.publish(encode(make_checkpoint(seed=5, accuracy=1.0))).id
        for digest in (trained, liar):
            zoo.delete(digest)
            assert zoo.best().id == (other if digest == trained else trained)
            publish(zoo, digest)
            assert zoo.best().id == trained


def test_publishing_into_a_directory_has_the_limits_of_the_servers(
    tmp_path: Path, make_checkpoint: Make, command: Command
) -> None:
    (tmp_path / "zoo").mkdir()
    (tmp_path / "file").write_bytes(encode(make_checkpoint()))
    words = ("zoo", "publish", tmp_path / "file", "--zoo", tmp_path / "zoo")
    refused = command(*words, environment={"ZOO_MAX_MODEL_CLASSES": "2"})
    assert refused.returncode == 1
    assert "it has 3 classes, at most 2 are taken (ZOO_MAX_MODEL_CLASSES)" in refused.stderr
    unclear = command(*words, environment={"ZOO_MAX_MODEL_CLASSES": "few"})
    assert unclear.returncode == 1
    assert "zoo: ZOO_MAX_MODEL_CLASSES: Input should be a valid integer" in unclear.stderr
    assert "file: no such directory or archive" in command(*words, "--eval-data", tmp_path / "no-file").stderr
