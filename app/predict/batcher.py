"""Micro-batches of one network: what arrived while the last batch ran, or in one turn of the event loop, runs together.

There is no timer: an idle network runs the first image at once. A wait of 2 ms would cost latency with one client and
win nothing with sixteen.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from app.admission.work import ClosingError, Work
from app.monitoring.metrics import Metrics
from app.predict.estimates import MAX_BATCH_IMAGES, ForwardTimes, Slowness
from zoo.network.cost import activation_bytes
from zoo.runtime.predictor import Predictor, Scores

Pixels = npt.NDArray[np.uint8]

# The event loop does nothing else meanwhile; a hop to a thread and back costs a tenth of a millisecond, on a busy
# core several.
_MAX_SECONDS_ON_LOOP = 0.003
# A batch on a thread cannot be stopped; what was given up meanwhile is left out of the next.
_MAX_BATCH_SECONDS = 0.5
# When a network is loaded.
_MAX_TRIAL_RUNS = 5
_TRIAL_SECONDS = 0.02
_MAX_BATCH_BYTES = 64 * 1024 * 1024


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

    def __init__(self, predictor: Predictor, work: Work, metrics: Metrics, slowness: Slowness) -> None:
        """Runs the network a few times, to know what an image costs: the first time is not like the others, and of
        those the shortest was disturbed the least."""
        self.predictor = predictor
        self._work = work
        self._metrics = metrics
        self._slowness = slowness
        self._image_bytes = activation_bytes(predictor.descriptor.architecture.graph())
        self._waiting: deque[_Job] = deque()
        self._is_scheduled = False
        self._on_thread: asyncio.Task[_Forward] | None = None
        self._on_thread_since = 0.0
        blank = np.zeros((1, *predictor.image_shape), np.uint8)
        self._times = ForwardTimes(0.0)
        first = self._forward(blank, ()).seconds
        num_runs = max(1, min(_MAX_TRIAL_RUNS, int(_TRIAL_SECONDS / max(first, 1e-6))))
        self._times = ForwardTimes(min(self._forward(blank, ()).seconds for _ in range(num_runs)))

    @property
    def max_images(self) -> int:
        """Of one batch: as many as fit into its memory and its time, which counts where batches win nothing."""
        seconds = max(self._times.seconds_per_image, 1e-6)
        fitting = min(_MAX_BATCH_BYTES // max(1, self._image_bytes), int(_MAX_BATCH_SECONDS / seconds))
        return max(1, min(MAX_BATCH_IMAGES, fitting))

    def forward_seconds(self, num_images: int) -> float:
        """What a forward pass takes at the moment, by those before."""
        return self._times.seconds(num_images) * self._slowness.factor

    def usual_seconds(self, num_images: int) -> float:
        """What a forward pass takes on average, over the last hundred or so of any network."""
        return self._times.seconds(num_images) * self._slowness.usual

    def remaining_seconds(self, num_images: int) -> float:
        """Until so many images have run, those first that run already on a thread."""
        since = time.perf_counter() - self._on_thread_since if self._on_thread is not None else 0.0
        return max(0.0, self.forward_seconds(num_images) - since) if num_images else 0.0

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
        if self._times.seconds(len(pixels)) > _MAX_SECONDS_ON_LOOP:
            num_bytes = self._image_bytes * min(len(pixels), self.max_images)
            running = loop.create_task(self._work.run_network(num_bytes, self._forward, pixels, jobs))
            self._on_thread, self._on_thread_since = running, time.perf_counter()
            running.add_done_callback(partial(self._finish, jobs))
            return
        future: asyncio.Future[_Forward] = loop.create_future()
        try:
            future.set_result(self._forward(pixels, ()))
        except Exception as error:
            future.set_exception(error)
        self._finish(jobs, future)

    def _take(self) -> list[_Job]:
        """The next batch: whole jobs in order (FIFO) while they fit; a larger job is a batch of its own."""
        jobs: list[_Job] = []
        num_images = 0
        num_before, max_images = len(self._waiting), self.max_images
        while self._waiting:
            if self._waiting[0].done.cancelled():
                self._waiting.popleft()
                continue
            num_images += len(self._waiting[0].pixels)
            if jobs and num_images > max_images:
                break
            jobs.append(self._waiting.popleft())
        if num_before:
            self._metrics.waiting.dec(num_before - len(self._waiting))
        return jobs

    def _forward(self, pixels: Pixels, jobs: Sequence[_Job]) -> _Forward:
        """In parts, between which it ends if nobody waits any more for any of the jobs. Raises ClosingError."""
        started = time.perf_counter()
        parts = []
        max_images = self.max_images
        for start in range(0, len(pixels), max_images):
            if jobs and (self._work.is_closing or all(job.done.cancelled() for job in jobs)):
                raise ClosingError
            parts.append(self.predictor.probabilities(pixels[start : start + max_images]))
        scores = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return _Forward(scores, started, time.perf_counter() - started)

    def _finish(self, jobs: Sequence[_Job], ran: asyncio.Future[_Forward]) -> None:
        self._on_thread = None
        error = ClosingError() if ran.cancelled() else ran.exception()
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
        self._slowness.observe(self._times.seconds(num_images), forward.seconds)
        self._times.observe(num_images, forward.seconds)
        start = 0
        for job in jobs:
            stop = start + len(job.pixels)
            if not job.done.done():
                batched = Batched(forward.scores[start:stop], forward.started - job.arrived, forward.seconds)
                job.done.set_result(batched)
            start = stop
