"""policy=adaptive: the most accurate checkpoint that meets the deadline under the present load, else the smallest.

`zoo.choosing.adaptive` decides; here are the figures that it decides by. A request waits in a lane (`lane.py`), and its
checkpoint is chosen when its turn comes: what has passed since it was complete is measured, at the gate, decoding and
waiting. Estimated are the forward pass, those of who waits behind it, and how wrong earlier estimates were.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from math import inf
from typing import Any

from app.admission.work import ClosingError, QueueFullError
from app.http.schemas import PredictedBy, PredictQuery
from app.monitoring.metrics import Metrics, TimingMs
from app.predict.estimates import Demand, Lateness
from app.predict.inference import Inference, Network
from app.predict.lane import Lane, Waiting
from zoo.catalog.rows import CheckpointRow
from zoo.choosing.adaptive import Decision, Hysteresis, Option, because
from zoo.errors import ZooError
from zoo.runtime.classifier import form_of

# Of a multiply-accumulate, where no network was timed yet.
_SECONDS_PER_MAC = 1e-10
# Two thirds of the deadline are for what nobody knows yet: who comes next, and what else the machine does.
_HEADROOM = 3.0
_FULL = "as many predictions as may wait for these checkpoints do"
# Of the deadline: whatever went wrong before, what takes half of it at most is tried.
_MAX_MARGIN = 0.5
# A network that was put in memory and is there no more, for want of room, is tried again after so long.
_RELOAD_SECONDS = 60.0
_MAX_REMEMBERED = 1024


class Adaptive:
    """Chooses and answers adaptive predictions in one worker; belongs to its event loop.

    Levels are rows that ascend in both multiply-accumulates and accuracy.
    """

    def __init__(self, inference: Inference, metrics: Metrics) -> None:
        self._inference = inference
        self._metrics = metrics
        self._hysteresis = Hysteresis()
        self._lateness = Lateness()
        self._demand = Demand()
        self._lanes: dict[tuple[str, ...], Lane[tuple[Decision, float]]] = {}
        self._last: str | None = None
        self._tried: dict[str, float] = {}
        self._loading: asyncio.Task[None] | None = None

    def check_room(self, levels: Sequence[CheckpointRow]) -> None:
        """Raises QueueFullError where a prediction that comes now would be refused."""
        self._inference.work.check_room()
        if self._is_full(levels):
            raise QueueFullError(_FULL, lambda: self._is_full(levels))

    def _is_full(self, levels: Sequence[CheckpointRow]) -> bool:
        lane = self._lanes.get(tuple(row.digest for row in levels))
        if lane is not None and len(lane) > self._inference.max_queue and not lane.has_late:
            return True
        return not any(self._inference.has_room(row.digest) for row in levels)

    async def classify(
        self, query: PredictQuery, levels: Sequence[CheckpointRow], images: Sequence[bytes], complete_at: float
    ) -> tuple[TimingMs, dict[str, Any]]:
        """As `cascade.classify`. `complete_at`: when the request was, by time.perf_counter."""
        assert query.deadline_ms is not None
        self._demand.add(len(images), complete_at)
        reader = self._reader(levels)
        since = complete_at
        if reader is None:
            reader = await self._inference.network(levels[0].digest)
            since = time.perf_counter()  # to have waited for a network to be loaded says nothing of the load
        started = time.perf_counter()
        pixels = await reader.decode(images)
        decoded = time.perf_counter()
        async with self._turn(levels, since, query.deadline_ms, len(images)) as (decision, margin_ms):
            waited = time.perf_counter() - decoded
            row = levels[decision.index]
            network = self._inference.loaded(row.digest) or await self._inference.network(row.digest)
            if form_of(network.predictor.descriptor) != form_of(reader.predictor.descriptor):
                pixels = await network.decode(images)
            before = decoded - started, waited
            scores, timing = await self._inference.probabilities(row.digest, pixels, *before)
        answered = time.perf_counter()
        self._lateness.observe(decision.expected_ms - margin_ms, 1000 * (answered - since), answered)
        took_ms = 1000 * (answered - complete_at)
        self._metrics.adapted(row.params, decision.reason, is_late=took_ms > query.deadline_ms)
        return timing, {
            "model": PredictedBy.of(row).model_dump(),
            "because": because(query, query.deadline_ms, decision.reason),
            "predictions": network.predictor.ranked(scores, query.top_k),
            "timing_ms": timing,
            "adaptive": {
                "reason": decision.reason,
                "expected_ms": round(decision.expected_ms, 3),
                "took_ms": round(took_ms, 3),
                "deadline_ms": query.deadline_ms,
            },
        }

    @asynccontextmanager
    async def _turn(
        self, levels: Sequence[CheckpointRow], since: float, deadline_ms: float, num_images: int
    ) -> AsyncIterator[tuple[Decision, float]]:
        """Raises QueueFullError."""
        if self._is_full(levels):
            raise QueueFullError(_FULL, lambda: self._is_full(levels))
        key = tuple(row.digest for row in levels)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(partial(self._decide, levels), lambda decided: decided[0].reason == "late")
        if len(lane) > self._inference.max_queue:
            lane.refuse_late(QueueFullError(_FULL, lambda: self._is_full(levels)))
        try:
            with self._metrics.waiting.track_inprogress(), self._metrics.under_way.track_inprogress():
                decided = await lane.turn(since, deadline_ms, num_images)
            try:
                yield decided
            finally:
                lane.done()
        finally:
            if lane.is_idle and self._lanes.get(key) is lane:
                del self._lanes[key]

    def _decide(self, levels: Sequence[CheckpointRow], who: Waiting, num_images_soon: int) -> tuple[Decision, float]:
        """The decision, and the safety margin (ms) that its expected time includes."""
        now = time.perf_counter()
        margin_ms = min(self._lateness.margin_ms(now), who.deadline_ms * _MAX_MARGIN)
        options = self._options(levels, who, num_images_soon, margin_ms, now)
        decision = self._hysteresis.choose(options, who.deadline_ms, now)
        self._last = levels[decision.index].digest
        return decision, margin_ms

    def _reader(self, levels: Sequence[CheckpointRow]) -> Network | None:
        """The network that images are decoded for before one is chosen: levels of one data set take the same pixels,
        as a rule. None where none is loaded."""
        digests = sorted((row.digest for row in reversed(levels)), key=lambda digest: digest != self._last)
        loaded = (network for digest in digests if (network := self._inference.loaded(digest)) is not None)
        return next(loaded, None)

    def _options(
        self, levels: Sequence[CheckpointRow], who: Waiting, num_images_soon: int, margin_ms: float, now: float
    ) -> list[Option]:
        remaining = self._inference.remaining_seconds()
        rate = self._demand.rate(now)
        networks = [self._inference.loaded(row.digest) for row in levels]
        if None in networks:
            self._load([row.digest for row in levels], now)
        passed_ms = 1000 * (now - who.complete_at)
        options: list[Option] = []
        forward = usual = inf
        for row, network in zip(reversed(levels), reversed(networks), strict=True):
            measured = _forward_seconds(levels, networks, row, network, who.num_images)
            # One that was measured in a bad moment, and not asked since: no slower than those that are dearer.
            forward, usual = min(forward, measured[0]), min(usual, measured[1])
            # What was asked of this very network goes first; others run beside it, and take as much of the core.
            own = remaining.get(row.digest, 0.0)
            wait = own + sum(min(left, own + forward) for digest, left in remaining.items() if digest != row.digest)
            wait += self._inference.load_seconds if network is None else 0.0
            # Who comes next is to be in time too, were they answered as this one is.
            next_ms = 1000 * _HEADROOM * forward * num_images_soon / who.num_images
            options.append(
                Option(
                    macs=row.macs,
                    forward_ms=1000 * forward,
                    wait_ms=margin_ms + 1000 * wait + passed_ms if self._inference.has_room(row.digest) else inf,
                    next_ms=next_ms,
                    load=rate * usual / who.num_images,
                    is_loaded=network is not None,
                )
            )
        return options[::-1]

    def _load(self, digests: Sequence[str], now: float) -> None:
        """Loads missing networks in the background, one after another: under load a level is needed at once."""
        if self._loading is not None and not self._loading.done():
            return
        wanted = [
            digest
            for digest in digests
            if self._inference.loaded(digest) is None and now - self._tried.get(digest, -inf) > _RELOAD_SECONDS
        ]
        if len(self._tried) > _MAX_REMEMBERED:
            self._tried.clear()
        self._tried |= dict.fromkeys(wanted, now)
        if wanted:
            self._loading = asyncio.create_task(self._load_all(wanted))

    async def _load_all(self, digests: Sequence[str]) -> None:
        for digest in digests:
            with suppress(ZooError, OSError, ClosingError):  # who chooses it is told
                await self._inference.network(digest)


def _forward_seconds(
    levels: Sequence[CheckpointRow],
    networks: Sequence[Network | None],
    row: CheckpointRow,
    network: Network | None,
    num_images: int,
) -> tuple[float, float]:
    """Estimated seconds of a forward pass: at present, and on average. Of a network that is not loaded: scaled by
    multiply-accumulates from the nearest one that is."""
    part = 1.0
    if network is None:
        known = [(other, found) for other, found in zip(levels, networks, strict=True) if found is not None]
        if not known:
            seconds = _SECONDS_PER_MAC * row.macs * num_images
            return seconds, seconds
        nearest, network = min(known, key=lambda pair: abs(pair[0].macs - row.macs))
        part = row.macs / nearest.macs
    return network.batcher.forward_seconds(num_images) * part, network.batcher.usual_seconds(num_images) * part
