"""Directories that are away for a moment, cannot be listed, are linked, or are no zoo."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from zoo.errors import CheckpointError, NotFoundError, ZooError
from zoo.library.local import LocalZoo
from zoo.store.directory import Directory, walk

Put = Callable[..., str]
Opened = Callable[..., LocalZoo]
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("away", ["checkpoints", "."])
def test_a_directory_that_is_away_for_a_moment_changes_nothing(
    tmp_path: Path, put: Put, opened: Opened, caplog: pytest.LogCaptureFixture, away: str
) -> None:
    root = tmp_path / "zoo"
    first, second = put(root), put(root, seed=1)
    zoo = opened(root)
    zoo.annotator.mark(first, aliases=["stable"])
    zoo.sync()
    (root / away).rename(tmp_path / "away")
    for _ in range(3):
        assert not zoo.sync()
    assert zoo.catalog.digests() == {first, second}
    assert zoo.chooser.find("stable").digest == first
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(f"{(root / away)} cannot be listed (")
    (tmp_path / "away").rename(root / away)
    assert not zoo.sync()
    Directory(root).path(second).unlink()
    assert zoo.sync(), "what is then not there is gone"
    assert zoo.catalog.digests() == {first}
    assert caplog.messages == [warning]


def test_a_process_that_starts_while_a_directory_is_away_changes_nothing(
    tmp_path: Path, put: Put, opened: Opened
) -> None:
    here, away = put(tmp_path / "zoo" / "here"), put(tmp_path / "zoo" / "away", seed=1)
    running = opened(tmp_path / "zoo")
    (tmp_path / "zoo" / "away").rename(tmp_path / "away")
    assert opened(tmp_path / "zoo").catalog.digests() == running.catalog.digests() == {here, away}
    (tmp_path / "away").rename(tmp_path / "zoo" / "away")
    assert not running.sync()


def test_of_two_directories_one_is_away(tmp_path: Path, put: Put, opened: Opened) -> None:
    for away, stays in (("a", "b"), ("b", "a")):
        digests = {put(tmp_path / away), put(tmp_path / stays, seed=1)}
        zoo = opened(tmp_path / "a", tmp_path / "b")
        (tmp_path / away).rename(tmp_path / "away")
        assert not zoo.sync()
        new = put(tmp_path / stays, seed=2)
        assert zoo.sync()
        assert zoo.catalog.digests() == {*digests, new}
        (tmp_path / "away").rename(tmp_path / away)
        assert not zoo.sync()
        Directory(tmp_path / stays).path(new).unlink()


def test_a_reindex_believes_the_disk(tmp_path: Path, put: Put, opened: Opened) -> None:
    put(tmp_path / "old")
    kept = put(tmp_path, seed=1)
    zoo = opened(tmp_path)
    shutil.rmtree(tmp_path / "old")
    zoo.sync()
    server = opened(tmp_path)
    assert zoo.reindex() == 1
    assert not zoo.sync()
    server.sync()
    assert server.catalog.digests() == opened(tmp_path).catalog.digests() == {kept}
    assert not server.sync()


def test_directories_may_be_named_as_they_are_seen_from_here(
    tmp_path: Path, put: Put, opened: Opened, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `make run` names them; the catalog of the first knows the second by its whole path."""
    first, second = put(tmp_path / "one"), put(tmp_path / "two", seed=1)
    third = put(tmp_path / "two", seed=2)
    monkeypatch.chdir(tmp_path)
    opened(Path("one"), Path("two")).close()
    again = opened(Path("one"), Path("two"))
    again.sync()
    assert caplog.messages == []
    Directory(tmp_path / "two").path(third).unlink()
    again.sync()
    assert again.catalog.digests() == {first, second}


LOOKS = """
import os, sys
from pathlib import Path
from zoo.library.local import LocalZoo

root = Path(sys.argv[1])
if os.geteuid() == 0:  # whom no mode stops
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
zoo = LocalZoo([root])
for mode in (0o755, 0o000, 0o755):
    (root / "checkpoints").chmod(mode)
    print(zoo.sync(), len(zoo.catalog.digests()))
(root / "checkpoints").chmod(0o000)
print(LocalZoo([root]).sync(), len(zoo.catalog.digests()))
(root / "checkpoints").chmod(0o755)
"""


def test_a_directory_that_may_not_be_listed_changes_nothing(put: Put) -> None:
    # Not tmp_path, which nobody but its owner may enter.
    with tempfile.TemporaryDirectory() as name:
        put(Path(name))
        if os.geteuid() == 0:
            for path in (name, f"{name}/checkpoints"):
                os.chown(path, 65534, 65534)
        done = subprocess.run([sys.executable, "-c", LOOKS, name], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split("\n") == ["True 1", "False 1", "False 1", "False 1", ""]
        said = f"{name}/checkpoints cannot be listed (Permission denied): what the catalog has of it stays as it is\n"
        assert done.stderr == 2 * said


# --- links -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("linked", ["checkpoints", "cifar10"])
def test_a_directory_on_another_disk_is_followed(tmp_path: Path, put: Put, opened: Opened, linked: str) -> None:
    digest = put(tmp_path / "disk")
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / linked).symlink_to(tmp_path / "disk")
    zoo = opened(tmp_path / "zoo")
    assert zoo.files.load(digest).descriptor.name == zoo.chooser.find(digest).name
    assert Directory(tmp_path / "zoo").path(digest).is_relative_to(tmp_path / "zoo" / linked)
    other = put(tmp_path / "zoo", seed=1)
    assert zoo.sync()
    assert zoo.store.path(other).exists()


