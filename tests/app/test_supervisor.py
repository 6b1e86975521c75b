"""Workers that die, hang, and do not end; real processes with nothing to do."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import uvicorn

from app.process.listen import bind
from app.process.server import Server

PROGRAM = """
import logging, os, signal, sys, time
from app.process.listen import bind
from app.process.supervisor import Supervisor

logging.basicConfig(level="INFO")

def run(beat):
    os.write(2, f"pid {{os.getpid()}}\\n".encode())
    {body}

sys.exit(Supervisor(run, {workers}, bind("127.0.0.1", 0), **{options!r}).watch())
"""
SERVES = "[(beat(), time.sleep(0.05)) for _ in range(10000)]"


class Watched:
    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    def pids(self, count: int) -> list[int]:
        """Once so many workers have been started."""
        deadline = time.monotonic() + 20
        while len(found := re.findall(r"pid (\d+)\n", self.log.read_text())) < count:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        return [int(pid) for pid in found]


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    started: list[Watched] = []

    def start(body: str, workers: int = 1, **options: float) -> Watched:
        log = tmp_path / f"log-{len(started)}"
        program = PROGRAM.format(body=body, workers=workers, options=options)
        with log.open("w") as stderr:
            started.append(Watched(subprocess.Popen([sys.executable, "-c", program], stderr=stderr), log))
        return started[-1]

    yield start
    for watched in started:
        watched.process.kill()
        watched.process.wait()


def wait_for_end_of(*pids: int) -> None:
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, f"of {pids} some live on"
        time.sleep(0.02)


def test_a_worker_that_dies_at_start_is_tried_ever_later_and_then_given_up(supervised: Callable[..., Watched]) -> None:
    started = time.monotonic()
    watched = supervised("raise RuntimeError('no such thing')", first_pause_seconds=0.1)
    assert watched.process.wait(timeout=30) == 3
    assert time.monotonic() - started > 0.1 + 0.2 + 0.4 + 0.8
    log = watched.log.read_text()
    assert len(watched.pids(6)) == 6
    assert re.findall(r"starting another( in \S+ s)?\n", log) == ["", *(f" in {s} s" for s in (0.1, 0.2, 0.4, 0.8))]
    assert "RuntimeError: no such thing" in log
    assert log.endswith("worker 0 cannot start: it ended with exit code 1, for the reason above; giving up\n")


def test_what_no_second_try_can_mend_is_given_up_at_once(supervised: Callable[..., Watched]) -> None:
    watched = supervised("sys.exit(3)", workers=2)
    assert watched.process.wait(timeout=30) == 3
    assert "starting another" not in watched.log.read_text()


def test_while_others_serve_one_that_dies_is_tried_on(supervised: Callable[..., Watched], tmp_path: Path) -> None:
    mark = tmp_path / "first"
    body = f"os.open({str(mark)!r}, os.O_CREAT | os.O_EXCL); {SERVES}"  # the second and later ones fail
    watched = supervised(body, workers=2, first_pause_seconds=0.01)
    watched.pids(9)
    assert watched.process.poll() is None


@pytest.mark.parametrize("hangs", ["beat(); time.sleep(1000)", "beat(); os.kill(os.getpid(), signal.SIGSTOP)"])
def test_a_worker_that_hangs_is_replaced(supervised: Callable[..., Watched], hangs: str) -> None:
    watched = supervised(hangs, hung_seconds=0.3)
    first, second = watched.pids(2)[:2]
    wait_for_end_of(first)
    assert first != second
    assert "worker 0 has not answered for 0.3 s: killing it" in watched.log.read_text()


@pytest.mark.parametrize(
    "body",
    [SERVES, "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)"],
    ids=["serves", "ignores SIGTERM"],
)
def test_workers_end_with_their_parent_however_it_dies(supervised: Callable[..., Watched], body: str) -> None:
    watched = supervised(body, workers=2)
    pids = watched.pids(2)
    watched.process.kill()
    watched.process.wait()
    wait_for_end_of(*pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_all(supervised: Callable[..., Watched], number: signal.Signals) -> None:
    watched = supervised(SERVES, workers=2)
    pids = watched.pids(2)
    watched.process.send_signal(number)
    assert watched.process.wait(timeout=10) == 0
    wait_for_end_of(*pids)


def test_a_signal_that_comes_twice_at_once_is_one(supervised: Callable[..., Watched]) -> None:
    """As from timeout(1), which tells a process and then its group: what is under way is still done."""
    ends = "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1.5), os.write(2, b'done'), os._exit(0))); "
    watched = supervised(ends + r"os.write(2, b'pid %d\n' % os.getpid()); " + SERVES)
    pids = watched.pids(2)
    for _ in range(2):
        watched.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)  # else the two would be one pending signal
    assert watched.process.wait(timeout=20) == 0
    wait_for_end_of(*pids)
    assert "done" in watched.log.read_text()


def test_what_does_not_end_in_time_is_killed(supervised: Callable[..., Watched]) -> None:
    ignores = r"signal.signal(signal.SIGTERM, signal.SIG_IGN); os.write(2, b'pid %d\n' % os.getpid()); "
    watched = supervised(ignores + SERVES, stop_seconds=0.5)
    pids = watched.pids(2)
    started = time.monotonic()
    watched.process.terminate()
    assert watched.process.wait(timeout=10) == 0
    assert 0.5 < time.monotonic() - started < 5
    wait_for_end_of(*pids)
    assert "worker 0 has not ended within 0.5 s: killing it" in watched.log.read_text()


def test_after_a_pause_of_the_machine_all_go_on(supervised: Callable[..., Watched]) -> None:
    """Or after Ctrl-Z and fg: nobody could say meanwhile that it was well."""
    watched = supervised(SERVES, workers=2, hung_seconds=1.0)
    everybody = [watched.process.pid, *watched.pids(2)]
    time.sleep(1)
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in everybody:
            os.kill(pid, number)
        time.sleep(3)
    assert "killing it" not in watched.log.read_text()
    assert len(watched.pids(2)) == 2
    assert watched.process.poll() is None
    states = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in everybody]
    assert "Z" not in states, "nobody has ended"


def test_a_loop_that_turns_slowly_beats_on() -> None:
    """On a starved machine it is slow, and does not hang: to replace it would make it slower."""
    beats: list[float] = []

    async def app(scope: object, receive: object, send: object) -> None: ...

    async def run() -> None:
        listener = bind("127.0.0.1", 0)
        config = uvicorn.Config(app, lifespan="off", log_config=None)
        server = Server(config, listener, is_worker=True, beat=lambda: beats.append(time.monotonic()))
        serving = asyncio.create_task(server.serve())
        started = time.monotonic()
        while time.monotonic() - started < 4:
            await asyncio.sleep(0)
            time.sleep(0.4)
        server.should_exit = True
        await serving

    asyncio.run(run())
    assert len(beats) >= 3
    assert max(later - earlier for earlier, later in pairwise(beats)) < 2.5
