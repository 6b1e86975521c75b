"""A publish that fails removes nothing that it did not bring, and the same again succeeds."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from zoo.checkpoint.file import Checkpoint, digest_of, encode
from zoo.errors import AnnotationsError, CheckpointError
from zoo.library.local import LocalZoo
from zoo.library.publishing.publish import Upload, publish
from zoo.store.directory import INCOMING, Directory

Make = Callable[..., Checkpoint]


@pytest.fixture
def zoo(tmp_path: Path) -> Iterator[LocalZoo]:
    opened = LocalZoo([tmp_path])
    opened.sync()
    yield opened
    opened.close()


def upload(root: Path, data: bytes) -> str:
    digest = digest_of(data)
    with Upload(root / INCOMING) as upload:
        upload.write(data)
        upload.keep(digest)
    return digest


def later_version(data: bytes) -> bytes:
    """As a newer trainer would write it: the catalog leaves it out."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    descriptor = json.loads(header["__metadata__"]["descriptor"]) | {"format_version": 99}
    header["__metadata__"]["descriptor"] = json.dumps(descriptor)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def test_a_file_of_an_unknown_format_stays(zoo: LocalZoo, tmp_path: Path, make_checkpoint: Make) -> None:
    digest = Directory(tmp_path).put(later_version(encode(make_checkpoint())))
    for uploaded in (False, True):
        if uploaded:
            upload(tmp_path, Directory(tmp_path).path(digest).read_bytes())
        with pytest.raises(CheckpointError, match="format_version is 99"):
            publish(zoo, digest)
        assert Directory(tmp_path).path(digest).exists()
    assert list((tmp_path / ".incoming").iterdir()) == []


def test_what_cannot_be_brought_back_stays_to_be_brought_back(
    zoo: LocalZoo, tmp_path: Path, put: Callable[..., str]
) -> None:
    digest = put(tmp_path / "run")  # not where an upload is put
    zoo.sync()
    zoo.delete(digest)
    annotations, aside = tmp_path / "annotations.jsonl", tmp_path / "aside.jsonl"
    annotations.rename(aside)
    annotations.mkdir()
    zoo.sync()
    with pytest.raises(AnnotationsError):
        publish(zoo, digest)
    assert Directory(tmp_path).path(digest).exists()
    annotations.rmdir()
    aside.rename(annotations)
    row, is_new = publish(zoo, digest)
    assert (row.digest, is_new) == (digest, True)
    assert zoo.chooser.find(digest).digest == digest


def test_what_a_trainer_wrote_a_moment_ago_stays(zoo: LocalZoo, tmp_path: Path, make_checkpoint: Make) -> None:
    data = encode(make_checkpoint())
    (tmp_path / "annotations.jsonl").mkdir()
    digest = Directory(tmp_path).put(data)
    with pytest.raises(AnnotationsError):
        publish(zoo, upload(tmp_path, data))
    assert Directory(tmp_path).path(digest).read_bytes() == data
    assert (tmp_path / ".incoming" / digest).exists(), "for the next try"
    (tmp_path / "annotations.jsonl").rmdir()
    assert publish(zoo, digest)[0].digest == digest
    assert not (tmp_path / ".incoming" / digest).exists()


FULL = """
import resource, sys
from pathlib import Path
from zoo.errors import NoSpaceError
from zoo.library.local import LocalZoo
from zoo.library.publishing.publish import publish

root, digest = Path(sys.argv[1]), sys.argv[2]
zoo = LocalZoo([root])
zoo.sync()
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
try:
    publish(zoo, digest)
except NoSpaceError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
print(publish(zoo, digest)[1])
"""


def test_without_space_a_deleted_checkpoint_stays(zoo: LocalZoo, tmp_path: Path, put: Callable[..., str]) -> None:
    """A limit on the size of files stands for the full disk: annotations cannot be written."""
    digest = put(tmp_path)
    zoo.sync()
    zoo.delete(digest)
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path, digest], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("no space for the checkpoint: File too large; it is not published")
    assert done.stdout.splitlines()[1] == "True", "with room again"
    assert Directory(tmp_path).path(digest).exists()


def test_a_locked_catalog_is_in_nobodys_way(zoo: LocalZoo, tmp_path: Path, make_checkpoint: Make) -> None:
    [path] = tmp_path.glob("catalog*.sqlite")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    digest = upload(tmp_path, encode(make_checkpoint()))
    assert publish(zoo, digest)[0].digest == digest
    zoo.delete(digest)
    assert zoo.undelete(digest).id == digest
    other.execute("ROLLBACK")
    other.close()
    again = LocalZoo([tmp_path])
    again.sync()
    assert again.chooser.find(digest).digest == digest
    again.close()


def test_a_data_set_does_not_lose_its_name_to_what_is_published(
    zoo: LocalZoo, tmp_path: Path, put: Callable[..., str], make_checkpoint: Make
) -> None:
    """Other images under one name are kept apart, whatever age a file claims."""
    served = put(tmp_path)
    zoo.sync()
    old = datetime(2001, 1, 1, tzinfo=UTC)
    row, _ = publish(zoo, upload(tmp_path, encode(make_checkpoint(n=77, created_at=old))))
    assert row.dataset.startswith("shapes-"), "kept apart"
    assert zoo.smallest(dataset="shapes").id == served
