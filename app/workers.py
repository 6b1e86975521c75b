"""The processes of `zoo-serve`: one that answers, or several that share nothing but the catalog and the files."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import FrameType

from app import logs
from app.logs import LogFormat
from app.settings import Settings
from zoo import glibc
from zoo.errors import ZooError

log = logging.getLogger(__name__)

# Copies of a process that has loaded what they need and done nothing yet: they share most of its memory. (Copies of
# this one would lose threads that libraries have started in it.)
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["app.preloaded"])
_BACKLOG = 2048
_STARTUP_FAILURE = 3
_DRAIN_SECONDS = 10


@dataclass(frozen=True)
class Worker:
    settings: Settings
    log_level: str
    log_format: LogFormat
    access_log: bool

    def configure_logs(self) -> None:
        logs.configure(self.log_level, self.log_format, access=self.access_log)

    def serve(self, listener: socket.socket | None = None) -> None:
        """Until SIGTERM or Ctrl-C; what is under way then is answered."""
        # Here, so that the process which only watches over workers takes a third of the memory of one.
        import uvicorn
        from prometheus_client import values

        from app.main import create_app
        from app.one_write import OneWriteProtocol

        glibc.share_arena()
        self.configure_logs()
        if listener is not None:
            # As told in prometheus_client's documentation of other process models: by default each metric asks the
            # system for the process's number whenever it counts, a dozen times in a prediction.
            pid = os.getpid()
            values.ValueClass = values.MultiProcessValue(lambda: pid)
        try:
            app = create_app(self.settings)
        except ZooError as error:
            log.error("%s", error)
            sys.exit(_STARTUP_FAILURE)
        config = uvicorn.Config(
            app,
            host=self.settings.host,
            port=self.settings.port,
            backlog=_BACKLOG,
            http=OneWriteProtocol,
            ws="none",
            log_config=None,
            access_log=False,
            # A twentieth of a prediction's time, for the client's address and scheme, which no answer depends on.
            proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
        server = uvicorn.Server(config)
        # What is imported stays: looking through it for garbage takes 40 ms, in which nobody is answered.
        gc.freeze()
        server.run(None if listener is None else [listener])
        if not server.started:
            sys.exit(_STARTUP_FAILURE)


def serve(worker: Worker, num_workers: int) -> None:
    if num_workers == 1:
        worker.serve()
        return
    with tempfile.TemporaryDirectory(prefix="zoo-metrics-") as metrics:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics
        worker.configure_logs()
        _Crew(worker, num_workers).watch()


class _Crew:
    """Starts workers, and starts a new one for each that dies, until it is told to stop.

    Each has a socket of its own on the one port (SO_REUSEPORT), so that the system spreads connections evenly. Workers
    that accept from one shared socket do not: the first to wake takes all that wait, seen as 16 against 0.
    """

    def __init__(self, worker: Worker, num_workers: int) -> None:
        self._worker = worker
        self._listeners = _listeners(worker.settings.host, worker.settings.port, num_workers)
        self._processes: dict[int, multiprocessing.process.BaseProcess] = {}
        self._is_stopping = False

    def watch(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        host, port = self._listeners[0].getsockname()[:2]
        log.info("%d workers serve on http://%s:%d", len(self._listeners), f"[{host}]" if ":" in host else host, port)
        for index in range(len(self._listeners)):
            self._start(index)
        while self._processes:
            wait([process.sentinel for process in self._processes.values()])
            for index, process in list(self._processes.items()):
                if process.exitcode is not None:
                    self._ended(index, process)

    def _start(self, index: int) -> None:
        process = _CONTEXT.Process(target=self._worker.serve, args=(self._listeners[index],))
        process.start()
        self._processes[index] = process
        if self._is_stopping:  # the signal came in between
            process.terminate()

    def _ended(self, index: int, process: multiprocessing.process.BaseProcess) -> None:
        del self._processes[index]
        if self._is_stopping:
            return
        if process.exitcode == _STARTUP_FAILURE:
            log.error("worker %d cannot start: stopping", index)
            self._stop(signal.SIGTERM, None)
            return
        log.error("worker %d ended with exit code %s: starting another", index, process.exitcode)
        self._start(index)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._is_stopping = True
        for process in self._processes.values():
            process.terminate()


def _listeners(host: str, port: int, count: int) -> list[socket.socket]:
    """Raises OSError where the address is taken or is none of this machine's."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    # Several servers may share a port this way, another zoo's too: bound alone first, it is known to be free.
    with socket.create_server(address[:2], family=family) as probe:
        address = probe.getsockname()
    return [socket.create_server(address[:2], family=family, reuse_port=True, backlog=_BACKLOG) for _ in range(count)]
