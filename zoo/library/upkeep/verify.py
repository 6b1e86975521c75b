"""A checkpoint read whole, run once, and measured again."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from zoo.checkpoint.file import Checkpoint
from zoo.choosing.budget import ALL_DATASETS
from zoo.errors import CheckpointError, ZooError
from zoo.network.cost import num_params
from zoo.runtime import onnx_model
from zoo.runtime.measure import HeldOutImages, measure, of_other_classes
from zoo.runtime.predictor import Predictor


def is_of(found: Checkpoint | ZooError, dataset: str | None, images: HeldOutImages) -> bool:
    """Whether to measure it: all of the data set that is asked for, else those whose data set is called as the images.

    Of one that is kept apart from another of its name, files do not know what it is called here.
    """
    is_asked_for = dataset not in (None, ALL_DATASETS)
    return isinstance(found, Checkpoint) and (is_asked_for or found.descriptor.dataset.name == images.name)


def verified(digest: str, found: Checkpoint | ZooError, images: HeldOutImages | None) -> dict[str, Any]:
    """What `zoo verify` says of a file, as JSON. `images`: what to measure its test accuracy on; None for nothing."""
    try:
        if isinstance(found, ZooError):
            raise found
        return {"id": digest, "ok": True, "status": "ok", **_checked(found, images)}
    except ZooError as error:
        return {"id": digest, "ok": False, "status": "FAILED", "detail": str(error)}


def _checked(checkpoint: Checkpoint, images: HeldOutImages | None) -> dict[str, Any]:
    """Raises ZooError where it is not what it should be."""
    name = checkpoint.descriptor.name
    predictor = Predictor(checkpoint)
    scores = predictor.probabilities(np.full((1, *predictor.image_shape), 128, dtype=np.uint8))
    if not np.isfinite(scores).all():
        raise CheckpointError(f"{name}: scores are not finite")
    if images is None:
        params = num_params(checkpoint.descriptor.architecture.graph())
        return {"detail": f"{name}: {params:,} parameters, {len(onnx_model.build(checkpoint)):,} bytes as ONNX"}
    if difference := of_other_classes(checkpoint.descriptor, images):
        return {"ok": False, "status": "other", "detail": f"{difference}: other images than those it was tested on"}
    measurement = measure(checkpoint, images)
    differs = {}
    if measurement.same_images is False:
        differs = {"ok": False, "status": "other"}
    elif not measurement.agrees:
        differs = {"ok": False, "status": "differs"}
    return {**differs, "detail": f"{name}: {measurement}", "measured": asdict(measurement)}
