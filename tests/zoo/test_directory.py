from __future__ import annotations

import hashlib
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trainer.journal.records import DataRecord, write
from zoo.checkpoint.file import Checkpoint, digest_of, encode, load
from zoo.errors import NotFoundError
from zoo.store.directory import Directory, move_into_place, write_atomically


def test_a_file_is_named_by_the_digest_of_its_bytes(tmp_path: Path) -> None:
    digest = Directory(tmp_path).put(b"some bytes")
    assert digest == hashlib.sha256(b"some bytes").hexdigest()
    assert (tmp_path / "checkpoints" / f"{digest}.safetensors").read_bytes() == b"some bytes"


def test_putting_the_same_bytes_twice_changes_nothing(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    digest = directory.put(b"some bytes")
    before = directory.path(digest).stat()
    assert directory.put(b"some bytes") == digest
    after = directory.path(digest).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert len(list(tmp_path.rglob("*"))) == 2, "the folder and the file"


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_who_may_read_a_file_is_the_umasks_choice(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        digest = Directory(tmp_path).put(b"some bytes")
    finally:
        os.umask(before)
    assert Directory(tmp_path).path(digest).stat().st_mode & 0o777 == 0o666 & ~umask


def test_files_are_found_wherever_they_lie(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    usual = directory.put(b"one")
    other = digest_of(b"two")
    elsewhere = tmp_path / "cifar10" / "small" / f"{other}.safetensors"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_bytes(b"two")
    assert directory.path(other) == elsewhere
    assert dict(directory.paths()) == {usual: directory.path(usual), other: elsewhere}


def test_files_that_are_not_named_by_a_digest_are_passed_over(tmp_path: Path) -> None:
    for name in ("model.safetensors", f"{'g' * 64}.safetensors", f"{'a' * 64}.bin", f".{'a' * 64}.safetensors.tmp"):
        (tmp_path / name).write_bytes(b"")
    assert dict(Directory(tmp_path).paths()) == {}


def test_a_digest_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=f"{tmp_path} holds no checkpoint {'a' * 64}"):
        Directory(tmp_path).path("a" * 64)


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "taken"
    target.mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(target, b"some bytes")
    assert list(tmp_path.iterdir()) == [target]


def test_writing_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_atomically(path, b"long content")
    write_atomically(path, b"short")
    assert path.read_bytes() == b"short"


WRITER = """
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from zoo.checkpoint.file import decode, encode
from zoo.store.directory import Directory

checkpoint = decode(Path(sys.argv[2]).read_bytes())
directory = Directory(Path(sys.argv[1]))
for epoch in range(1_000_000):
    lineage = checkpoint.descriptor.lineage.model_copy(update={"epoch": epoch})
    directory.put(encode(replace(checkpoint, descriptor=checkpoint.descriptor.model_copy(update={"lineage": lineage}))))
    print(epoch, flush=True)
"""


def test_kill_9_at_any_moment_leaves_only_whole_files(
    tmp_path: Path, make_checkpoint: Callable[..., Checkpoint]
) -> None:
    template = tmp_path / "template"
    template.write_bytes(encode(make_checkpoint()))
    zoo = tmp_path / "zoo"
    written = 0
    for attempt in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, zoo, template], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(3 + attempt):
                written = max(written, int(writer.stdout.readline()))
            time.sleep(0.0007 * attempt)
            writer.send_signal(signal.SIGKILL)
            assert writer.wait() == -signal.SIGKILL
    found = dict(Directory(zoo).paths())
    assert len(found) > written
    for digest, path in found.items():
        assert digest_of(path.read_bytes()) == digest
        load(path)
    strangers = {path.name for path in (zoo / "checkpoints").iterdir()} - {path.name for path in found.values()}
    assert all(re.fullmatch(r"\.[0-9a-f]{64}\.safetensors\.[0-9a-f]{16}\.tmp", name) for name in strangers)


@pytest.fixture
def another_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on another file system than `tmp_path`."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        if Path(name).stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("/dev/shm is on the same file system as temporary files")
        yield Path(name)


def test_checkpoints_that_lie_on_another_disk_than_what_is_moved_to_them(tmp_path: Path, another_disk: Path) -> None:
    """As a trainer's run directory does, and what was uploaded."""
    (tmp_path / "checkpoints").symlink_to(another_disk)
    digest = Directory(tmp_path).put(b"some bytes", scratch=tmp_path)
    uploaded = tmp_path / "uploaded"
    uploaded.write_bytes(b"others")
    other = Directory(tmp_path).usual_path(digest_of(b"others"))
    move_into_place(uploaded, other)
    assert not uploaded.exists()
    assert {path.name: path.read_bytes() for path in another_disk.iterdir()} == {
        f"{digest}.safetensors": b"some bytes",
        other.name: b"others",
    }


def test_a_write_that_finds_no_room_says_where(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=re.escape(f"File too large: '{tmp_path / 'state.pt'}'")):
            write_atomically(tmp_path / "state.pt", bytes(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
    full = Path("/dev/full")
    with full.open("ab", buffering=0) as log, pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write(DataRecord(("odd",)), log)