def test_links_in_circles_come_to_an_end(tmp_path: Path, put: Put) -> None:
    root = tmp_path / "zoo"
    digest = put(root / "a")
    put(tmp_path / "another", seed=1)
    (root / "a" / "up").symlink_to("..")
    (root / "a" / "self").symlink_to("self")
    (root / "above").symlink_to(tmp_path)
    (root / "0").symlink_to("a")
    (root / "dead").symlink_to("nowhere")
    assert list(Directory(root).paths()) == [(digest, root / "a" / "checkpoints" / f"{digest}.safetensors")]
    assert walk(root).unlisted == {}


# --- what is no ordinary file ----------------------------------------------------------------------------


def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(
    tmp_path: Path, put: Put, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    replaced, kept = put(tmp_path), put(tmp_path, seed=1)
    zoo = opened(tmp_path)
    path = zoo.store.path(replaced)
    path.unlink()
    pipes = [path, tmp_path / f"{'0' * 64}.safetensors"]
    for pipe in pipes:
        os.mkfifo(pipe)
    for name in ("annotations.jsonl", "cascades.json"):
        os.mkfifo(tmp_path / name)
    new = put(tmp_path, seed=2)
    with pytest.raises(NotFoundError):
        zoo.files.load(replaced)
    for _ in range(3):
        zoo.sync()
    assert zoo.catalog.digests() == {kept, new}
    for pipe in pipes:
        assert caplog.messages.count(f"left out of the catalog: {pipe} is no ordinary file") == 1
    assert len(caplog.messages) == 4


def test_a_file_that_was_changed_and_given_its_old_time_is_read_again(tmp_path: Path, put: Put, opened: Opened) -> None:
    digest = put(tmp_path)
    zoo = opened(tmp_path)
    zoo.files.verify(digest)
    path = zoo.store.path(digest)
    status, data = path.stat(), bytearray(path.read_bytes())
    data[-5] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(CheckpointError):
        zoo.files.verify(digest)


# --- what is a zoo -----------------------------------------------------------------------------------------


def test_a_folder_of_other_things_is_no_zoo(command: Command, tmp_path: Path) -> None:
    """Neither for the command nor for the server, and neither leaves anything in it."""
    photo = tmp_path / "holiday.jpg"
    photo.write_bytes(b"\xff\xd8")
    (tmp_path / "2026").mkdir()
    for words in (("zoo", "list"), ("zoo", "gc"), ("zoo-serve", "--port", "0")):
        done = command(*words, "--zoo", tmp_path)
        assert done.returncode == 1
        assert f"no zoo here: {tmp_path} holds other files and no checkpoint" in done.stderr
        assert "Traceback" not in done.stderr
        assert {path.name for path in tmp_path.iterdir()} == {"2026", "holiday.jpg"}


@pytest.mark.parametrize("holds", [[], [".directory"], ["lost+found/"], ["runs/"], ["checkpoints/", "notes.txt"]])
def test_a_new_zoo_starts_in_an_empty_directory(tmp_path: Path, holds: list[str]) -> None:
    for name in holds:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    zoo = LocalZoo([tmp_path])
    zoo.sync()
    assert zoo.catalog.digests() == set()
    zoo.close()


def test_a_checkpoint_makes_it_one(tmp_path: Path, put: Put, opened: Opened) -> None:
    digest = put(tmp_path / "kept")
    (tmp_path / "kept" / "checkpoints").rename(tmp_path / "mine")
    (tmp_path / "kept").rmdir()
    (tmp_path / "notes.txt").touch()
    assert opened(tmp_path).catalog.digests() == {digest}
    (tmp_path / "mine").rename(tmp_path.parent / f"{tmp_path.name}-mine")
    for path in tmp_path.glob("catalog.sqlite*"):
        path.unlink()
    with pytest.raises(ZooError, match="no zoo here"):
        LocalZoo([tmp_path])


def test_a_command_passes_over_a_damaged_file(tmp_path: Path, put: Put, command: Command) -> None:
    """Whoever asks by a budget has an answer, each time, and is told; who asks for that one is refused."""
    root, file, image = tmp_path / "zoo", tmp_path / "net.safetensors", tmp_path / "image.png"
    whole, damaged = put(root), put(root, seed=1, accuracy=0.9)
    path = Directory(root).path(damaged)
    path.write_bytes(path.read_bytes()[:-4] + b"\1\2\3\4")
    Image.new("L", (8, 8)).save(image)

    for words in (["get", "-o", file], ["predict", image], ["predict", image]):
        done = command("zoo", *words, "--zoo", root)
        assert done.returncode == 0, done.stderr
        assert f"taken out of the catalog: {damaged}" in done.stderr
    assert file.read_bytes() == Directory(root).path(whole).read_bytes()
    assert command("zoo", "get", damaged, "-o", file, "--force", "--zoo", root).returncode == 1
    assert command("zoo", "predict", image, "--zoo", root, "--model", damaged).returncode == 1
