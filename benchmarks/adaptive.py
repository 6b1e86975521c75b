"""What does policy=adaptive deliver as load grows, beside always the largest and always the smallest checkpoint?

    python benchmarks/adaptive.py zoo/pretrained --data cifar10.tar.gz --images 24 --deadline-ms 200 --min-acc 0.7

One `zoo-serve` process. First what it serves of the largest eligible checkpoint is measured, closed loop; that is the
unit of load. Then, in rounds, each policy in turn gets each load: requests with `--images` real labelled test images
each, at the moments of a Poisson process, whether or not earlier ones were answered (open loop). A latency counts from
the moment at which the request was due, so that a client that falls behind hides nothing (coordinated omission), and
ends when the last byte of the answer is there. Clients are processes of their own.

Accuracy is of all images sent: those of a request that got no answer count as wrong in `of sent`, and are left out of
`of answered`. A deadline is met by an answer in time; 503 and late answers miss it.

Why several images in a request: with one small image, decoding and HTTP take as long as these networks do, and a
smaller network then serves hardly more; `--images 1` shows that.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median

import httpx
from machine import processor, spread

from zoo.images.folder import read

POLICIES = ("largest", "smallest", "adaptive")
LOADS = (0.2, 0.5, 1.0, 1.5, 2.0, 3.0)
BOUNDARY = "zoo-benchmark"
# After the last request was due; what is not answered then is no answer.
GRACE_SECONDS = 2.0


@dataclass(frozen=True)
class Sent:
    """A request; `status` 0 where no answer came. `correct`: how many of its images."""

    status: int
    latency_ms: float
    correct: int
    params: int = 0
    reason: str = ""


@dataclass
class Client:
    """One process's share of the requests, over as many connections as are needed at a time."""

    port: int
    path: str
    requests: Sequence[tuple[bytes, tuple[str, ...]]]
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def ask(self, number: int, due: float) -> Sent:
        body, labels = self.requests[number % len(self.requests)]
        writer = None
        try:
            reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(head(self.path, len(body)) + body)
            status, content = await answer(reader)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            if writer is not None:
                writer.close()  # the server drops what nobody waits for
            return Sent(0, 1000 * (time.perf_counter() - due), 0)
        latency_ms = 1000 * (time.perf_counter() - due)
        self.idle.append((reader, writer))
        if status != 200:
            return Sent(status, latency_ms, 0)
        found = json.loads(content)
        correct = sum(row[0]["label"] == label for row, label in zip(found["predictions"], labels, strict=True))
        return Sent(200, latency_ms, correct, found["model"]["params"], found.get("adaptive", {}).get("reason", ""))

    def close(self) -> None:
        for _, writer in self.idle:
            writer.close()


def head(path: str, length: int) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
    length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
    return int(lines[0].split()[1]), await reader.readexactly(length)


def form(images: Sequence[bytes]) -> bytes:
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="i"\r\n\r\n'.encode()
    return b"".join(part + image + b"\r\n" for image in images) + f"--{BOUNDARY}--\r\n".encode()


