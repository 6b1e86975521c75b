"""docs/deploy.md: its nginx configuration and its units, as they stand there, but for paths and ports."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

BIN = Path(sys.executable).parent
PAGE = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@pytest.fixture
def behind_nginx(client_of: Callable[..., httpx.Client], zoo_root: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    nginx = shutil.which("nginx")
    if nginx is None:
        pytest.skip("nginx is not installed")
    service = client_of(zoo_root, allowed_hosts=("zoo.example.org",))
    port = free_port()
    [server] = blocks("nginx")
    server = server.replace("127.0.0.1:8000", f"127.0.0.1:{service.base_url.port}")
    server = server.replace("listen 80;", f"listen 127.0.0.1:{port};")
    temporary = "".join(
        f"{name}_temp_path {tmp_path / name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(
        f"daemon off;\nmaster_process off;\npid {tmp_path / 'pid'};\nerror_log {tmp_path / 'error.log'};\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{temporary}{server}}}\n"
    )
    process = subprocess.Popen([nginx, "-p", tmp_path, "-e", tmp_path / "error.log", "-c", configuration])
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/zoo", headers={"Host": "zoo.example.org"}) as outside:
            deadline = time.monotonic() + 10
            while True:
                try:
                    outside.get("/livez")
                    break
                except httpx.ConnectError:
                    assert process.poll() is None and time.monotonic() < deadline
                    time.sleep(0.02)
            yield outside
    finally:
        process.terminate()
        process.wait()


def test_behind_nginx(behind_nginx: httpx.Client, digit_files: list[bytes]) -> None:
    page = behind_nginx.get("/")
    scripts = re.findall(r'(?:src|href)="(web/[^"]+)"', page.text)
    assert scripts
    assert {behind_nginx.get(f"/{script}").status_code for script in scripts} == {200}
    first = behind_nginx.get("/models", params={"limit": 2})
    second = behind_nginx.get(first.url.join(first.links["next"]["url"]))
    assert second.json()["items"]
    view = first.json()["items"][0]
    file = behind_nginx.get(first.url.join(view["links"]["file"]), headers={"Range": "bytes=0-9"})
    assert (file.status_code, len(file.content)) == (206, 10)
    assert file.headers["etag"] == f'"{view["id"]}"'
    answer = behind_nginx.post(
        "/predict",
        content=digit_files[0],
        headers={"Content-Type": "image/png", "Origin": "http://zoo.example.org"},
    )
    assert answer.status_code == 200
    too_large = behind_nginx.post("/predict", content=bytes(32 * 2**20 + 1), headers={"Content-Type": "image/png"})
    assert (too_large.status_code, too_large.headers["content-type"]) == (413, "application/problem+json")
    assert behind_nginx.get("/models", headers={"Host": "evil.example"}).status_code == 403


def test_a_run_is_streamed_through_nginx(behind_nginx: httpx.Client) -> None:
    [run] = [run["name"] for run in behind_nginx.get("/runs").json()["items"]]
    with behind_nginx.stream("GET", f"/runs/{run}/events") as events:
        assert any("data: " in text for text in events.iter_text())


def test_units_are_sound(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed")
    for block in blocks("ini"):
        [name] = re.findall(r"^# /etc/systemd/system/(\S+)$", block, re.MULTILINE)
        (tmp_path / name).write_text(block.replace("/opt/zoo/bin", str(BIN)))
    units = sorted(tmp_path.glob("zoo.*"))
    assert len(units) == 2
    done = subprocess.run([analyze, "verify", "--man=no", *units], capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if "zoo" in line]
    assert (done.returncode, ours) == (0, [])


def test_a_socket_of_systemd_s_is_served(zoo_root: Path, tmp_path: Path, digit_files: list[bytes]) -> None:
    activate = shutil.which("systemd-socket-activate")
    if activate is None:
        pytest.skip("systemd is not installed")
    port = free_port()
    [command] = re.findall(r"^ExecStart=/opt/zoo/bin/(.*)$", PAGE, re.MULTILINE)
    words = command.replace("/var/lib/zoo", str(zoo_root)).split()
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [activate, "-l", f"127.0.0.1:{port}", BIN / words[0], *words[1:]],
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 10
        while "Listening on" not in (tmp_path / "log").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        # The service starts for this connection, which waits for it.
        answer = httpx.post(f"{url}/predict", content=digit_files[0], headers={"Content-Type": "image/png"}, timeout=60)
        assert answer.status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=15) == 0
    finally:
        process.kill()
        process.wait()
