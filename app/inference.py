"""From image bytes to scores: networks loaded once and kept, each with a queue of its own.

What takes long (large or unusual images, long batches, loading) runs on threads; what takes less than the way to a
thread and back runs on the event loop.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from app.batcher import Batcher, Pixels
from app.metrics import Metrics
from zoo import quick_images
from zoo.checkpoint import Checkpoint
from zoo.errors import ImageError
from zoo.predictor import Prediction, Predictor, Scores

# About 1 ms each, by either codec.
_MAX_PIXELS_ON_LOOP = 65_536
_MAX_FILES_ON_LOOP = 32
# More than there are cores: the system divides the cores among checkpoints, so that none waits for another's queue.
_NUM_THREADS = 32


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds."""

    decode: float
    queue: float
    forward: float


@dataclass(frozen=True, slots=True)
class Answer:
    """One row of scores for each image, in their order."""

    scores: Scores
    timing: Timing
    predictor: Predictor
    top_k: int

    @property
    def predictions(self) -> list[list[Prediction]]:
        return self.predictor.top_k(self.scores, self.top_k)

    def ranked(self) -> list[list[dict[str, Any]]]:
        """`predictions`, ready to be JSON."""
        return self.predictor.ranked(self.scores, self.top_k)


class QueueFullError(Exception):
    pass


class _Network:
    """A loaded network, its batches, and the few threads on which its images are decoded."""

    def __init__(self, predictor: Predictor, threads: ThreadPoolExecutor, metrics: Metrics) -> None:
        self.predictor = predictor
        self.batcher = Batcher(predictor, threads, metrics)
        self._threads = threads
        self._waiting = metrics.waiting
        self._decoding = asyncio.Semaphore(os.cpu_count() or 1)

    async def decode(self, images: Sequence[bytes]) -> Pixels:
        if len(images) <= _MAX_FILES_ON_LOOP and quick_images.work(images) <= _MAX_PIXELS_ON_LOOP:
            return self.predictor.decode(images)
        with self._waiting.track_inprogress():
            await self._decoding.acquire()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self.predictor.decode, images)
        finally:
            self._decoding.release()


class Inference:
    """Belongs to one event loop. At most `max_queue` predictions of a checkpoint wait for one that is under way."""

    def __init__(
        self, load: Callable[[str], Checkpoint], max_loaded_bytes: int, max_queue: int, metrics: Metrics
    ) -> None:
        self._load = load
        self._max_loaded_bytes = max_loaded_bytes
        self._max_queue = max_queue
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="inference")
        # The least recently used first; those that are being loaded too, so that each is loaded once.
        self._networks: OrderedDict[str, asyncio.Task[_Network]] = OrderedDict()
        self._under_way: Counter[str] = Counter()

    def close(self) -> None:
        self._threads.shutdown()

    async def classify(self, digest: str, images: Sequence[bytes], top_k: int) -> Answer:
        """Raises ImageError, which names the image, where one does not decode; QueueFullError at once."""
        with self._admitted(digest):
            network = await self._network(digest)
            started = time.perf_counter()
            pixels = await network.decode(images)
            decode_seconds = time.perf_counter() - started
            scores, timing = await self._run(digest, network, pixels, decode_seconds)
        return Answer(scores, timing, network.predictor, top_k)

    async def probabilities(self, digest: str, pixels: Pixels) -> tuple[Scores, Timing]:
        """uint8 (n, height, width, channels) -> (n, classes). Raises ImageError where the pixels do not fit."""
        with self._admitted(digest):
            network = await self._network(digest)
            wanted = network.predictor.image_shape
            if pixels.dtype != "uint8" or pixels.ndim != 4 or pixels.shape[1:] != wanted or not len(pixels):
                raise ImageError(
                    f"the network takes uint8 images of shape (n, {', '.join(map(str, wanted))}), "
                    f"the image came as {pixels.dtype} {pixels.shape}"
                )
            return await self._run(digest, network, pixels, 0.0)

    async def _run(
        self, digest: str, network: _Network, pixels: Pixels, decode_seconds: float
    ) -> tuple[Scores, Timing]:
        batched = await network.batcher.probabilities(pixels)
        timing = Timing(
            decode=round(decode_seconds * 1000, 3),
            queue=round(batched.queue_seconds * 1000, 3),
            forward=round(batched.forward_seconds * 1000, 3),
        )
        self._metrics.predicted(digest, len(pixels), timing.decode, timing.queue, timing.forward)
        return batched.scores, timing

    async def warm(self, digest: str) -> None:
        """Loads the network, which runs it too."""
        await self._network(digest)

    def may_wait(self, digest: str) -> bool:
        """Whether a prediction may have to wait long enough for its client to go away meanwhile."""
        task = self._networks.get(digest)
        return task is None or not task.done() or task.result().batcher.waits

    @contextmanager
    def _admitted(self, digest: str) -> Iterator[None]:
        if self._under_way[digest] > self._max_queue:
            raise QueueFullError
        self._under_way[digest] += 1
        self._metrics.under_way.inc()
        try:
            yield
        finally:
            self._metrics.under_way.dec()
            self._under_way[digest] -= 1
            if not self._under_way[digest]:
                del self._under_way[digest]

    async def _network(self, digest: str) -> _Network:
        """Raises what loading raises, and forgets the failure."""
        task = self._networks.get(digest)
        if task is None:
            task = self._networks[digest] = asyncio.create_task(self._loaded(digest))
        self._networks.move_to_end(digest)
        if task.done():
            return task.result()
        with self._metrics.waiting.track_inprogress():
            return await asyncio.shield(task)  # whoever gives up does so for itself

    async def _loaded(self, digest: str) -> _Network:
        try:
            network = await asyncio.get_running_loop().run_in_executor(self._threads, self._build, digest)
        except BaseException:
            del self._networks[digest]
            raise
        asyncio.get_running_loop().call_soon(self._evict)
        return network

    def _build(self, digest: str) -> _Network:
        return _Network(Predictor(self._load(digest)), self._threads, self._metrics)

    def _evict(self) -> None:
        """Until the loaded networks fit; the last one stays, however large. Who still uses one keeps it to the end."""
        sizes = {digest: task.result().predictor.size_bytes for digest, task in self._networks.items() if task.done()}
        total = sum(sizes.values())
        for digest in list(sizes)[:-1]:
            if total <= self._max_loaded_bytes:
                break
            del self._networks[digest]
            total -= sizes.pop(digest)
        self._metrics.loaded.set(len(sizes))
        self._metrics.loaded_bytes.set(total)
