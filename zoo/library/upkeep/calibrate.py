"""Calibration: latencies of checkpoints on this machine, and cascades that pay off."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from time import perf_counter_ns

import numpy as np

from zoo.catalog.rows import CheckpointRow
from zoo.checkpoint.descriptor import Dataset
from zoo.checkpoint.file import Checkpoint
from zoo.choosing import pareto
from zoo.choosing.budget import Budget
from zoo.choosing.cascade import Calibration, Candidate, margins, search
from zoo.errors import DataError, ZooError
from zoo.library import audit
from zoo.library.local import LocalZoo
from zoo.library.upkeep.device import device_name
from zoo.runtime.measure import HeldOutImages, scores
from zoo.runtime.predictor import Predictor
from zoo.store.entries import Latency

# A turn is long enough for a network to have the caches to itself, short enough that a noisy second hits several.
_RUNS_A_TURN = 10


def measure_latencies(zoo: LocalZoo, digests: Iterable[str], num_rounds: int) -> list[Latency]:
    """One image at a time through each network as it is served, in turns: a noisy minute hits all alike.

    Kept beside the checkpoints, under this device. Raises ZooError where the first directory is read-only.
    """
    _require_writable(zoo)
    predictors = {digest: Predictor(zoo.files.load(digest)) for digest in digests}
    nanoseconds: dict[str, list[int]] = {digest: [] for digest in predictors}
    for _ in range(num_rounds):
        for digest, predictor in predictors.items():
            image = np.full((1, *predictor.image_shape), 128, dtype=np.uint8)
            predictor.probabilities(image)  # the one before left its weights in the caches
            for _ in range(_RUNS_A_TURN):
                started = perf_counter_ns()
                predictor.probabilities(image)
                nanoseconds[digest].append(perf_counter_ns() - started)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    latencies = [
        Latency(
            digest=digest,
            device=device_name(),
            median_ms=round(float(np.median(times)) / 1e6, 4),
            p95_ms=round(float(np.quantile(times, 0.95)) / 1e6, 4),
            num_runs=len(times),
            measured_at=now,
        )
        for digest, times in nanoseconds.items()
    ]
    zoo.annotations.record_latencies(latencies, audit.actor())
    zoo.sync()
    return latencies


def find_cascades(
    zoo: LocalZoo,
    source: str,
    dataset: str,
    observe: Callable[[str], None],
    *,
    keep: bool = False,
    skip_bad: bool = False,
    test_share: float | None = None,
) -> Calibration:
    """Finds the cascades of a data set's checkpoints; with `keep` they stay beside those, in place of those before.

    `source` holds the images, as for `HeldOutImages`; `observe` is told what is odd about them, and of each checkpoint
    asked. Raises ZooError.
    """
    if keep:
        _require_writable(zoo)
    record, rows = _of_one_split(zoo, dataset, observe)
    images = HeldOutImages(source, validation=record, skip_bad=skip_bad, test_share=test_share)
    for finding in images.findings:
        observe(f"{images.name}: warning: {finding}")
    front = pareto.front(rows, cost=lambda row: row.macs, value=lambda row: row.accuracy or 0.0)
    candidates = []
    for row in front:
        observe(f"{row.name}: {len(images):,} validation images")
        candidates.append(_candidate(row, zoo.files.load(row.digest), images))
    calibration = Calibration(dataset=dataset, num_images=len(images), cascades=search(candidates))
    if keep:
        zoo.annotations.record_calibration(calibration, audit.actor())
        zoo.sync()
    return calibration


def _of_one_split(
    zoo: LocalZoo, dataset: str, observe: Callable[[str], None]
) -> tuple[Dataset, Sequence[CheckpointRow]]:
    """The checkpoints of known accuracy that were validated on the same images: one's may be for training another.

    Of several such splits the one with the most images, which is also that of most checkpoints in a usual zoo. Those
    whose test accuracy is only claimed where there are no others: it is what a cascade promises.
    """
    found = zoo.chooser.rows(Budget(dataset=dataset, min_acc=0.0))
    rows = [row for row in found if not row.claimed] or found
    if len(rows) < len(found):
        names = ", ".join(row.name for row in found if row.claimed)
        observe(f"left out: {names}: the test accuracy is claimed, and nobody has measured it (docs/protocols.md)")
    if not rows:
        raise DataError(f"no checkpoint of data set {dataset} with a test accuracy; --dataset names another one")
    records = {row.digest: zoo.files.descriptor(row.digest).dataset for row in rows}
    sizes = Counter(records.values())
    record = max(sizes, key=lambda record: (record.num_validation, sizes[record]))
    return record, [row for row in rows if records[row.digest] == record]


def _candidate(row: CheckpointRow, checkpoint: Checkpoint, images: HeldOutImages) -> Candidate:
    probabilities = scores(checkpoint, images, "probabilities")
    correct = probabilities.argmax(1) == images.labels
    # Other images would make thresholds of nothing; another host may round one in a thousand differently.
    if abs(correct.mean() - row.val_accuracy) > 0.001 + 1 / len(images):
        raise DataError(
            f"{row.name} says it gets {row.val_accuracy:.4f} of its validation images right, and gets "
            f"{correct.mean():.4f} of these: they are other images than it was trained with"
        )
    assert row.accuracy is not None
    return Candidate(row.digest, row.macs, row.accuracy, margins(probabilities), correct)


def _require_writable(zoo: LocalZoo) -> None:
    """Raises ZooError early, before minutes of measuring."""
    if not os.access(zoo.roots[0], os.W_OK):
        raise ZooError(
            f"{zoo.roots[0]} is read-only, and the first zoo directory keeps the result: put one that can be written "
            "first"
        )
