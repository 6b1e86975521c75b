"""What a checkpoint must be before it is published: within limits that are computed, then run once in a process of its
own, whose time and memory are bounded and measured."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field

from zoo.checkpoint.file import Checkpoint
from zoo.errors import BusyError, CheckpointError
from zoo.images.decode import Pixels
from zoo.network.cost import num_macs, num_params
from zoo.network.graph import output_shapes
from zoo.runtime import onnx_model

_PROGRAM = Path(__file__).with_name("trial_run.py")
_MIB = 1024 * 1024
# Black, white, gray and noise, and as much again for making the session.
_TRIAL_RUNS = 8
# A machine that others use may take so much longer than the time which is counted.
_PATIENCE, _START_SECONDS = 10, 30


class Limits(BaseModel):
    """Of what is published. Each is a setting of the server, in capitals after ZOO_, by which errors name it."""

    max_model_header_bytes: Annotated[int, Field(ge=1, description="Longest header: descriptor and tensor names.")] = (
        _MIB
    )
    max_model_classes: Annotated[int, Field(ge=2, description="Most classes of a network.")] = 4096
    max_model_label_bytes: Annotated[int, Field(ge=1, description="Longest names of all its classes together.")] = (
        64 * 1024
    )
    max_model_macs: Annotated[int, Field(ge=1, description="Most multiply-accumulates for one image.")] = 10**10
    max_model_activation_bytes: Annotated[
        int, Field(ge=1, description="Most that all layers' outputs together take for one image.")
    ] = 512 * _MIB
    max_model_memory_bytes: Annotated[
        int, Field(ge=_MIB, description="Most memory for one image, as measured when it is published.")
    ] = 512 * _MIB
    max_model_seconds: Annotated[
        float, Field(gt=0, le=3600, description="Most CPU time for one image, as measured when it is published.")
    ] = 2.0
    max_eval_seconds: Annotated[
        float, Field(gt=0, le=86400, description="Most CPU time for measuring a test accuracy.")
    ] = 600.0


@dataclass(frozen=True, slots=True)
class Trial:
    """CPU seconds and bytes for one image; the class of each test image, if it was asked about some."""

    seconds: float
    memory_bytes: int
    predicted: tuple[int, ...]


def check_bounds(checkpoint: Checkpoint, header_bytes: int, limits: Limits) -> None:
    """Raises CheckpointError. That the tensors are those of the architecture is known."""
    descriptor = checkpoint.descriptor
    graph = descriptor.architecture.graph()
    expansions, params = descriptor.lineage.expansions, num_params(graph)
    if expansions and expansions[-1].params_after != params:
        raise CheckpointError(
            f"the network has {params} parameters, its last expansion says {expansions[-1].params_after}"
        )
    channels, height, width = graph.input_shape
    # float32 outputs, and the image as bytes and in the four forms that it has before the first layer.
    activations = 4 * sum(prod(shape) for shape in output_shapes(graph).values()) + 18 * channels * height * width
    for found, name, what in (
        (header_bytes, "max_model_header_bytes", "bytes of header"),
        (len(descriptor.classes), "max_model_classes", "classes"),
        (sum(len(label.encode()) for label in descriptor.classes), "max_model_label_bytes", "bytes of class names"),
        (num_macs(graph), "max_model_macs", "multiply-accumulates for an image"),
        (activations, "max_model_activation_bytes", "bytes of layers' outputs for an image"),
    ):
        limit = getattr(limits, name)
        if found > limit:
            raise CheckpointError(f"it has {found:,} {what}, at most {limit:,} are taken (ZOO_{name.upper()})")


def run(checkpoint: Checkpoint, limits: Limits, images: Iterable[Pixels] = (), num_images: int = 0) -> Trial:
    """Runs the network on four images, then on `images`: batches of uint8 (n, height, width, channels).

    Raises CheckpointError where its scores are not finite, or it takes more than the limits; BusyError where the
    machine had no time for it.
    """
    architecture = checkpoint.descriptor.architecture
    model = onnx_model.build(checkpoint)
    cpu_seconds = _TRIAL_RUNS * limits.max_model_seconds + (limits.max_eval_seconds if num_images else 0)
    task = {
        "model_bytes": len(model),
        "shape": (architecture.input_height, architecture.input_width, architecture.input_channels),
        "num_images": num_images,
        "memory_bytes": limits.max_model_memory_bytes,
        "cpu_seconds": cpu_seconds,
        "wall_seconds": (wall_seconds := _START_SECONDS + _PATIENCE * cpu_seconds),
    }
    found = _answer([json.dumps(task).encode() + b"\n", model], images, wall_seconds)
    if found.get("out_of_memory"):
        raise CheckpointError(
            f"an image takes the network more than {limits.max_model_memory_bytes:,} bytes of memory "
            "(ZOO_MAX_MODEL_MEMORY_BYTES)"
        )
    if found.get("out_of_time"):
        raise CheckpointError(_too_slow(limits))
    if "error" in found:
        raise CheckpointError(f"the network was run, and {found['error']}")
    if found["memory_bytes"] > limits.max_model_memory_bytes:
        raise CheckpointError(
            f"an image takes the network {found['memory_bytes']:,} bytes of memory, at most "
            f"{limits.max_model_memory_bytes:,} are taken (ZOO_MAX_MODEL_MEMORY_BYTES)"
        )
    if found["seconds"] > limits.max_model_seconds:
        raise CheckpointError(_too_slow(limits))
    if found.get("too_slow"):
        raise CheckpointError(
            f"at {found['seconds']:.3f} s an image, its accuracy on {num_images:,} test images takes longer to measure "
            f"than {limits.max_eval_seconds:g} s (ZOO_MAX_EVAL_SECONDS)"
        )
    return Trial(found["seconds"], found["memory_bytes"], tuple(found["predicted"]))


def _too_slow(limits: Limits) -> str:
    return f"an image takes the network more than {limits.max_model_seconds:g} s (ZOO_MAX_MODEL_SECONDS)"


class _Runner:
    """The program that runs networks, started when it is first needed and once more if it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Ahead of time: it takes most of a second. Raises BusyError."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return
            self._stop()
            self._control, theirs = socket.socketpair()
            # One thread, so that it can be forked.
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            with theirs:
                try:
                    self._process = subprocess.Popen(  # noqa: S603  (our own program)
                        [sys.executable, "-I", str(_PROGRAM)],
                        stdin=theirs.fileno(),
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        env=environment,
                    )
                except OSError as error:
                    raise BusyError(f"no process can be started to run the network in: {error.strerror}") from error

    def connect(self) -> socket.socket:
        """To a new process for one network. Raises BusyError."""
        for _ in range(2):
            self.start()
            ours, theirs = socket.socketpair()
            with theirs:
                try:
                    assert self._control is not None
                    socket.send_fds(self._control, [b"."], [theirs.fileno()])
                    return ours
                except OSError:  # it ended between two networks
                    ours.close()
        raise BusyError("the process that runs networks ends as soon as it is started: try again")

    def stop(self) -> None:
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._control = self._process = None


