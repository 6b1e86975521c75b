"""policy=cascade: the first stage answers the images that it is sure of, the next those that are left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

from app.http.schemas import AnsweredBy, CascadeAnswer, CascadeStage, PredictedBy, UsedCascade
from app.monitoring.metrics import TimingMs
from app.predict.inference import Inference
from zoo.catalog.rows import DIGITS
from zoo.choosing.cascade import margins
from zoo.library.ready_cascades import ReadyCascade
from zoo.runtime.predictor import Prediction


async def classify(
    chosen: ReadyCascade, inference: Inference, images: Sequence[bytes], top_k: int
) -> tuple[TimingMs, dict[str, Any]]:
    """The sum of the stages' timings, and a CascadeAnswer ready to be JSON. Raises as `Inference.classify` does."""
    predictions: list[list[Prediction]] = [[] for _ in images]
    answered_by: dict[int, AnsweredBy] = {}
    timings: list[TimingMs] = []
    macs = 0
    for stage, row in zip(chosen.cascade.stages, chosen.rows, strict=True):
        unsure = [index for index in range(len(images)) if index not in answered_by]
        if not unsure:
            break
        asked = row
        macs += row.macs * len(unsure)
        found = await inference.classify(row.digest, [images[index] for index in unsure], top_k)
        timings.append(found.timing)
        leads = margins(found.scores)
        for index, ranked, margin, sure in zip(unsure, found.predictions, leads, stage.is_sure(leads), strict=True):
            if sure:
                predictions[index] = ranked
                answered_by[index] = AnsweredBy(id=row.digest, params=row.params, margin=float(margin))
    timing = TimingMs(*(round(sum(stage), 3) for stage in zip(*map(astuple, timings), strict=True)))
    answer = CascadeAnswer(
        model=PredictedBy.of(asked),
        predictions=predictions,
        timing_ms=timing,
        cascade=UsedCascade(
            accuracy=round(chosen.cascade.accuracy, DIGITS),
            expected_macs=chosen.cascade.macs,
            mean_macs=macs / len(images),
            stages=[
                CascadeStage(**PredictedBy.of(row).model_dump(), macs=row.macs, threshold=stage.threshold)
                for stage, row in zip(chosen.cascade.stages, chosen.rows, strict=True)
            ],
            answered_by=[answered_by[index] for index in range(len(images))],
        ),
    )
    return timing, answer.model_dump()
