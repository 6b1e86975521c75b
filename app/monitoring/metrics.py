"""Prometheus metrics. A registry of its own for each app, so that several can live in one process.

With several workers, prometheus_client keeps the values in files below PROMETHEUS_MULTIPROC_DIR (`zoo-serve` sets it
for its workers), and whichever worker is asked adds up those of all.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)
# Sizes that are counted by themselves; any more are counted together.
_MAX_SIZES = 64


@dataclass(frozen=True, slots=True)
class TimingMs:
    decode: float
    queue: float
    forward: float


class Metrics:
    def __init__(self) -> None:
        # Times of creation cannot be added up over workers, and one worker should say no more than several.
        disable_created_metrics()
        registry = self._registry = CollectorRegistry()
        counter, histogram = partial(Counter, registry=registry), partial(Histogram, registry=registry)
        # Sums over the workers that live.
        gauge = partial(Gauge, registry=registry, multiprocess_mode="livesum")
        self._requests = counter("zoo_requests", "HTTP requests.", ["method", "route", "status"])
        self._request_seconds = histogram("zoo_request_seconds", "Time to answer.", ["route"], buckets=_SECONDS)
        self._chosen = counter("zoo_predictions", "Predictions answered, by the checkpoint chosen.", ["checkpoint"])
        self._images = counter("zoo_predicted_images", "Images classified, by checkpoint.", ["checkpoint"])
        stages = histogram("zoo_predict_stage_seconds", "Time of a prediction's stages.", ["stage"], buckets=_SECONDS)
        self._stages = [stages.labels(stage) for stage in ("decode", "queue", "forward")]
        self.batch_images = histogram(
            "zoo_batch_images", "Images that went through a network together.", buckets=_IMAGES
        )
        self._adapted = counter(
            "zoo_adaptive_answers",
            "Answers of policy=adaptive, by the size that gave them and why no larger one did.",
            ["params", "reason"],
        )
        self._late = counter("zoo_adaptive_late", "Answers of policy=adaptive that were ready after their deadline.")
        self.under_way = gauge("zoo_predictions_under_way", "Predictions being decoded, waiting or running.")
        self.waiting = gauge(
            "zoo_predictions_waiting",
            "Predictions waiting for a network to be loaded, for a decoder, or for their batch to run.",
        )
        self.loaded = gauge("zoo_loaded_predictors", "Networks loaded.")
        self.loaded_bytes = gauge("zoo_loaded_bytes", "Memory that loaded networks take.")
        self._refused = counter("zoo_refused", "What the admission gate turned away, by reason.", ["reason"])
        # Each of them sees all.
        self.checkpoints = gauge("zoo_checkpoints", "Checkpoints in the catalog.", multiprocess_mode="livemostrecent")
        # `labels` takes longer than what it finds takes to count.
        self._request_child = cache(self._requests.labels)
        self._seconds_child = cache(self._request_seconds.labels)
        self._chosen_child = cache(self._chosen.labels)
        self._images_child = cache(self._images.labels)
        self._adapted_child = cache(self._adapted.labels)
        self._sizes: set[int] = set()

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        self._request_child(method, route, status).inc()
        self._seconds_child(route).observe(seconds)

    def refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()

    def predicted(self, digest: str, num_images: int, *stage_ms: float) -> None:
        """`stage_ms` are those of decode, queue and forward."""
        checkpoint = digest[:12]
        self._chosen_child(checkpoint).inc()
        self._images_child(checkpoint).inc(num_images)
        for stage, duration_ms in zip(self._stages, stage_ms, strict=True):
            stage.observe(duration_ms / 1000)

    def adapted(self, params: int, reason: str, *, is_late: bool) -> None:
        if params not in self._sizes and len(self._sizes) < _MAX_SIZES:
            self._sizes.add(params)
        self._adapted_child(str(params) if params in self._sizes else "other", reason).inc()
        if is_late:
            self._late.inc()

    def exposition(self) -> bytes:
        """The Prometheus text format, of all workers together."""
        directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if directory is None:
            return generate_latest(self._registry)
        for path in Path(directory).glob("gauge_live*.db"):
            pid = path.stem.rpartition("_")[2]
            if not Path(f"/proc/{pid}").exists():
                mark_process_dead(int(pid), directory)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, directory)
        return generate_latest(registry)