_RUNNER = _Runner()
start_runner = _RUNNER.start
atexit.register(_RUNNER.stop)


def _answer(start: list[bytes], images: Iterable[Pixels], wall_seconds: float) -> dict[str, Any]:
    with _RUNNER.connect() as wire:
        wire.settimeout(wall_seconds + _START_SECONDS)
        answered = select.poll()
        answered.register(wire, select.POLLIN)
        try:
            for chunk in start:
                wire.sendall(chunk)
            for batch in images:
                if answered.poll(0):
                    break
                wire.sendall(np.ascontiguousarray(batch).tobytes())
            wire.shutdown(socket.SHUT_WR)
        except TimeoutError as error:
            raise BusyError("the process that runs networks does not answer: try again") from error
        except OSError:
            pass  # it has ended, and says why, or how it ended does
        said = _read(wire)
    found: dict[str, Any] = json.loads(said) if said else {"out_of_patience": True}
    if found.get("out_of_patience"):
        raise BusyError(f"the network was not run within {wall_seconds:g} s, for want of CPU time: publish it again")
    ended_by = found.get("signal")
    if ended_by == signal.SIGXCPU:
        return {"out_of_time": True}
    if ended_by is not None:
        # bad_alloc in ONNX Runtime's C++ aborts; the system's OOM killer kills.
        by_memory = ended_by in (signal.SIGABRT, signal.SIGKILL, signal.SIGSEGV)
        return {"out_of_memory": by_memory, "error": f"ended by signal {ended_by}"}
    return found


def _read(wire: socket.socket) -> bytes:
    parts = []
    try:
        while part := wire.recv(1 << 20):
            parts.append(part)
    except OSError:
        return b""
    return b"".join(parts)
