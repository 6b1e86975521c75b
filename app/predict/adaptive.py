"""policy=adaptive: the most accurate checkpoint that meets the deadline under the present load, else the smallest.

`zoo.choosing.adaptive` decides; here are the figures that it decides by. What came before the choice is measured: since
the request was complete it has waited at the gate, and its images have been decoded. What comes after is estimated:
what waits for a network already, the forward pass, and a margin for by how much earlier estimates were wrong.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from math import inf
from typing import Any

from app.admission.work import ClosingError, QueueFullError
from app.http.schemas import PredictedBy, PredictQuery
from app.monitoring.metrics import Metrics, Timing
from app.predict.estimates import Demand, Lateness
from app.predict.inference import Inference, Network
from zoo.catalog.rows import CheckpointRow
from zoo.choosing.adaptive import Hysteresis, Option, Reason, decide
from zoo.errors import ZooError
from zoo.runtime.classifier import form_of

# Of a multiply-accumulate, where no network was timed yet.
_SECONDS_PER_MAC = 1e-10
# What waits shares the core with what comes after it and goes to another level.
_SHARED = 2.0
# Of the deadline: whatever went wrong before, what takes half of it at most is tried.
_MAX_MARGIN = 0.5
# A network that was put in memory and is there no more, for want of room, is tried again after so long.
_RELOAD_SECONDS = 60.0
_MAX_REMEMBERED = 1024
_BECAUSE: dict[Reason, str] = {
    "best": "no eligible one is more accurate",
    "deadline": "more accurate ones take longer",
    "pressure": "more accurate ones would wait too long now",
    "held": "more accurate ones would have waited too long a moment ago",
    "loading": "more accurate ones are being loaded",
    "late": "none is expected within it",
}


def because(query: PredictQuery, reason: Reason) -> str:
    preferred = query.model_copy(update={"prefer": "params" if reason == "late" else "accuracy"}).because()
    return f"{preferred}, for a deadline of {query.deadline_ms:g} ms: {_BECAUSE[reason]}"


class Adaptive:
    """The memory of one worker; belongs to its event loop.

    Levels are rows that ascend in both multiply-accumulates and accuracy.
    """

    def __init__(self, inference: Inference, metrics: Metrics) -> None:
        self._inference = inference
        self._metrics = metrics
        self._hysteresis = Hysteresis()
        self._lateness = Lateness()
        self._demand = Demand()
        self._last: str | None = None
        self._tried: dict[str, float] = {}
        self._loading: asyncio.Task[None] | None = None

    def check_room(self, levels: Sequence[CheckpointRow]) -> None:
        """Raises QueueFullError where none of them takes a prediction that comes now."""
        self._inference.work.check_room()
        if self._is_full(levels):
            self._raise_full(levels)

    def _is_full(self, levels: Sequence[CheckpointRow]) -> bool:
        return not any(self._inference.has_room(row.digest) for row in levels)

    def _raise_full(self, levels: Sequence[CheckpointRow]) -> None:
        detail = "as many predictions as may wait do, for each checkpoint that would do"
        raise QueueFullError(detail, lambda: self._is_full(levels))

    async def classify(
        self, query: PredictQuery, levels: Sequence[CheckpointRow], images: Sequence[bytes], complete_at: float
    ) -> tuple[Timing, dict[str, Any]]:
        """As `cascade.classify`. `complete_at`: when the request was, by time.perf_counter."""
        assert query.deadline_ms is not None
        reader = self._reader(levels)
        is_cold = reader is None
        if reader is None:
            reader = await self._inference.warm(levels[0].digest)
        started = time.perf_counter()
        pixels = await reader.decode(images)
        decode_seconds = time.perf_counter() - started
        decided_at = time.perf_counter()
        passed_ms = 1000 * (decided_at - complete_at)
        margin_ms = min(self._lateness.margin_ms(decided_at), query.deadline_ms * _MAX_MARGIN)
        options = self._options(levels, len(images), passed_ms + margin_ms, decided_at)
        if is_cold:  # to have waited for a network to be loaded says nothing of the load
            decision = decide(options, query.deadline_ms)
        else:
            decision = self._hysteresis.choose(options, query.deadline_ms, decided_at)
        row = levels[decision.index]
        if not self._inference.has_room(row.digest):
            self._raise_full(levels)
        self._last = row.digest
        network = self._inference.loaded(row.digest) or await self._inference.warm(row.digest)
        if form_of(network.predictor.descriptor) != form_of(reader.predictor.descriptor):
            pixels = await network.decode(images)
        scores, timing = await self._inference.probabilities(row.digest, pixels)
        answered_at = time.perf_counter()
        took_ms = 1000 * (answered_at - complete_at)
        self._lateness.observe(decision.expected_ms - margin_ms, took_ms, answered_at)
        self._metrics.adapted(row.params, decision.reason, is_late=took_ms > query.deadline_ms)
        timing = Timing(round(1000 * decode_seconds, 3), timing.queue, timing.forward)
        return timing, {
            "model": PredictedBy.of(row).model_dump(),
            "because": because(query, decision.reason),
            "predictions": network.predictor.ranked(scores, query.top_k),
            "timing_ms": timing,
            "adaptive": {
                "reason": decision.reason,
                "expected_ms": round(decision.expected_ms, 3),
                "took_ms": round(took_ms, 3),
                "deadline_ms": query.deadline_ms,
            },
        }

    def _reader(self, levels: Sequence[CheckpointRow]) -> Network | None:
        """The network that images are decoded for before one is chosen: levels of one data set take the same pixels,
        as a rule. None where none is loaded."""
        digests = sorted((row.digest for row in reversed(levels)), key=lambda digest: digest != self._last)
        loaded = (network for digest in digests if (network := self._inference.loaded(digest)) is not None)
        return next(loaded, None)

    def _options(self, levels: Sequence[CheckpointRow], num_images: int, passed_ms: float, now: float) -> list[Option]:
        remaining = self._inference.remaining_seconds()
        ours = {row.digest for row in levels}
        # Of one core: what was promised to earlier requests runs before this one, on whichever level.
        before = sum(seconds for digest, seconds in remaining.items() if digest in ours)
        others = [seconds for digest, seconds in remaining.items() if digest not in ours]
        rate = self._demand.add(num_images, now)
        networks = [self._inference.loaded(row.digest) for row in levels]
        if None in networks:
            self._load([row.digest for row in levels], now)
        options: list[Option] = []
        forward = usual = inf
        for row, network in zip(reversed(levels), reversed(networks), strict=True):
            measured = self._forward_seconds(levels, networks, row, num_images)
            # One that was measured in a bad moment, and not asked since: no slower than those that are dearer.
            forward, usual = min(forward, measured[0]), min(usual, measured[1])
            # Others' networks run beside it, and take as much of the core as it does.
            wait = _SHARED * before + sum(min(seconds, before + forward) for seconds in others)
            wait += self._inference.load_seconds if network is None else 0.0
            options.append(
                Option(
                    macs=row.macs,
                    forward_ms=1000 * forward,
                    wait_ms=passed_ms + 1000 * wait if self._inference.has_room(row.digest) else inf,
                    load=rate * usual / num_images,
                    is_loaded=network is not None,
                )
            )
        return options[::-1]

    @staticmethod
    def _forward_seconds(
        levels: Sequence[CheckpointRow], networks: Sequence[Network | None], row: CheckpointRow, num_images: int
    ) -> tuple[float, float]:
        """At the moment, and as usual. Of a network that is not loaded: by multiply-accumulates, from the nearest one
        that is."""
        known = [(other, found) for other, found in zip(levels, networks, strict=True) if found is not None]
        if not known:
            seconds = _SECONDS_PER_MAC * row.macs * num_images
            return seconds, seconds
        nearest, network = min(known, key=lambda pair: abs(pair[0].macs - row.macs))
        part, batcher = row.macs / nearest.macs, network.batcher
        return batcher.forward_seconds(num_images) * part, batcher.usual_seconds(num_images) * part

    def _load(self, digests: Sequence[str], now: float) -> None:
        """In the background, one after another, those that are not in memory; a level is needed at once under load."""
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
                await self._inference.warm(digest)
