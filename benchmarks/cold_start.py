"""How long after `zoo-serve` is started does it answer its first prediction, and how much memory has it then?

    python benchmarks/cold_start.py my-zoo

Starts the server five times on the directory and asks until the smallest checkpoint has classified an image. Then one
process, and two workers: memory of each after first predictions, right after 300 of 16 images, 16 at a time, and two
seconds later.
"""

from __future__ import annotations

import io
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

RUNS = 5
CONNECTIONS = 16
PREDICTIONS, IMAGES = 300, 16
PNG = {"Content-Type": "image/png"}


def main(zoo: str) -> None:
    packages = ", ".join(f"{name} {version(name)}" for name in ("fastapi", "uvicorn", "onnxruntime", "sqlmodel"))
    print(f"{date.today()}, Python {platform.python_version()}, {platform.machine()}, {packages}")
    times = [first_answer(zoo) for _ in range(RUNS)]
    print(f"s to the first prediction: median {statistics.median(times):.2f}, {min(times):.2f} to {max(times):.2f}")
    for workers in (1, 2):
        show_memory(zoo, workers)


def first_answer(zoo: str) -> float:
    started = time.perf_counter()
    with serving(zoo):
        return time.perf_counter() - started


def show_memory(zoo: str, workers: int) -> None:
    print(f"MB resident (its share of what is shared, PSS) of each of {workers}, with the catalog's smallest loaded")
    with serving(zoo, "--workers", str(workers)) as (url, log):
        while len(pids := re.findall(r"Started server process \[(\d+)\]", log.read_text())) < workers:
            time.sleep(0.05)
        ask(url, 2 * CONNECTIONS, num_images=1)  # so many that every worker gets some
        print("  first predictions  ", *map(megabytes, pids))
        ask(url, PREDICTIONS, IMAGES)
        print("  after a load       ", *map(megabytes, pids))
        time.sleep(2)
        print("  two seconds later  ", *map(megabytes, pids))


@contextmanager
def serving(zoo: str, *options: str) -> Iterator[tuple[str, Path]]:
    """Its URL and its log, once it has answered a prediction."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/predict"
    command = [Path(sys.executable).parent / "zoo-serve", "--zoo", zoo, "--port", str(port), *options]
    with tempfile.NamedTemporaryFile() as log, subprocess.Popen(command, stderr=log) as server:
        try:
            while True:
                try:
                    httpx.post(url, content=blank(), headers=PNG).raise_for_status()
                    break
                except httpx.ConnectError:
                    time.sleep(0.01)
            yield url, Path(log.name)
        finally:
            server.terminate()


def ask(url: str, count: int, num_images: int) -> None:
    files = [("file", blank())] * num_images
    with (
        ThreadPoolExecutor(CONNECTIONS) as pool,
        httpx.Client(limits=httpx.Limits(max_connections=CONNECTIONS)) as http,
    ):
        for response in pool.map(lambda _: http.post(url, files=files), range(count)):
            response.raise_for_status()


def blank() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def megabytes(pid: str) -> str:
    found = dict(re.findall(r"^(Rss|Pss):\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M))
    resident, share = (int(found[name]) * 1024 / 1e6 for name in ("Rss", "Pss"))
    return f"{resident:.0f} ({share:.0f})"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
