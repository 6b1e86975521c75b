"""How long after `zoo-serve` is started does it answer its first prediction, and how much memory has it then?

    python benchmarks/cold_start.py my-zoo

Starts the server five times on the directory and asks until the smallest checkpoint has classified an image.
"""

from __future__ import annotations

import io
import platform
import socket
import statistics
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

RUNS = 5


def main(zoo: str) -> None:
    packages = ", ".join(f"{name} {version(name)}" for name in ("fastapi", "uvicorn", "onnxruntime", "sqlmodel"))
    print(f"{date.today()}, Python {platform.python_version()}, {platform.machine()}, {packages}")
    results = [first_answer(zoo) for _ in range(RUNS)]
    for unit, values in zip(("s to the first prediction", "MB resident"), zip(*results, strict=True), strict=True):
        print(f"{unit}: median {statistics.median(values):.2f}, from {min(values):.2f} to {max(values):.2f}")


def first_answer(zoo: str) -> tuple[float, float]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(buffer, "PNG")
    started = time.perf_counter()
    server = subprocess.Popen(
        [Path(sys.executable).parent / "zoo-serve", "--zoo", zoo, "--port", str(port)], stderr=subprocess.DEVNULL
    )
    try:
        while True:
            try:
                response = httpx.post(
                    f"http://127.0.0.1:{port}/predict",
                    content=buffer.getvalue(),
                    headers={"Content-Type": "image/png"},
                )
            except httpx.ConnectError:
                time.sleep(0.01)
                continue
            elapsed = time.perf_counter() - started
            response.raise_for_status()
            status = Path(f"/proc/{server.pid}/status").read_text()
            resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
            return elapsed, int(resident.split()[1]) * 1024 / 1e6
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
