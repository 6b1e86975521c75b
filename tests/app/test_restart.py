"""Nobody notices that the service ends and another takes its place."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from app.process.listen import bind

PNG = {"Content-Type": "image/png"}


class Clients:
    """Two that keep their connection and two with one for each request, until `stop`."""

    def __init__(self, port: int, image: bytes) -> None:
        self.outcomes: Counter[object] = Counter()
        self._ends = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(port, image, keeps)) for keeps in (True, True, False, False)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, port: int, image: bytes, keeps: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while not self._ends.is_set():
            try:
                connection.request("POST", "/predict", image, PNG)
                response = connection.getresponse()
                response.read()
                self.outcomes[response.status] += 1
            except (OSError, http.client.HTTPException) as error:
                self.outcomes[repr(error)] += 1
                connection.close()
            if not keeps:
                connection.close()
        connection.close()

    def stop(self) -> Counter[object]:
        self._ends.set()
        for thread in self._threads:
            thread.join()
        return self.outcomes


def test_a_socket_handed_over_refuses_nobody(serve: Callable[..., Any], digit_files: list[bytes]) -> None:
    """The first is gone before the second starts: what comes meanwhile waits."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
        fd, port = listening.fileno(), listening.getsockname()[1]
        first = serve("--fd", fd, pass_fds=(fd,))
        assert first.url == f"http://127.0.0.1:{port}"
        clients = Clients(port, digit_files[0])
        while clients.outcomes[200] < 50:
            time.sleep(0.01)
        first.process.terminate()
        first.process.wait(timeout=15)
        before = clients.outcomes[200]
        second = serve("--fd", fd, "--workers", 2, pass_fds=(fd,))
        second.wait_for("Application startup complete", count=2)
        while clients.outcomes[200] < before + 50:
            time.sleep(0.01)
        assert set(clients.stop()) == {200}


def _answered(connection: socket.socket) -> int:
    """The status of an answer that has come whole."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


@pytest.mark.parametrize("workers", [1, 2])
def test_requests_that_wait_at_the_end_are_answered(
    serve: Callable[..., Any], digit_files: list[bytes], workers: int
) -> None:
    """In the socket, unaccepted, and unread on a connection that was kept."""
    server = serve("--workers", workers)
    server.wait_for("Application startup complete", count=workers)
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\nContent-Length: "
    request = f"{head}{len(digit_files[0])}\r\n\r\n".encode() + digit_files[0]
    with ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection((host, int(port)), timeout=20))

        connections = [connect() for _ in range(4)]
        for connection in connections:
            connection.sendall(request)
            assert _answered(connection) == 200
        for pid in server.workers():
            os.kill(pid, signal.SIGSTOP)
        for connection in connections:
            connection.sendall(request)
        connections += [connect() for _ in range(20)]
        for connection in connections[4:]:
            connection.sendall(request)
        server.process.terminate()
        time.sleep(0.2)
        for pid in server.workers():
            os.kill(pid, signal.SIGCONT)
        answers = [_answered(connection) for connection in connections]
        ends = [connection.recv(65536) for connection in connections]
    assert set(answers) == {200}
    assert set(ends) == {b""}, "closed, not reset"
    assert server.process.wait(timeout=15) in (0, -signal.SIGTERM)


def test_workers_and_port_are_gone_when_the_first_process_is_killed(serve: Callable[..., Any]) -> None:
    server = serve("--workers", 2)
    server.wait_for("Application startup complete", count=2)
    server.process.kill()
    server.process.wait()
    port = int(server.url.rpartition(":")[2])
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in server.workers()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    bind("127.0.0.1", port).close()


def test_what_is_no_listening_socket_is_not_served(zoo_root: Path, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, socket.socket() as unbound:
        for fd in (file.fileno(), unbound.fileno()):
            command = [sys.executable, "-m", "app", "--zoo", zoo_root, "--fd", str(fd)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, pass_fds=(fd,))
            assert done.returncode == 1
            assert done.stderr.startswith("zoo-serve: the socket handed over: ")


def test_a_socket_that_others_reach_needs_a_token_however_it_came(zoo_root: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as listening:
        command = [sys.executable, "-m", "app", "--zoo", zoo_root, "--fd", str(listening.fileno())]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, pass_fds=(listening.fileno(),))
    assert done.returncode == 1
    assert "can be reached from other machines: set ZOO_TOKEN" in done.stderr
