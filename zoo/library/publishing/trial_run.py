"""The other side of trial.py: runs networks that nobody has run before, each in a process of its own, within limits.

    server ──socket──► this program, which has imported what it takes ──fork──► watcher ──fork──► runner

For each network the server sends one end of a socket. Through it comes one line of JSON (see trial.py), the ONNX
model, and the images to measure on; back goes one line of JSON. What goes beyond the limits ends the runner, and
nothing else; of that the watcher tells. A fork takes milliseconds, a start of Python with these imports most of a
second. The program ends when the server does.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

# Started isolated, so that nothing is imported from wherever the server was started.
sys.path.append(str(Path(__file__).parents[3]))

from zoo.runtime import onnx_runtime

_MAX_BATCH = 100


def run(task: dict[str, Any], source: BinaryIO) -> dict[str, Any]:
    model = source.read(task["model_bytes"])
    most_seconds = int(task["cpu_seconds"]) + 1
    # SIGXCPU first: SIGKILL, which comes at the second limit, looks as if it were for want of memory.
    resource.setrlimit(resource.RLIMIT_CPU, (most_seconds, most_seconds + 1))
    # Address space as it is after the imports, and what the network may take.
    limit = _status_bytes("VmSize") + task["memory_bytes"] + 2 * len(model)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = _status_bytes("VmRSS")
    options = onnx_runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False
    session = onnx_runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    shape = tuple(task["shape"])
    walls, busy = [], time.process_time()
    for image in _trial_images(shape):
        started = time.perf_counter()
        logits, probabilities = session.run(["logits", "probabilities"], {"images": image[None]})
        walls.append(time.perf_counter() - started)
        if not (np.isfinite(logits).all() and np.isfinite(probabilities).all()):
            return {"error": "its scores are not finite"}
    # The clock of CPU time may tick in hundredths of a second; that of the wall counts what others do.
    seconds = min(min(walls), (time.process_time() - busy) / len(walls) + 0.01)
    memory = max(_status_bytes("VmHWM") - before, 0)
    found: dict[str, Any] = {"seconds": seconds, "memory_bytes": memory}
    if found["seconds"] * task["num_images"] > task["cpu_seconds"]:
        return {**found, "too_slow": True}
    batch = max(1, min(_MAX_BATCH, task["memory_bytes"] // max(memory, 1)))
    predicted: list[int] = []
    while len(predicted) < task["num_images"]:
        count = min(batch, task["num_images"] - len(predicted))
        pixels = np.frombuffer(source.read(count * int(np.prod(shape))), np.uint8).reshape(count, *shape)
        [logits] = session.run(["logits"], {"images": pixels})
        predicted += logits.argmax(1).tolist()
    return {**found, "predicted": predicted}


def _trial_images(shape: tuple[int, ...]) -> list[Any]:
    """Black, white, gray and noise: a network that overflows does so on one of them sooner than on a photo."""
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return [*(np.full(shape, level, np.uint8) for level in (0, 255, 128)), noise]


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def serve(control: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # watchers are not waited for
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        if os.fork() == 0:
            control.close()
            watch(descriptors[0])
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def watch(descriptor: int) -> None:
    """Starts the runner and says how it ended, where it could not say so itself."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with socket.socket(fileno=descriptor) as wire, wire.makefile("rb") as source:
        task = json.loads(source.readline())
        runner = os.fork()
        if runner == 0:
            answer(task, source, wire)
            os._exit(0)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(runner, signal.SIGKILL))
        signal.alarm(int(task["wall_seconds"]))
        started = time.monotonic()
        _, status = os.waitpid(runner, 0)
        if status != 0:
            is_late = time.monotonic() - started >= int(task["wall_seconds"])
            wire.sendall(json.dumps({"out_of_patience": is_late, "signal": status & 0x7F}).encode())
        wire.shutdown(socket.SHUT_WR)
        while wire.recv(1 << 20):  # closing on what is still being sent would take the answer away
            pass


def answer(task: dict[str, Any], source: BinaryIO, wire: socket.socket) -> None:
    try:
        found = run(task, source)
    except MemoryError:
        found = {"error": "out of memory", "out_of_memory": True}
    except Exception as error:  # whatever ONNX Runtime raises, it is the network's fault
        found = {"error": str(error)[:300], "out_of_memory": "alloc" in str(error)}
    wire.sendall(json.dumps(found).encode())


if __name__ == "__main__":
    serve(socket.socket(fileno=sys.stdin.fileno()))