async def open_loop(client: Client, rate: float, seconds: float, start: float, seed: int) -> list[Sent]:
    """Requests at the moments of a Poisson process, from `start` on (time.time)."""
    draw = random.Random(seed)
    await asyncio.sleep(max(0.0, start - time.time()))
    began, due, number = time.perf_counter(), 0.0, draw.randrange(len(client.requests))
    tasks = []
    while (due := due + draw.expovariate(rate)) < seconds:
        # Not until it is due, and at once where that is past.
        if (early := began + due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        tasks.append(asyncio.create_task(client.ask(number + len(tasks), began + due)))
    _, unanswered = await asyncio.wait(tasks, timeout=GRACE_SECONDS) if tasks else ((), ())
    for task in unanswered:
        task.cancel()
    sent = await asyncio.gather(*tasks)
    client.close()
    return sent


async def closed_loop(client: Client, connections: int, seconds: float) -> float:
    """Requests a second; the first half second does not count."""
    began, count = time.perf_counter(), 0

    async def one(number: int) -> None:
        nonlocal count
        while (now := time.perf_counter()) < began + 0.5 + seconds:
            await client.ask(number := number + 1, now)
            count += began + 0.5 < time.perf_counter() < began + 0.5 + seconds

    await asyncio.gather(*(one(7 * number) for number in range(connections)))
    client.close()
    return count / seconds


def share(arguments: tuple[int, str, float, float, float, int]) -> list[Sent]:
    """In a process of its own, a copy of this one."""
    port, path, rate, seconds, start, seed = arguments
    return asyncio.run(open_loop(Client(port, path, REQUESTS), rate, seconds, start, seed))


# Bodies and labels of all test images, in an order of chance.
REQUESTS: list[tuple[bytes, tuple[str, ...]]] = []


def prepare(data: Path, num_images: int) -> None:
    files = list(read(data).test)
    random.Random(0).shuffle(files)
    for at in range(0, len(files) - num_images + 1, num_images):
        part = files[at : at + num_images]
        REQUESTS.append((form([file.data for file in part]), tuple(file.label for file in part)))


@dataclass
class Result:
    """Of one policy under one load."""

    sent: list[Sent]
    num_images: int
    deadline_ms: float

    @property
    def answered(self) -> list[Sent]:
        return [each for each in self.sent if each.status == 200]

    def row(self) -> dict[str, float]:
        met = [each for each in self.answered if each.latency_ms <= self.deadline_ms]
        latencies = [each.latency_ms for each in self.answered] or [float("nan")]
        return {
            "requests": len(self.sent),
            "of answered": percent(self.answered, self.num_images * len(self.answered)),
            "of sent": percent(self.answered, self.num_images * len(self.sent)),
            "in time": 100 * len(met) / max(1, len(self.sent)),
            "503": 100 * sum(each.status == 503 for each in self.sent) / max(1, len(self.sent)),
            "p50 ms": median(latencies),
            "p99 ms": sorted(latencies)[min(len(latencies) - 1, int(0.99 * len(latencies)))],
            "params": mean(each.params for each in self.answered) if self.answered else float("nan"),
        }


def percent(answered: Sequence[Sent], num_images: int) -> float:
    return 100 * sum(each.correct for each in answered) / max(1, num_images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument(
        "--data", type=Path, required=True, help="labelled images, as for training; the test split is sent"
    )
    parser.add_argument("--images", type=int, default=24, help="in each request")
    parser.add_argument("--deadline-ms", type=float, default=200.0)
    parser.add_argument("--min-acc", type=float, default=0.7)
    parser.add_argument("--loads", type=float, nargs="+", default=LOADS, help="times what the largest can serve")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--clients", type=int, default=2, help="processes")
    parser.add_argument("--policies", nargs="+", default=POLICIES, choices=POLICIES)
    options = parser.parse_args()
    prepare(options.data, options.images)
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M}, {processor()}, load average {os.getloadavg()[0]:.1f}")
    versions = ", ".join(f"{name} {version(name)}" for name in ("uvicorn", "onnxruntime"))
    print(f"Python {sys.version.split()[0]}, {versions}")
    print(
        f"{options.images} test images a request ({len(REQUESTS[0][0]):,} bytes), deadline {options.deadline_ms:g} ms, "
        f"min_acc {options.min_acc:g}; {options.rounds} rounds of {options.seconds:g} s"
    )
    with serving(options.zoo) as port, ProcessPoolExecutor(options.clients, get_context("fork")) as clients:
        paths = paths_of(port, options)
        results: dict[tuple[float, str], list[Result]] = {}
        capacities = []
        for number in range(options.rounds):
            capacities.append(
                capacity := asyncio.run(
                    closed_loop(Client(port, paths["largest"], REQUESTS), 4, min(3.0, options.seconds))
                )
            )
            for load in options.loads:
                for policy in options.policies:
                    rate = load * capacity / options.clients
                    # The holds of the one before are over, and what it left is answered.
                    start = time.time() + 1.5
                    seeds = [hash((number, load, client)) for client in range(options.clients)]
                    shares = [(port, paths[policy], rate, options.seconds, start, seed) for seed in seeds]
                    sent = [each for part in clients.map(share, shares) for each in part]
                    result = Result(sent, options.images, options.deadline_ms)
                    results.setdefault((load, policy), []).append(result)
                    print(
                        number,
                        load,
                        policy,
                        {key: round(value, 1) for key, value in result.row().items()},
                        file=sys.stderr,
                    )
    show(results, capacities)


def paths_of(port: int, options: argparse.Namespace) -> dict[str, str]:
    """Of the same eligible checkpoints. Each is asked once, so that all are loaded."""
    budget = {"min_acc": options.min_acc}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        smallest, largest = (
            client.get("/models", params={**budget, "prefer": prefer}).json()["selected"]
            for prefer in ("params", "accuracy")
        )
        for name, view in (("smallest", smallest), ("largest", largest)):
            cost = f"{view['params']:,} parameters, {view['macs']:,} multiply-accumulates"
            print(f"{name}: {cost}, {100 * view['accuracy']:.2f} %")
        paths = {
            "smallest": f"/predict?model={smallest['id']}&top_k=1",
            "largest": f"/predict?model={largest['id']}&top_k=1",
        }
        paths["adaptive"] = (
            f"/predict?min_acc={options.min_acc}&policy=adaptive&deadline_ms={options.deadline_ms}&top_k=1"
        )
        for path in paths.values():
            for _ in range(5):
                client.post(
                    path, content=REQUESTS[0][0], headers={"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
                )
        time.sleep(2)  # in which the levels between are loaded
    return paths


@contextmanager
def serving(zoo: Path) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [
        str(Path(sys.executable).parent / "zoo-serve"),
        "--zoo",
        str(zoo),
        "--port",
        str(port),
        "--log-level",
        "error",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(command, env=environment)
    try:
        deadline = time.monotonic() + 60
        while True:
            with suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the server did not start: {' '.join(command)}")
            time.sleep(0.1)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def show(results: dict[tuple[float, str], list[Result]], capacities: Sequence[float]) -> None:
    print(f"the largest serves {spread(capacities, 0)} requests a second: load 1")
    rows = {key: [result.row() for result in found] for key, found in results.items()}
    names = list(next(iter(rows.values()))[0])
    print(f"{'load':>5}  {'policy':9}" + "".join(f"{name:>18}" for name in names))
    for (load, policy), found in rows.items():
        print(f"{load:>5}  {policy:9}" + "".join(f"{spread([row[name] for row in found], 1):>18}" for name in names))
    for (load, policy), found in results.items():
        if policy == "adaptive":
            sent = [each for result in found for each in result.answered]
            counts = Counter((each.params, each.reason) for each in sent)
            print(
                f"load {load}: "
                + ", ".join(
                    f"{params:,} {reason} {100 * n / len(sent):.0f} %" for (params, reason), n in counts.most_common(6)
                )
            )


if __name__ == "__main__":
    main()
