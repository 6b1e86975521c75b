"""A checkpoint ready to answer: ONNX Runtime on the CPU, from decoded pixels to labelled scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from zoo import images, onnx_model
from zoo.checkpoint import Checkpoint
from zoo.errors import ImageError
from zoo.views import Prediction

Scores = npt.NDArray[np.float32]


class Predictor:
    def __init__(self, checkpoint: Checkpoint) -> None:
        self.descriptor = checkpoint.descriptor
        options = onnxruntime.SessionOptions()
        # One thread a session: two use twice the CPU for no more throughput on networks this small.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        model = onnx_model.build(checkpoint)
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the pixels it takes."""
        architecture = self.descriptor.architecture
        return architecture.input_height, architecture.input_width, architecture.input_channels

    def decode(self, files: Sequence[bytes]) -> npt.NDArray[np.uint8]:
        """Image files to the batch that the network takes. Raises ImageError, which names the image."""
        height, width, _ = self.image_shape
        pixels = np.empty((len(files), *self.image_shape), dtype=np.uint8)
        for index, data in enumerate(files):
            try:
                pixels[index] = images.decode(data, self.descriptor.preprocessing.color, (height, width))
            except ImageError as error:
                place = f"image {index + 1} of {len(files)}: " if len(files) > 1 else ""
                raise ImageError(f"{place}{error}") from error
        return pixels

    def logits(self, pixels: npt.NDArray[np.uint8]) -> Scores:
        """uint8 (batch, height, width, channels) -> (batch, classes)"""
        return self._run("logits", pixels)

    def probabilities(self, pixels: npt.NDArray[np.uint8]) -> Scores:
        """uint8 (batch, height, width, channels) -> (batch, classes), rows sum to 1"""
        return self._run("probabilities", pixels)

    def _run(self, output: str, pixels: npt.NDArray[np.uint8]) -> Scores:
        result: Any = self._session.run([output], {"images": pixels})
        return result[0]

    def top_k(self, probabilities: Scores, k: int) -> list[list[Prediction]]:
        """For each row the k likeliest classes, likeliest first; of equal scores the lower index first."""
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
        classes = self.descriptor.classes
        return [
            [Prediction(label=classes[i], score=float(row[i]), index=int(i)) for i in best]
            for row, best in zip(probabilities, order, strict=True)
        ]
