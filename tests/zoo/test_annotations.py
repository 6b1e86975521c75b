"""What is said of checkpoints has one home, which loses nothing to damage."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from zoo.errors import NotFoundError
from zoo.library.local import LocalZoo
from zoo.store.annotations import Annotations
from zoo.store.directories import Directories
from zoo.store.entries import AliasEntry, FlagEntry, together

Put = Callable[..., str]
Opened = Callable[..., LocalZoo]
A, B = "a" * 64, "b" * 64


def lines(root: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (root / "annotations.jsonl").read_text().splitlines()]


def test_each_change_is_kept_with_time_and_actor(tmp_path: Path, put: Put, opened: Opened) -> None:
    digest = put(tmp_path)
    zoo = opened(tmp_path)
    zoo.alias("stable", digest)
    zoo.deprecate("stable")
    zoo.deprecate("stable")
    zoo.delete(digest)
    found = lines(tmp_path)
    assert [(line["kind"], line["digest"]) for line in found] == [
        ("alias", digest),
        ("deprecated", digest),
        ("deleted", digest),
    ], "what changes nothing is no entry"
    assert all(str(line["actor"]).startswith("user ") for line in found)
    assert sorted(str(line["time"]) for line in found) == [line["time"] for line in found]


@pytest.mark.parametrize("damage", ["no json", '{"kind": "alias", "alias": "Not One", "dataset": "*", "digest": null}'])
def test_a_damaged_line_costs_that_line_only(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    annotations = Annotations(Directories([tmp_path]))
    annotations.change(lambda _: [AliasEntry(alias="stable", dataset="shapes", digest=A)], "somebody")
    path = tmp_path / "annotations.jsonl"
    with path.open("a") as file:
        file.write(f"{damage}\n")
    annotations.change(lambda _: [FlagEntry(kind="deprecated", digest=B)], "somebody")
    for found in (annotations.said, Annotations(Directories([tmp_path])).said):
        assert (found.aliases, found.deprecated) == ({"stable": {"shapes": A}}, {B})
    assert caplog.messages[0] == f"{path}: line 2 is no annotation, and left out"
    assert damage in path.read_text()


def test_a_clock_that_is_wrong_decides_nothing(tmp_path: Path) -> None:
    """What is said later counts, also over what a machine with a clock years ahead has said in another directory."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    ahead = FlagEntry(kind="deprecated", digest=A, time="2099-01-01T00:00:00+00:00")
    (tmp_path / "other" / "annotations.jsonl").write_text(ahead.model_dump_json() + "\n")
    both = Annotations(Directories([tmp_path / "one", tmp_path / "other"]))
    assert both.said.deprecated == {A}
    both.change(lambda said: said.flagged(A, deprecated=False), "somebody")
    assert both.said.deprecated == set()
    assert Annotations(Directories([tmp_path / "other"])).said.deprecated == set(), "which may be served alone"


@pytest.mark.parametrize("time", ["unknown", "2026-11-21T02:00:00", "9999-12-31T23:59:59.999999+00:00"])
@pytest.mark.parametrize("key", ["time", "measured_at"])
def test_a_time_that_is_none_costs_its_line_only(
    tmp_path: Path, key: str, time: str, caplog: pytest.LogCaptureFixture
) -> None:
    line = {"kind": "latency", "digest": A, "device": "cpu", "median_ms": 3, "p95_ms": 9, "num_runs": 3}
    line |= {"measured_at": "2026-11-21T02:00:00Z", key: time}
    path = tmp_path / "annotations.jsonl"
    path.write_text(json.dumps(line) + "\n")
    annotations = Annotations(Directories([tmp_path]))
    annotations.change(lambda said: said.flagged(A, deprecated=True), "somebody")
    assert (annotations.said.deprecated, annotations.said.latencies) == ({A}, {})
    assert caplog.messages == [f"{path}: line 1 is no annotation, and left out"]


