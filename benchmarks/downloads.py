"""How fast do downloads of a 600 KB checkpoint go, beside Starlette's FileResponse and nginx on the same file?

    python benchmarks/downloads.py [--seconds 5] [--rounds 5] [--concurrency 16]

Needs wrk and nginx (Debian packages of those names). Each server runs in one process; rounds go through all of them
in turn, so that a busy minute hits all alike. µs: the server's processor time for one request; unlike requests/s it
leaves out what wrk takes where the two share a core. Both are also printed as how many times better than FileResponse.
`zoo, 304` asks with If-None-Match for a file that the client has.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from urllib.request import urlopen

import numpy as np
from machine import processor

from zoo.checkpoint.file import Checkpoint, encode, load
from zoo.network.families import secnn
from zoo.network.graph import tensor_shapes
from zoo.store.directory import Directory

ROOT = Path(__file__).parents[1]
PORTS = {"zoo": 8461, "FileResponse": 8462, "nginx": 8463}

FILE_RESPONSE = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Route

app = Starlette(routes=[Route("/{name}", lambda request: FileResponse(sys.argv[1]))])
uvicorn.run(app, port=int(sys.argv[2]), log_level="error", access_log=False)
"""

NGINX = """
daemon off; master_process off; worker_processes 1; pid {scratch}/pid; error_log stderr error;
events {{ worker_connections 1024; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000;
    client_body_temp_path {scratch}/1; proxy_temp_path {scratch}/2; fastcgi_temp_path {scratch}/3;
    uwsgi_temp_path {scratch}/4; scgi_temp_path {scratch}/5;
    server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""


@dataclass(frozen=True)
class Target:
    name: str
    url: str
    headers: tuple[str, ...]
    process: subprocess.Popen[bytes]


def checkpoint_of_600_kb() -> bytes:
    """Made-up weights in a network of the paper's family, with the descriptor of a shipped one."""
    _, shipped = min(Directory(ROOT / "zoo" / "pretrained").paths())
    descriptor = load(shipped).descriptor
    architecture = secnn.start(input_shape=(3, 32, 32), num_classes=len(descriptor.classes), channels=40, num_blocks=4)
    while True:
        shapes = tensor_shapes(architecture.graph())
        if 4 * sum(int(np.prod(shape)) for shape in shapes.values()) >= 600_000:
            break
        architecture = architecture.widened(3, 4)
    rng = np.random.default_rng(0)
    tensors = {name: rng.uniform(0.1, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    return encode(Checkpoint(descriptor.model_copy(update={"architecture": architecture}), tensors))


@contextmanager
def running(words: list[str], url: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        for _ in range(600):
            try:
                urlopen(url).close()
                break
            except OSError:
                time.sleep(0.05)
        else:
            sys.exit(f"{words[0]} does not answer on {url}")
        yield process
    finally:
        process.terminate()
        process.wait()


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(target: Target, seconds: int, concurrency: int) -> tuple[float, float]:
    """Requests/s, and the server's processor time for one, in µs."""
    headers = [word for header in target.headers for word in ("-H", header)]
    words = ["wrk", "-t1", f"-c{concurrency}", f"-d{seconds}", *headers, target.url]
    before = processor_seconds(target.process.pid)
    report = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    spent = processor_seconds(target.process.pid) - before
    if "Non-2xx" in report or "Socket errors" in report:
        sys.exit(f"{target.name} failed:\n{report}")
    [requests], [rate] = re.findall(r"(\d+) requests in", report), re.findall(r"Requests/sec:\s+([\d.]+)", report)
    return float(rate), spent / int(requests) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=16)
    arguments = parser.parse_args()
    missing = [name for name in ("wrk", "nginx") if shutil.which(name) is None]
    if missing:
        sys.exit(f"{' and '.join(missing)} not found: install the Debian package of that name")
    nginx_version = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.split("/")[-1].strip()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        data = checkpoint_of_600_kb()
        digest = Directory(folder).put(data)
        path = Directory(folder).path(digest)
        (folder / "nginx.conf").write_text(NGINX.format(scratch=folder, port=PORTS["nginx"], folder=path.parent))
        commands = {
            "zoo": [sys.executable, "-m", "app", "--zoo", str(folder), "--port", str(PORTS["zoo"])],
            "FileResponse": [sys.executable, "-c", FILE_RESPONSE, str(path), str(PORTS["FileResponse"])],
            "nginx": ["nginx", "-e", "stderr", "-c", str(folder / "nginx.conf")],
        }
        urls = {server: f"http://127.0.0.1:{port}/{path.name}" for server, port in PORTS.items()}
        urls["zoo"] = f"http://127.0.0.1:{PORTS['zoo']}/models/{digest}/file"
        targets = []
        for server, words in commands.items():
            process = stack.enter_context(running(words, urls[server]))
            assert urlopen(urls[server]).read() == data
            targets.append(Target(server, urls[server], (), process))
        targets.append(Target("zoo, 304", urls["zoo"], (f'If-None-Match: "{digest}"',), targets[0].process))

        print(f"{datetime.now(UTC):%Y-%m-%d}, {processor()}, {platform.system()} {platform.release()}")
        packages = ", ".join(f"{package} {version(package)}" for package in ("starlette", "uvicorn", "uvloop"))
        print(f"Python {platform.python_version()}, {packages}, nginx {nginx_version}")
        print(f"{len(data):,} bytes, {arguments.concurrency} connections, {arguments.rounds} × {arguments.seconds} s\n")
        found: dict[str, list[tuple[float, float]]] = {target.name: [] for target in targets}
        for _ in range(arguments.rounds):
            for target in targets:
                found[target.name].append(measure(target, arguments.seconds, arguments.concurrency))
    print(f"{'':16}{'requests/s':>12}{'from':>9}{'to':>9}{'ratio':>8}{'µs':>8}{'ratio':>8}")
    base_rate, base_cost = (median(values) for values in zip(*found["FileResponse"], strict=True))
    for name, results in found.items():
        rates, costs = zip(*results, strict=True)
        rate, cost = median(rates), median(costs)
        line = f"{name:16}{rate:12,.0f}{min(rates):9,.0f}{max(rates):9,.0f}"
        print(f"{line}{rate / base_rate:8.1f}{cost:8.0f}{base_cost / cost:8.1f}")


if __name__ == "__main__":
    main()
