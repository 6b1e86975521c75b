from __future__ import annotations

import os
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from zoo.client import ZooClient
from zoo.store.directory import write_atomically
from zoo.store.partial_file import partial_file

DATA = bytes(range(256)) * 8
DIGEST = sha256(DATA).hexdigest()


@pytest.mark.parametrize("is_last_moved", [False, True])
@pytest.mark.parametrize("is_taken_over", [False, True])
def test_two_that_fetch_one_file_at_once_leave_it_whole(
    tmp_path: Path, is_taken_over: bool, is_last_moved: bool
) -> None:
    """Also where no lock tells one that the other is at work, and it takes that one's file for a left one."""
    target = tmp_path / "file"
    with partial_file(target, DIGEST) as one, partial_file(target, DIGEST) as two:
        assert one.path != two.path
        if is_taken_over:
            one.path.unlink()
        for start in range(0, len(DATA), 500):
            one.append(DATA[start : start + 500])
            two.append(DATA[start : start + 500])
        assert one.sha256 == two.sha256 == DIGEST
        one.move_to(target)
        assert target.read_bytes() == DATA
        if is_last_moved:
            two.move_to(target)
    assert target.read_bytes() == DATA
    assert list(tmp_path.iterdir()) == [target]


def test_what_others_left_is_copied_and_not_written_on(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with partial_file(target, DIGEST) as left:
        left.append(DATA[:700])
    with left.path.open("ab") as late, partial_file(target, DIGEST) as partial:
        assert partial.size == 700
        partial.append(DATA[700:])
        late.write(b"of a process that sleeps and wakes up where locks do nothing")
        late.flush()
        assert partial.sha256 == DIGEST
        partial.move_to(target)
    assert target.read_bytes() == DATA
    assert list(tmp_path.iterdir()) == [target]


def test_the_hash_is_that_of_the_file_on_disk(tmp_path: Path) -> None:
    with partial_file(tmp_path / "file", DIGEST) as partial:
        partial.append(DATA)
        with partial.path.open("r+b") as file:
            file.write(b"other bytes")
        assert partial.sha256 != DIGEST


# --- what is written into and never replaced -----------------------------------------------------------------


def reading(path: Path) -> tuple[threading.Thread, list[bytes]]:
    os.mkfifo(path)
    read: list[bytes] = []
    thread = threading.Thread(target=lambda: read.append(path.read_bytes()))
    thread.start()
    return thread, read


@pytest.mark.parametrize("is_linked", [False, True])
def test_a_download_into_a_pipe_goes_through_it(
    server: Any, command: Callable[..., Any], tmp_path: Path, is_linked: bool
) -> None:
    pipe, target = tmp_path / "pipe", tmp_path / ("link" if is_linked else "pipe")
    thread, read = reading(pipe)
    if is_linked:
        target.symlink_to(pipe)
    with ZooClient(server.url) as zoo:
        best = zoo.show("best")
        assert zoo.download(best, target) == target
    thread.join()
    assert sha256(read[0]).hexdigest() == best.id
    assert pipe.is_fifo()
    assert sorted(tmp_path.iterdir()) == sorted({pipe, target})


def test_whatever_is_written_atomically_goes_through_a_pipe(tmp_path: Path) -> None:
    thread, read = reading(tmp_path / "pipe")
    write_atomically(tmp_path / "pipe", DATA)
    thread.join()
    assert read == [DATA]
    assert (tmp_path / "pipe").is_fifo()


def test_the_file_is_replaced_that_a_link_leads_to(server: Any, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "file"
    target.write_bytes(b"before")
    link = tmp_path / "link"
    link.symlink_to(target)
    write_atomically(link, b"after")
    assert (link.is_symlink(), target.read_bytes()) == (True, b"after")
    with ZooClient(server.url) as zoo:
        zoo.download("best", link)
        assert sha256(target.read_bytes()).hexdigest() == zoo.show("best").id
    assert link.is_symlink()
