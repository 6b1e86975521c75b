"""A checkpoint as a function of images, on ONNX Runtime; `zoo.runtime.module` has the same on torch."""

from __future__ import annotations

import numpy as np

from zoo.catalog.views import Prediction
from zoo.checkpoint.file import Checkpoint
from zoo.images.inputs import Images
from zoo.runtime.classifier import Classifier, Pixels, pixel_batches
from zoo.runtime.predictor import Predictor, Scores


class OnnxClassifier(Classifier):
    def __init__(self, checkpoint: Checkpoint) -> None:
        self.descriptor = checkpoint.descriptor
        self._predictor = Predictor(checkpoint)

    def __call__(self, images: Images) -> Scores:
        """Logits, (batch, classes). Raises ImageError."""
        return np.concatenate([self._predictor.logits(pixels) for pixels in pixel_batches(images, self.descriptor)])

    def _best(self, pixels: Pixels, top_k: int) -> list[list[Prediction]]:
        return self._predictor.top_k(self._predictor.probabilities(pixels), top_k)
