"""The processes of `zoo-serve`: one that answers, or several that share nothing but the catalog, the files and the
socket."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module

from app.monitoring import logs
from app.monitoring.logs import LogFormat
from app.process.listen import Listener
from app.settings import Settings
from zoo.errors import ZooError
from zoo.runtime import glibc

log = logging.getLogger(__name__)

# A process says where each of its threads is when its event loop has not turned for so long. Ending it is its
# supervisor's: a process that was stopped and goes on (Ctrl-Z, a paused machine) has not turned either, and is well.
_WATCHDOG_SECONDS = 9


@dataclass(frozen=True)
class Worker:
    settings: Settings
    log_level: str
    log_format: LogFormat
    access_log: bool

    def configure_logs(self) -> None:
        logs.configure(self.log_level, self.log_format, access=self.access_log)
        faulthandler.enable()

    def serve(self, listener: Listener, beat: Callable[[], None] | None = None) -> None:
        """Until SIGTERM, SIGINT or SIGHUP; what is under way then is answered. `beat`: one of several processes."""
        from prometheus_client import values

        from app.admission.file_limit import raise_file_limit
        from app.main import create_app
        from app.process.server import STOP_SECONDS, Server, config
        from app.process.supervisor import STARTUP_FAILURE

        glibc.share_arena()
        raise_file_limit()
        self.configure_logs()
        if beat is not None:
            # As told in prometheus_client's documentation of other process models: by default each metric asks the
            # system for the process's number whenever it counts, a dozen times in a prediction.
            pid = os.getpid()
            values.ValueClass = values.MultiProcessValue(lambda: pid)
        try:
            app = create_app(self.settings)
        except ZooError as error:
            log.error("%s", error)
            sys.exit(STARTUP_FAILURE)

        def watched_beat() -> None:
            faulthandler.dump_traceback_later(_WATCHDOG_SECONDS)
            if beat is not None:
                beat()

        server = Server(
            config(app),
            listener,
            is_worker=beat is not None,
            beat=watched_beat,
            stopping=partial(faulthandler.dump_traceback_later, STOP_SECONDS, exit=True),
        )
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as below nohup
            signal.signal(signal.SIGHUP, server.handle_exit)
        # What is imported stays: looking through it for garbage takes 40 ms, in which nobody is answered.
        gc.freeze()
        server.run()
        if not server.started:
            sys.exit(STARTUP_FAILURE)


def serve(worker: Worker, num_workers: int, listener: Listener) -> int:
    """Returns the exit code."""
    worker.configure_logs()
    log.info("limits: %s", _limits(worker.settings))
    log.info("access: %s", _access(worker.settings))
    if num_workers == 1:
        worker.serve(listener)
        return 0
    with tempfile.TemporaryDirectory(prefix="zoo-metrics-") as metrics:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics
        # Imported once, before there are threads, and what all of them share.
        for module in ("app.main", "app.process.server", "uvicorn.protocols.http.httptools_impl", "uvloop"):
            import_module(module)
        from app.process.supervisor import Supervisor

        # The collector would write into what was imported here, and so copy it, once for each worker.
        gc.freeze()
        log.info("%d workers serve on %s", num_workers, ", ".join(listener.addresses()))
        return Supervisor(partial(worker.serve, listener), num_workers, listener).watch()


def _limits(settings: Settings) -> str:
    """Those in force, of each process."""
    return (
        f"{settings.max_connections} connections, heads of {settings.max_header_bytes} bytes in "
        f"{settings.header_seconds:g} s, bodies of {settings.max_body_bytes} bytes and "
        f"{settings.max_held_body_bytes} together, {settings.max_images} images a request, "
        f"{settings.max_queue} waiting for a checkpoint, {settings.max_work_bytes} bytes of work, "
        f"{settings.max_loaded_bytes} bytes of networks"
    )


def _access(settings: Settings) -> str:
    """Who may do what."""
    names = "".join(f", {name}" for name in settings.allowed_hosts)
    reading = f"any client, by names of this machine{names}" if settings.token is None else "with ZOO_TOKEN"
    publishing = "off" if settings.publish_token is None else "with ZOO_PUBLISH_TOKEN"
    return (
        f"reading {reading}; publishing {publishing}; other sites' pages: {', '.join(settings.cors_origins) or 'none'}"
    )
