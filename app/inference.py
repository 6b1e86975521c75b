"""From image bytes to labels: networks loaded once and kept, a bound on how many run at a time."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from app.metrics import Metrics
from zoo.checkpoint import Checkpoint
from zoo.predictor import Prediction, Predictor


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds."""

    decode: float
    queue: float
    forward: float


@dataclass(frozen=True, slots=True)
class Answer:
    """One list of predictions for each image, in their order."""

    predictions: list[list[Prediction]]
    timing: Timing


class PredictorCache:
    """Predictors by digest; the least recently used goes first. Each is loaded once, however many ask at a time."""

    def __init__(self, load: Callable[[str], Checkpoint], max_predictors: int, metrics: Metrics) -> None:
        self._load = load
        self._max_predictors = max_predictors
        self._metrics = metrics
        self._lock = threading.Lock()
        self._futures: OrderedDict[str, Future[Predictor]] = OrderedDict()

    def get(self, digest: str) -> Predictor:
        """Blocks while the network is loaded. Raises what loading raises, and forgets the failure."""
        with self._lock:
            future = self._futures.get(digest)
            mine = future is None
            if future is None:
                future = self._futures[digest] = Future()
            self._futures.move_to_end(digest)
        if mine:
            self._fill(future, digest)
        return future.result()

    def _fill(self, future: Future[Predictor], digest: str) -> None:
        try:
            future.set_result(Predictor(self._load(digest)))
        except BaseException as error:
            with self._lock:
                self._futures.pop(digest, None)
            future.set_exception(error)
            return
        with self._lock:
            while len(self._futures) > self._max_predictors:
                self._futures.popitem(last=False)
            self._metrics.loaded.set(len(self._futures))


class QueueFullError(Exception):
    pass


class Inference:
    """Runs predictions on threads, at most one for each core; `max_queue` more wait their turn."""

    def __init__(self, predictors: PredictorCache, max_queue: int, metrics: Metrics) -> None:
        self._predictors = predictors
        self._max_queue = max_queue
        self._num_waiting = 0
        self._metrics = metrics
        self._turn = asyncio.Semaphore(os.cpu_count() or 1)

    async def probabilities(self, digest: str, pixels: np.ndarray) -> tuple[np.ndarray, Timing]:
        """uint8 (batch, height, width, channels) -> (batch, classes). Raises QueueFullError at once."""
        if self._turn.locked() and self._num_waiting >= self._max_queue:
            raise QueueFullError
        started = time.perf_counter()
        predictor = await asyncio.to_thread(self._predictors.get, digest)
        scores = await asyncio.to_thread(predictor.probabilities, pixels)
        return scores, Timing(decode=0.0, queue=0.0, forward=round((time.perf_counter() - started) * 1000, 3))

    async def classify(self, digest: str, images: Sequence[bytes], top_k: int) -> Answer:
        """Raises ImageError, which names the image, where one does not decode; QueueFullError at once."""
        if self._turn.locked() and self._num_waiting >= self._max_queue:
            raise QueueFullError
        arrived = time.perf_counter()
        self._num_waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._num_waiting -= 1
        try:
            waited = time.perf_counter() - arrived
            answer = await asyncio.to_thread(self._run, digest, images, top_k, waited)
        finally:
            self._turn.release()
        self._metrics.images.labels(digest[:12]).inc(len(images))
        for stage in ("decode", "queue", "forward"):
            self._metrics.stage_seconds.labels(stage).observe(getattr(answer.timing, stage) / 1000)
        return answer

    def _run(self, digest: str, images: Sequence[bytes], top_k: int, waited: float) -> Answer:
        predictor = self._predictors.get(digest)
        started = time.perf_counter()
        pixels = predictor.decode(images)
        decoded = time.perf_counter()
        predictions = predictor.top_k(predictor.probabilities(pixels), top_k)
        forward = time.perf_counter() - decoded
        timing = Timing(
            decode=round((decoded - started) * 1000, 3),
            queue=round(waited * 1000, 3),
            forward=round(forward * 1000, 3),
        )
        return Answer(predictions, timing)

    def warm(self, digest: str) -> None:
        """Loads the network and runs it once, on a black image."""
        predictor = self._predictors.get(digest)
        predictor.probabilities(np.zeros((1, *predictor.image_shape), dtype=np.uint8))
