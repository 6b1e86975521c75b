"""Micro-batches of one network: what arrived while the last batch ran, or in one turn of the event loop, runs together.

There is no timer: an idle network runs the first image at once. A wait of 2 ms would cost latency with one client and
win nothing with sixteen.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from app.metrics import Metrics
from zoo.predictor import Predictor, Scores

Pixels = npt.NDArray[np.uint8]

# Larger batches are no faster for each image (benchmarks of ONNX Runtime on one core) and take memory.
MAX_BATCH_IMAGES = 32
# The event loop does nothing else meanwhile; a hop to a thread and back costs a tenth of a millisecond, on a busy
# core several.
_MAX_SECONDS_ON_LOOP = 0.003


@dataclass(frozen=True, slots=True)
class Batched:
    scores: Scores
    queue_seconds: float
    forward_seconds: float


@dataclass(frozen=True, slots=True)
class _Job:
    pixels: Pixels
    arrived: float
    done: asyncio.Future[Batched]


@dataclass(frozen=True, slots=True)
class _Forward:
    scores: Scores
    started: float
    seconds: float


class Batcher:
    """Belongs to one event loop."""

    def __init__(self, predictor: Predictor, threads: Executor, metrics: Metrics) -> None:
        """Runs the network twice, to know what an image costs: the first time is not like the others."""
        self.predictor = predictor
        self._threads = threads
        self._metrics = metrics
        self._waiting: deque[_Job] = deque()
        self._is_scheduled = False
        self._is_on_thread = False
        blank = np.zeros((1, *predictor.image_shape), np.uint8)
        self._forward(blank)
        self._seconds_per_image = self._forward(blank).seconds

    @property
    def waits(self) -> bool:
        """Whether a prediction that comes now has to wait for a batch that runs on a thread."""
        return self._is_on_thread

    async def probabilities(self, pixels: Pixels) -> Batched:
        """uint8 (batch, height, width, channels). Cancelling this takes the images out of their batch."""
        loop = asyncio.get_running_loop()
        job = _Job(pixels, time.perf_counter(), loop.create_future())
        self._waiting.append(job)
        self._metrics.waiting.inc()
        if not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._next)
        return await job.done

    def _next(self) -> None:
        jobs = self._take()
        if not jobs:
            self._is_scheduled = False
            return
        pixels = jobs[0].pixels if len(jobs) == 1 else np.concatenate([job.pixels for job in jobs])
        loop = asyncio.get_running_loop()
        if len(pixels) * self._seconds_per_image > _MAX_SECONDS_ON_LOOP:
            self._is_on_thread = True
            running = loop.run_in_executor(self._threads, self._forward, pixels)
            running.add_done_callback(partial(self._finish, jobs))
            return
        future: asyncio.Future[_Forward] = loop.create_future()
        try:
            future.set_result(self._forward(pixels))
        except Exception as error:
            future.set_exception(error)
        self._finish(jobs, future)

    def _take(self) -> list[_Job]:
        """Whole jobs, in order, as long as they fit into one batch; a job that is larger is a batch of its own."""
        jobs: list[_Job] = []
        num_images = 0
        num_before = len(self._waiting)
        while self._waiting:
            if self._waiting[0].done.cancelled():
                self._waiting.popleft()
                continue
            num_images += len(self._waiting[0].pixels)
            if jobs and num_images > MAX_BATCH_IMAGES:
                break
            jobs.append(self._waiting.popleft())
        if num_before:
            self._metrics.waiting.dec(num_before - len(self._waiting))
        return jobs

    def _forward(self, pixels: Pixels) -> _Forward:
        started = time.perf_counter()
        parts = [
            self.predictor.probabilities(pixels[start : start + MAX_BATCH_IMAGES])
            for start in range(0, len(pixels), MAX_BATCH_IMAGES)
        ]
        scores = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return _Forward(scores, started, time.perf_counter() - started)

    def _finish(self, jobs: Sequence[_Job], ran: asyncio.Future[_Forward]) -> None:
        self._is_on_thread = False
        error = ran.exception()
        if error is None:
            self._hand_out(jobs, ran.result())
        else:
            for job in jobs:
                if not job.done.done():
                    job.done.set_exception(error)
        # In the loop's next turn, after it has read what came meanwhile.
        asyncio.get_running_loop().call_soon(self._next)

    def _hand_out(self, jobs: Sequence[_Job], forward: _Forward) -> None:
        num_images = len(forward.scores)
        self._metrics.batch_images.observe(num_images)
        measured = forward.seconds / num_images
        # Down at once, up slowly: a busy machine makes a batch look longer than it is, nothing makes it look shorter.
        self._seconds_per_image = min(measured, self._seconds_per_image + (measured - self._seconds_per_image) / 32)
        start = 0
        for job in jobs:
            stop = start + len(job.pixels)
            if not job.done.done():
                batched = Batched(forward.scores[start:stop], forward.started - job.arrived, forward.seconds)
                job.done.set_result(batched)
            start = stop
