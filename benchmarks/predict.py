"""How many predictions a second does `zoo-serve` answer, beside what one would write oneself, LitServe and MLServer?

    python benchmarks/predict.py zoo/pretrained --params 10000 --rounds 5 --seconds 8
    python benchmarks/predict.py zoo/pretrained --only ours fastapi ceiling

The same 32×32 PNG and network everywhere, sent by wrk (Debian package `wrk`) at 1, 16 and 64 connections. All servers
are started first; each round measures one after the other, the others stopped (SIGSTOP) meanwhile, so that a noisy
minute hits all alike. LitServe and MLServer are installed into virtual environments of their own below --venvs, over
the packages of this one. `onnx` is a FastAPI app of fifteen lines with UploadFile, Pillow and ONNX Runtime, `fastapi`
one with eager PyTorch, `ceiling` this server without the forward pass. `cpu ms` is how long a server computed for one
request: on a busy machine it says more than requests a second.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median

import numpy as np
from machine import processor, spread
from PIL import Image

from zoo.checkpoint.elastic import is_elastic
from zoo.checkpoint.file import read_header
from zoo.store.directory import Directory
from zoo.store.user_cache import user_cache

HERE = Path(__file__).parent
CONCURRENCIES = (1, 16, 64)
# Settings with which LitServe and MLServer are tried; the best one at 16 connections counts.
LITSERVE_SETTINGS = (("1", "0"), ("16", "0.001"), ("16", "0.005"), ("64", "0.01"))
MLSERVER_SETTINGS = (("0", "0"), ("16", "0.002"))
LUA = """
local file = io.open("{image}", "rb"); local data = file:read("*a"); file:close()
wrk.method = "POST"; wrk.headers["Content-Type"] = "{content_type}"; wrk.body = {body}
"""
FORM = (
    '"--xyz\\r\\nContent-Disposition: form-data; name=\\"file\\"; filename=\\"a.png\\"\\r\\n'
    'Content-Type: image/png\\r\\n\\r\\n" .. data .. "\\r\\n--xyz--\\r\\n"'
)


@dataclass(frozen=True)
class Result:
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float


@dataclass
class Server:
    name: str
    command: list[str]
    path: str = "/predict"
    script: str = "form.lua"
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    results: dict[int, list[Result]] = field(default_factory=dict)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def cpu_seconds(self) -> float:
        """Of all its processes so far."""
        assert self.process is not None
        found = subprocess.run(["ps", "-o", "pid=", "-g", str(self.process.pid)], capture_output=True, text=True)
        tasks = [task for pid in found.stdout.split() for task in Path(f"/proc/{pid}/task").glob("*/schedstat")]
        nanoseconds = 0
        for task in tasks:
            with suppress(FileNotFoundError):  # a thread that has ended since they were listed
                nanoseconds += int(task.read_text().split()[0])
        return nanoseconds / 1e9

    def mean(self, concurrency: int) -> float:
        return mean(result.requests_per_second for result in self.results[concurrency])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--params", type=int, default=9_000, help="the checkpoint nearest to it is asked")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=["ours", "ceiling", "onnx", "fastapi", "litserve", "mlserver"])
    parser.add_argument("--venvs", type=Path, default=user_cache("benchmarks"))
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: apt-get install wrk")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # by way of `finally`, which ends the servers
    digest, path = nearest(options.zoo, options.params)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {processor()}, Python {sys.version.split()[0]}")
    print(", ".join(f"{name} {version(name)}" for name in ("fastapi", "uvicorn", "onnxruntime", "torch")))
    print(f"{read_header(path).params:,} parameters; {options.rounds} rounds of {options.seconds} s, one wrk thread")
    servers = [server for kind in options.only for server in servers_of(kind, digest, path, options)]
    with tempfile.TemporaryDirectory() as folder:
        scripts = Path(folder)
        write_scripts(scripts)
        with running(servers, scripts):
            for _ in range(options.rounds):
                for server in servers:
                    for concurrency in CONCURRENCIES:
                        result = measure(server, scripts, concurrency, options.seconds)
                        server.results.setdefault(concurrency, []).append(result)
    show(servers)


def nearest(zoo: Path, params: int) -> tuple[str, Path]:
    ordinary = (item for item in Directory(zoo).paths() if not _has_levels(item[1]))
    return min(ordinary, key=lambda item: abs(read_header(item[1]).params - params))


def _has_levels(path: Path) -> bool:
    with path.open("rb") as file:
        return is_elastic(file)


def servers_of(kind: str, digest: str, path: Path, options: argparse.Namespace) -> Iterator[Server]:
    own = [sys.executable, str(HERE / "predict_servers.py"), kind, "{port}", str(path)]
    rival = [str(HERE / f"predict_{kind}.py"), "{port}", str(path)]
    if kind == "ours":
        for workers in (1, 2):
            command = [str(Path(sys.executable).parent / "zoo-serve"), "--zoo", str(options.zoo), "--port", "{port}"]
            command += ["--workers", str(workers), "--log-level", "error"]
            yield Server(f"this, {workers} worker{'s' * (workers - 1)}", command, f"/predict?model={digest}")
    elif kind == "ceiling":
        yield Server("this, no forward pass", own, f"/predict?model={digest}")
    elif kind == "onnx":
        yield Server("FastAPI + ONNX Runtime", own)
    elif kind == "fastapi":
        yield Server("FastAPI + torch", own)
    elif kind == "litserve":
        for size, timeout in LITSERVE_SETTINGS:
            python = installed("litserve", options.venvs)
            yield Server(f"LitServe, batch {size}, {timeout} s", [python, *rival, size, timeout])
    elif kind == "mlserver":
        for size, timeout in MLSERVER_SETTINGS:
            python = installed("mlserver", options.venvs)
            name = f"MLServer, batch {size}, {timeout} s"
            yield Server(name, [python, *rival, size, timeout], "/v2/models/net/infer", "inference_protocol.lua")
    else:
        sys.exit(f"--only {kind}: expected ours, ceiling, onnx, fastapi, litserve or mlserver")


def installed(package: str, venvs: Path) -> str:
    """The Python of an environment that has the package, and all that this one has where the package wants no other."""
    python = venvs / package / "bin" / "python"
    if not python.exists():
        print(f"installing {package} below {venvs}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", venvs / package], check=True)
        [site] = (venvs / package).glob("lib/python*/site-packages")
        ours = next(folder for folder in sys.path if folder.endswith("site-packages"))
        (site / "zz-checkpoint-zoo.pth").write_text(f"{ours}\n")
        subprocess.run([python, "-m", "pip", "install", "--quiet", package], check=True)
    return str(python)


def write_scripts(folder: Path) -> None:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((32, 32))
    pixels = np.asarray(coarse).astype(int) + rng.integers(-12, 13, (32, 32, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    (folder / "image.png").write_bytes(buffer.getvalue())
    print(f"a PNG of {len(buffer.getvalue())} bytes")
    content_type = "multipart/form-data; boundary=xyz"
    (folder / "form.lua").write_text(LUA.format(image=folder / "image.png", content_type=content_type, body=FORM))
    encoded = base64_json(buffer.getvalue())
    script = LUA.format(image=folder / "image.png", content_type="application/json", body=f"[==[{encoded}]==]")
    (folder / "inference_protocol.lua").write_text(script)


def base64_json(image: bytes) -> str:
    data = [base64.b64encode(image).decode()]
    return json.dumps({"inputs": [{"name": "image", "shape": [1, 1], "datatype": "BYTES", "data": data}]})


@contextmanager
def running(servers: Sequence[Server], scripts: Path) -> Iterator[None]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    try:
        for server in servers:
            server.port = free_port()
            command = [word.replace("{port}", str(server.port)) for word in server.command]
            server.process = subprocess.Popen(
                command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            wait_until_it_answers(server, scripts)
            server.signal(signal.SIGSTOP)
        yield
    finally:
        for server in servers:
            if server.process is not None:
                server.signal(signal.SIGKILL)
                server.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_it_answers(server: Server, scripts: Path) -> None:
    """All its processes: some listen long before they have loaded a network."""
    deadline = time.monotonic() + 120
    while True:
        report = wrk(server, scripts, concurrency=16, seconds=1)
        if "Socket errors" not in report and "Non-2xx" not in report and "  0 requests" not in report:
            return
        assert server.process is not None
        if server.process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"{server.name} does not answer: {' '.join(server.command)}\n{report}")


def wrk(server: Server, scripts: Path, concurrency: int, seconds: int) -> str:
    command = ["wrk", "-t1", f"-c{concurrency}", f"-d{seconds}s", "--latency", "--timeout", "10s"]
    url = f"http://127.0.0.1:{server.port}{server.path}"
    done = subprocess.run([*command, "-s", scripts / server.script, url], capture_output=True, text=True)
    # Nobody listens yet: wrk says so and fails.
    return done.stdout if done.returncode == 0 else f"Socket errors: {done.stdout}"


def measure(server: Server, scripts: Path, concurrency: int, seconds: int) -> Result:
    """After a second that does not count."""
    server.signal(signal.SIGCONT)
    try:
        wrk(server, scripts, concurrency, seconds=1)
        before = server.cpu_seconds()
        report = wrk(server, scripts, concurrency, seconds)
        cpu_seconds = server.cpu_seconds() - before
    finally:
        server.signal(signal.SIGSTOP)
    if "Non-2xx" in report or "Socket errors" in report:
        sys.exit(f"{server.name} answered with errors:\n{report}")
    rate = re.search(r"Requests/sec:\s*([\d.]+)", report)
    assert rate is not None, report
    count = re.search(r"(\d+) requests in", report)
    assert count is not None, report
    cpu_ms = 1000 * cpu_seconds / int(count[1])
    return Result(float(rate[1]), percentile(report, 50), percentile(report, 99), cpu_ms)


def percentile(report: str, percent: int) -> float:
    """Milliseconds."""
    found = re.search(rf"\b{percent}%\s+([\d.]+)(us|ms|s)", report)
    assert found is not None, report
    return float(found[1]) * {"us": 0.001, "ms": 1, "s": 1000}[found[2]]


def show(servers: Sequence[Server]) -> None:
    base = next((server for server in servers if server.name.startswith("FastAPI")), None)
    for concurrency in CONCURRENCIES:
        print(f"\n{concurrency} connection{'s' * (concurrency > 1)}")
        ratio_to = f"of {base.name}" if base else ""
        print(f"{'':28}{'requests/s':>18}{ratio_to:>27}{'cpu ms':>10}{'p50 ms':>10}{'p99 ms':>10}")
        for server in servers:
            results = server.results[concurrency]
            ratio = f"{server.mean(concurrency) / base.mean(concurrency):.2f}" if base else "–"
            p50, p99 = mean(result.p50_ms for result in results), mean(result.p99_ms for result in results)
            cpu_ms = median(result.cpu_ms for result in results)
            rates = spread([result.requests_per_second for result in results], 0)
            print(f"{server.name:28}{rates:>18}{ratio:>27}{cpu_ms:>10.3f}{p50:>10.2f}{p99:>10.2f}")
    print()
    compare(servers)


def compare(servers: Sequence[Server]) -> None:
    def best(start: str) -> Server | None:
        return max(
            (server for server in servers if server.name.startswith(start)), key=lambda s: s.mean(16), default=None
        )

    for ours, other, concurrency, goal in (
        ("this, 2", "LitServe", 16, "6"),
        ("this, 1", "FastAPI + ONNX", 16, "2"),
        ("this, 1", "FastAPI + ONNX", 1, "1.35"),
        ("this, 1", "FastAPI + torch", 16, "5"),
        ("this, 1", "FastAPI + torch", 1, "3"),
        ("this, 1", "this, no", 16, "0.7"),
    ):
        mine, theirs = best(ours), best(other)
        if mine is not None and theirs is not None:
            ratio = mine.mean(concurrency) / theirs.mean(concurrency)
            print(f"at {concurrency}: {mine.name} / {theirs.name} = {ratio:.2f} (goal: {goal} or more)")
    mine = best("this, 1")
    if mine is not None:
        tails = mean(result.p99_ms / result.p50_ms for result in mine.results[16])
        print(f"at 16: p99 / p50 of {mine.name} = {tails:.1f} (goal: 3 or less)")


if __name__ == "__main__":
    main()
