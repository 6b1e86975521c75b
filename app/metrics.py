"""Prometheus metrics. A registry of its own for each app, so that several can live in one process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("zoo_requests", "HTTP requests.", ["method", "route", "status"], registry=self.registry)
        self.request_seconds = Histogram(
            "zoo_request_seconds", "Time to answer.", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.images = Counter(
            "zoo_predicted_images", "Images classified, by checkpoint.", ["checkpoint"], registry=self.registry
        )
        self.stage_seconds = Histogram(
            "zoo_predict_stage_seconds",
            "Time of a prediction's stages.",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.checkpoints = Gauge("zoo_checkpoints", "Checkpoints in the catalog.", registry=self.registry)
        self.loaded = Gauge("zoo_loaded_predictors", "Networks loaded.", registry=self.registry)
