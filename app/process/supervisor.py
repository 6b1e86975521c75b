"""Watches over workers: starts them, replaces those that die or hang, and ends them."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess

from app.process.listen import Listener
from app.process.server import STOP_SECONDS

log = logging.getLogger(__name__)

STARTUP_FAILURE = 3  # also uvicorn's
# Whoever ends sooner after it began to serve counts as failed, and the next one waits, each time twice as long.
_SETTLED_SECONDS = 10.0
_LONGEST_PAUSE = 30.0
# So many failures of one worker in a row, while no other serves, are the end.
_MAX_FAILURES = 6
_TICK_SECONDS = 0.5
# Within so long after the first, a second signal is the same wish: timeout(1) tells a process, and then its group.
_SAME_WISH_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SIGNALS = (*_ENDING, signal.SIGCHLD)

# Copies of this process, which has loaded what they need: they share most of its memory.
_FORK = multiprocessing.get_context("fork")


@dataclass
class _Slot:
    """One of the workers, over all the processes that it has been."""

    index: int
    process: BaseProcess | None = None
    beats: int = -1  # reading end of a pipe
    served_since: float | None = None
    last_beat: float = 0.0
    failures: int = 0
    due: float = 0.0


@dataclass
class Supervisor:
    """`run(beat)` is what a worker does, until SIGTERM; it calls `beat` once a second from when it serves on.

    uvicorn's own takes workers whose event loop hangs for well, lets them outlive it, starts without pause those that
    die at once, and waits for ever for those that do not end.
    """

    run: Callable[[Callable[[], None]], None]
    num_workers: int
    listener: Listener
    # Without a beat for so long. A worker itself (app.process.workers) says before where it hangs.
    hung_seconds: float = 10.0
    stop_seconds: float = STOP_SECONDS
    first_pause_seconds: float = 0.5
    _slots: list[_Slot] = field(default_factory=list)
    _has_served: bool = False
    _stop_by: float | None = None
    _told_at: float = 0.0
    _exit_code: int = 0
    _last_tick: float = 0.0

    def watch(self) -> int:
        """Until SIGTERM, SIGINT or SIGHUP, or until no worker can be started. Returns the exit code."""
        # Taken one by one below, so that nothing happens between two lines, and children miss none.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self._slots = [_Slot(index) for index in range(self.num_workers)]
        while True:
            self._start_due()
            if self._stop_by is not None and not any(slot.process for slot in self._slots):
                return self._exit_code
            received = signal.sigtimedwait(_waited_for(), _TICK_SECONDS)
            # CPython 3.11 returns uninitialised memory when the process was stopped (SIGSTOP) beyond the timeout.
            if received is not None and received.si_signo in _ENDING:
                self._stop()
            self._hear()
            for slot in self._slots:
                if slot.process is not None and slot.process.exitcode is not None:
                    self._ended(slot, slot.process.exitcode)
            self._kill_overdue()

    def _start_due(self) -> None:
        for slot in self._slots:
            if slot.process is None and self._stop_by is None and time.monotonic() >= slot.due:
                slot.beats, writer = os.pipe()
                os.set_blocking(slot.beats, False)
                os.set_blocking(writer, False)
                slot.process = _FORK.Process(target=_be_worker, args=(self.run, writer, os.getpid()))
                slot.process.start()
                os.close(writer)

    def _hear(self) -> None:
        for slot in self._slots:
            with suppress(BlockingIOError):
                if slot.process is not None and os.read(slot.beats, 4096):
                    slot.last_beat = time.monotonic()
                    slot.served_since = slot.served_since or slot.last_beat
                    self._has_served = True

    def _ended(self, slot: _Slot, exit_code: int) -> None:
        now = time.monotonic()
        is_settled = slot.served_since is not None and now - slot.served_since > _SETTLED_SECONDS
        os.close(slot.beats)
        slot.process, slot.served_since = None, None
        if self._stop_by is not None:
            return
        slot.failures = 1 if is_settled else slot.failures + 1
        is_hopeless = slot.failures >= _MAX_FAILURES or (exit_code == STARTUP_FAILURE and not self._has_served)
        if is_hopeless and not any(other.served_since for other in self._slots):
            reason = "for the reason above; giving up"
            log.error("worker %d cannot start: it ended with %s, %s", slot.index, _named(exit_code), reason)
            self._exit_code = STARTUP_FAILURE
            self._stop()
            return
        pause = min(_LONGEST_PAUSE, self.first_pause_seconds * 2 ** (slot.failures - 2)) if slot.failures > 1 else 0.0
        slot.due = now + pause
        when = f" in {pause:g} s" if pause else ""
        log.error("worker %d ended with %s: starting another%s", slot.index, _named(exit_code), when)

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        if self._last_tick and now - self._last_tick > 4 * _TICK_SECONDS:
            # All of them were stopped, or the machine was: nobody has had the time to say that it is well.
            for slot in self._slots:
                slot.last_beat += now - self._last_tick
        self._last_tick = now
        for slot in self._slots:
            if slot.process is None:
                continue
            if self._stop_by is not None and now > self._stop_by:
                waited = round(self._stop_by - self._told_at, 1)
                log.error("worker %d has not ended within %g s: killing it", slot.index, waited)
                slot.process.kill()
            elif slot.served_since is not None and now - slot.last_beat > self.hung_seconds and self._stop_by is None:
                log.error("worker %d has not answered for %g s: killing it", slot.index, self.hung_seconds)
                slot.process.kill()

    def _stop(self) -> None:
        """Told again, at once."""
        now = time.monotonic()
        if self._stop_by is None:
            self._told_at, self._stop_by = now, now + self.stop_seconds
            if self.listener.is_ours:
                self.listener.refuse_new()
            self.listener.close()
        elif now - self._told_at > _SAME_WISH_SECONDS:
            self._stop_by = now
        for slot in self._slots:
            if slot.process is not None:
                slot.process.terminate()


def _waited_for() -> list[signal.Signals]:
    """nohup has SIGHUP ignored."""
    return [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def _named(exit_code: int) -> str:
    """With the signal that it stands for: SIGKILL is most often the system out of memory, SIGBUS a file that shrank."""
    name = f" ({signal.Signals(-exit_code).name})" if -exit_code in set(signal.Signals) else ""
    return f"exit code {exit_code}{name}"


def _be_worker(run: Callable[[Callable[[], None]], None], beats: int, parent: int) -> None:
    # However the parent ends, by SIGKILL too: a worker that nobody watches over must not hold the port.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def beat() -> None:
        with suppress(BlockingIOError):
            os.write(beats, b".")

    run(beat)
