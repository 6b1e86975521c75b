"""From image bytes to scores: networks loaded once and kept, each with a queue of its own.

What takes long (large or unusual images, long batches, loading) runs on threads, within the process's one bound on
memory (app/admission/work.py); what takes less than the way to a thread and back runs on the event loop. Cancelling a
call takes its images out of every queue.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from app.admission.work import QueueFullError, Work
from app.monitoring.metrics import Metrics, TimingMs
from app.predict.batcher import Batcher, Pixels
from app.predict.estimates import Slowness
from zoo.checkpoint.file import Checkpoint
from zoo.errors import ImageError
from zoo.images.header import Header
from zoo.network.cost import activation_bytes
from zoo.runtime.predictor import Prediction, Predictor, Scores, read_headers

# About 1 ms each, by either codec.
_MAX_PIXELS_ON_LOOP = 65_536
_MAX_FILES_ON_LOOP = 32
# Few enough that even to look at their headers takes no longer.
_MAX_BYTES_ON_LOOP = 64 * 1024
# A tenth of a second: so long one request's images are decoded before another's turn, or before anybody asks whether
# they are still wanted. One image may take longer.
_MAX_PIXELS_AT_ONCE = 2_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    """One row of scores for each image, in their order."""

    scores: Scores
    timing: TimingMs
    predictor: Predictor
    top_k: int

    @property
    def predictions(self) -> list[list[Prediction]]:
        return self.predictor.top_k(self.scores, self.top_k)

    def ranked(self) -> list[list[dict[str, Any]]]:
        """`predictions`, ready to be JSON."""
        return self.predictor.ranked(self.scores, self.top_k)


class Network:
    """A loaded network and its batches."""

    def __init__(self, predictor: Predictor, work: Work, metrics: Metrics, slowness: Slowness) -> None:
        self.predictor = predictor
        self.batcher = Batcher(predictor, work, metrics, slowness)
        self._work = work

    async def decode(self, images: Sequence[bytes]) -> Pixels:
        """Raises ImageError, QueueFullError."""
        num_bytes = sum(map(len, images))
        if num_bytes <= _MAX_BYTES_ON_LOOP and len(images) <= _MAX_FILES_ON_LOOP:
            headers = read_headers(images, of_strangers=True)
            if all(header.is_plain for header in headers) and sum(h.work for h in headers) <= _MAX_PIXELS_ON_LOOP:
                return self.predictor.pixels(headers)
        else:
            headers = await self._work.decode(num_bytes, partial(read_headers, of_strangers=True), images)
        parts = [
            await self._work.decode(max(h.memory_bytes for h in headers[part]), self.predictor.pixels, headers, part)
            for part in _parts(headers)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _parts(headers: Sequence[Header]) -> Iterator[slice]:
    """Slices of the images that are decoded in one go."""
    start, work = 0, 0
    for index, header in enumerate(headers):
        if index > start and work + header.work > _MAX_PIXELS_AT_ONCE:
            yield slice(start, index)
            start, work = index, 0
        work += header.work
    yield slice(start, len(headers))


class Inference:
    """Belongs to one event loop. At most `max_queue` predictions of a checkpoint wait for one that is under way."""

    def __init__(
        self,
        load: Callable[[str], Checkpoint],
        work: Work,
        max_loaded_bytes: int,
        max_queue: int,
        metrics: Metrics,
    ) -> None:
        self.work = work
        self._load = load
        self._max_loaded_bytes = max_loaded_bytes
        self.max_queue = max_queue
        self._metrics = metrics
        self._slowness = Slowness()
        # The least recently used first; those that are being loaded too, so that each is loaded once.
        self._networks: OrderedDict[str, asyncio.Task[Network]] = OrderedDict()
        self._under_way: Counter[str] = Counter()
        # Of those under way.
        self._num_images: Counter[str] = Counter()
        # How long the last one took.
        self.load_seconds = 0.05

    async def classify(self, digest: str, images: Sequence[bytes], top_k: int) -> Answer:
        """Raises ImageError, which names the image, where one does not decode; QueueFullError at once."""
        with self._admitted(digest, len(images)):
            network = await self.network(digest)
            started = time.perf_counter()
            pixels = await network.decode(images)
            decode_seconds = time.perf_counter() - started
            scores, timing = await self._run(digest, network, pixels, decode_seconds)
        return Answer(scores, timing, network.predictor, top_k)

    async def probabilities(
        self, digest: str, pixels: Pixels, decode_seconds: float = 0.0, waited_seconds: float = 0.0
    ) -> tuple[Scores, TimingMs]:
        """uint8 (n, height, width, channels) -> (n, classes). Raises ImageError where the pixels do not fit.

        What decoding them took, and the wait since, are counted with the rest.
        """
        with self._admitted(digest, len(pixels)):
            network = await self.network(digest)
            wanted = network.predictor.image_shape
            if pixels.dtype != "uint8" or pixels.ndim != 4 or pixels.shape[1:] != wanted or not len(pixels):
                raise ImageError(
                    f"the network takes uint8 images of shape (n, {', '.join(map(str, wanted))}), "
                    f"the image came as {pixels.dtype} {pixels.shape}"
                )
            return await self._run(digest, network, pixels, decode_seconds, waited_seconds)

    async def _run(
        self, digest: str, network: Network, pixels: Pixels, decode_seconds: float, waited_seconds: float = 0.0
    ) -> tuple[Scores, TimingMs]:
        batched = await network.batcher.probabilities(pixels)
        timing = TimingMs(
            decode=round(decode_seconds * 1000, 3),
            queue=round((waited_seconds + batched.queue_seconds) * 1000, 3),
            forward=round(batched.forward_seconds * 1000, 3),
        )
        self._metrics.predicted(digest, len(pixels), timing.decode, timing.queue, timing.forward)
        return batched.scores, timing

    def loaded(self, digest: str) -> Network | None:
        """The network, if it is in memory."""
        task = self._networks.get(digest)
        return task.result() if task is not None and task.done() else None

    def remaining_seconds(self) -> dict[str, float]:
        """By network with work in its queue: seconds until that is done."""
        networks = ((digest, count, self.loaded(digest)) for digest, count in self._num_images.items())
        return {
            digest: self.load_seconds if network is None else network.batcher.remaining_seconds(count)
            for digest, count, network in networks
        }

    def has_room(self, digest: str) -> bool:
        """Whether the queue of this checkpoint has room for one more prediction."""
        return self._under_way[digest] <= self.max_queue

    def check_room(self, digest: str) -> None:
        """Raises QueueFullError where a prediction that comes now would be refused."""
        self._check_queue(digest)
        self.work.check_room()

    def _check_queue(self, digest: str) -> None:
        if not self.has_room(digest):
            raise QueueFullError(f"{self.max_queue} predictions wait already", lambda: not self.has_room(digest))

    @contextmanager
    def _admitted(self, digest: str, num_images: int) -> Iterator[None]:
        self._check_queue(digest)
        self._under_way[digest] += 1
        self._num_images[digest] += num_images
        self._metrics.under_way.inc()
        try:
            yield
        finally:
            self._metrics.under_way.dec()
            self._under_way[digest] -= 1
            self._num_images[digest] -= num_images
            if not self._under_way[digest]:
                del self._under_way[digest], self._num_images[digest]

    async def network(self, digest: str) -> Network:
        """Loads it, which runs it too, unless it is in memory. Raises what loading raises, and forgets the failure."""
        task = self._networks.get(digest)
        if task is None:
            task = self._networks[digest] = asyncio.create_task(self._loaded(digest))
        self._networks.move_to_end(digest)
        if task.done():
            return task.result()
        with self._metrics.waiting.track_inprogress():
            return await asyncio.shield(task)  # whoever gives up does so for itself

    async def _loaded(self, digest: str) -> Network:
        started = time.perf_counter()
        try:
            checkpoint = await self.work.run_network(0, self._load, digest)
            num_bytes = activation_bytes(checkpoint.descriptor.architecture.graph())
            network = await self.work.run_network(num_bytes, self._build, checkpoint)
        except BaseException:
            del self._networks[digest]
            raise
        self.load_seconds = time.perf_counter() - started
        asyncio.get_running_loop().call_soon(self._evict)
        return network

    def _build(self, checkpoint: Checkpoint) -> Network:
        return Network(Predictor(checkpoint), self.work, self._metrics, self._slowness)

    def _evict(self) -> None:
        """Evicts the least recently used networks until the rest fit in memory; the newest stays, however large."""
        sizes = {digest: task.result().predictor.size_bytes for digest, task in self._networks.items() if task.done()}
        total = sum(sizes.values())
        for digest in list(sizes)[:-1]:
            if total <= self._max_loaded_bytes:
                break
            del self._networks[digest]
            total -= sizes.pop(digest)
        self._metrics.loaded.set(len(sizes))
        self._metrics.loaded_bytes.set(total)
