"""A checkpoint as a function of images, on ONNX Runtime; `zoo.module` has the same on torch."""

from __future__ import annotations

import numpy as np

from zoo.checkpoint import Checkpoint
from zoo.classifier import Classifier, Pixels, pixel_batches
from zoo.image_input import Images
from zoo.predictor import Predictor, Scores
from zoo.views import Prediction


class OnnxClassifier(Classifier):
    def __init__(self, checkpoint: Checkpoint) -> None:
        self.descriptor = checkpoint.descriptor
        self._predictor = Predictor(checkpoint)

    def __call__(self, images: Images) -> Scores:
        """Logits, (batch, classes). Raises ImageError."""
        return np.concatenate([self._predictor.logits(pixels) for pixels in pixel_batches(images, self.descriptor)])

    def _best(self, pixels: Pixels, top_k: int) -> list[list[Prediction]]:
        return self._predictor.top_k(self._predictor.probabilities(pixels), top_k)