@pytest.mark.parametrize("time", ["2999-11-21T02:00:00+14:00", "2999-11-21T02:00:00Z", "29991121T020000+00:00"])
def test_times_in_whichever_form_decide_nothing_wrongly(tmp_path: Path, time: str) -> None:
    """What does not sort as its text would come after all that is said later, or before what was said earlier."""
    flags = [(A, True, time), (A, False, "2999-11-21T02:00:00.5+00:00")]
    lines = [{"kind": "deprecated", "digest": digest, "value": value, "time": at} for digest, value, at in flags]
    (tmp_path / "annotations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    annotations = Annotations(Directories([tmp_path]))
    assert annotations.said.deprecated == set()
    annotations.change(lambda said: said.flagged(A, deprecated=True), "somebody")
    annotations.change(lambda said: said.flagged(A, deprecated=False), "somebody")
    assert annotations.said.deprecated == set()


def test_an_alias_that_is_moved_to_another_directory_dangles_in_none(tmp_path: Path, put: Put, opened: Opened) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    first, second = put(one), put(other, seed=1)
    opened(other).alias("stable", second)
    opened(one, other).alias("stable", first)
    assert Annotations(Directories([other])).said.aliases == {}
    for roots in ((one, other), (other, one), (one,)):
        assert opened(*roots).show("stable").id == first
    with pytest.raises(NotFoundError, match="stable"):
        opened(other).show("stable")


def test_a_line_that_is_repaired_counts_again(tmp_path: Path) -> None:
    """In place, in a file that has grown meanwhile: who had read it before reads it again."""
    reader = Annotations(Directories([tmp_path]))
    for digest in (A, B):
        Annotations(Directories([tmp_path])).change(
            lambda said, digest=digest: said.flagged(digest, deprecated=True), "somebody"
        )
    path = tmp_path / "annotations.jsonl"
    whole = path.read_bytes()
    path.write_bytes(b"#" + whole[1:])
    reader.read()
    assert reader.said.deprecated == {B}
    with path.open("r+b") as file:
        file.write(whole + whole.splitlines()[0].replace(A.encode(), b"c" * 64))
    reader.read()
    assert reader.said.deprecated == {A, B, "c" * 64}, "the last line is whole too, without its end"
    reader.require_whole()


def test_a_change_costs_less_than_reading_all_that_was_said(tmp_path: Path) -> None:
    flags = [FlagEntry(kind="deprecated", digest=f"{number:064x}") for number in range(5000)]
    Annotations(Directories([tmp_path])).change(lambda _: flags, "somebody")
    annotations = Annotations(Directories([tmp_path]))

    def seconds(work: Callable[[], object]) -> float:
        started = time.thread_time()
        work()
        return time.thread_time() - started

    opening, changing = [], []
    for number in range(10):  # the shortest of several: other processes are at work on a core, too
        entries = [FlagEntry(kind="deprecated", digest=(A, B)[number % 2], value=number < 2)]
        opening.append(seconds(lambda: Annotations(Directories([tmp_path]))))
        changing.append(seconds(lambda entries=entries: annotations.change(lambda _: entries, "somebody")))
    assert min(changing) < 0.6 * min(opening)
    assert annotations.said.deprecated == {flag.digest for flag in flags}


@contextmanager
def slowly_read(annotations: Annotations) -> Iterator[None]:
    """Another thread is in the middle of reading, as a server's sync is, while the block is at work (or waits)."""
    is_reading, goes_on = threading.Event(), threading.Event()

    def pause(frame: FrameType, _event: str, _arg: object) -> None:
        if frame.f_code is together.__code__:
            is_reading.set()
            goes_on.wait(0.3)

    def read() -> None:
        sys.settrace(pause)
        annotations.read()

    thread = threading.Thread(target=read)
    thread.start()
    assert is_reading.wait(10)
    yield
    goes_on.set()
    thread.join()


def test_a_change_during_a_sync_is_seen_at_once(tmp_path: Path) -> None:
    annotations, elsewhere = Annotations(Directories([tmp_path])), Annotations(Directories([tmp_path]))
    elsewhere.change(lambda _: [FlagEntry(kind="deprecated", digest=B)], "somebody")
    with slowly_read(annotations):
        annotations.change(lambda _: [FlagEntry(kind="deleted", digest=A)], "somebody")
    assert annotations.said == Annotations(Directories([tmp_path])).said
    assert annotations.said.deleted == {A}


def test_a_change_during_a_sync_is_of_what_is_said_by_then(tmp_path: Path) -> None:
    annotations, elsewhere = Annotations(Directories([tmp_path])), Annotations(Directories([tmp_path]))
    elsewhere.change(lambda _: [FlagEntry(kind="deprecated", digest=A)], "somebody")
    with slowly_read(annotations):
        annotations.change(lambda said: said.flagged(A, deprecated=False), "somebody")
    assert Annotations(Directories([tmp_path])).said.deprecated == set(), "and not left alone as what is so already"
