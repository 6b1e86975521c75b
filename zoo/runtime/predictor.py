"""A checkpoint ready to answer: ONNX Runtime on the CPU, from decoded pixels to labelled scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from zoo.catalog.views import Prediction
from zoo.checkpoint.file import Checkpoint
from zoo.errors import ImageError
from zoo.images import decode as images
from zoo.images import header as image_header
from zoo.images.decode import Form
from zoo.images.picture import Header
from zoo.runtime import onnx_model, onnx_runtime
from zoo.runtime.classifier import batches, form_of

try:
    from zoo.images import fast_decode
except ModuleNotFoundError:  # of the extra fast-images
    fast_decode = None  # type: ignore[assignment]

Scores = npt.NDArray[np.float32]

# Measured over networks of 3,000 to 78,000 parameters: a session takes 0.3 MB, and 4 times its model's bytes.
_SESSION_BYTES = 300_000
_MODEL_COPIES = 4


class Predictor:
    """A checkpoint on ONNX Runtime, from image files to classes.

        predictor = Predictor(load(Path("net.safetensors")))
        scores = predictor.probabilities(predictor.decode([Path("frog.png").read_bytes()]))  # (1, classes)
        predictor.top_k(scores, 5)

    `size_bytes` is about its memory. All methods may be called from any thread. `decode` raises ImageError.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.descriptor = checkpoint.descriptor
        options = onnx_runtime.SessionOptions()
        # One thread a session: two use twice the CPU for no more throughput on networks this small.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # The arena keeps the memory of the largest batch for ever, and buys nothing measurable on the CPU.
        options.enable_cpu_mem_arena = False
        model = onnx_model.build(checkpoint)
        self.size_bytes = _SESSION_BYTES + _MODEL_COPIES * len(model)
        self._session = onnx_runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the pixels it takes."""
        architecture = self.descriptor.architecture
        return architecture.input_height, architecture.input_width, architecture.input_channels

    def decode(self, files: Sequence[bytes]) -> npt.NDArray[np.uint8]:
        """Image files to the batch that the network takes. Raises ImageError, which names the image by its place."""
        return self.pixels(read_headers(files))

    def pixels(self, headers: Sequence[Header], part: slice = slice(None)) -> npt.NDArray[np.uint8]:
        """As `decode`, of files whose headers are read, or of a part of them."""
        form = form_of(self.descriptor)
        places = range(len(headers))[part]
        pixels = np.empty((len(places), *self.image_shape), dtype=np.uint8)
        for index, place in enumerate(places):
            with _named(place, len(headers)):
                pixels[index] = _decode(headers[place], form)
        return pixels

    def logits(self, pixels: npt.NDArray[np.uint8]) -> Scores:
        """uint8 (batch, height, width, channels) -> (batch, classes)"""
        return self._run("logits", pixels)

    def probabilities(self, pixels: npt.NDArray[np.uint8]) -> Scores:
        """uint8 (batch, height, width, channels) -> (batch, classes), rows sum to 1"""
        return self._run("probabilities", pixels)

    def _run(self, output: str, pixels: npt.NDArray[np.uint8]) -> Scores:
        """A part at a time: all at once take more memory, and no less time for each."""
        parts: list[Any] = [self._session.run([output], {"images": pixels[part]})[0] for part in batches(len(pixels))]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def top_k(self, probabilities: Scores, k: int) -> list[list[Prediction]]:
        """For each row the k likeliest classes, likeliest first; of equal scores the lower index first."""
        return [[Prediction(**item) for item in row] for row in self.ranked(probabilities, k)]

    def ranked(self, probabilities: Scores, k: int) -> list[list[dict[str, Any]]]:
        """As `top_k`, ready to be JSON: checking each class of each answer would take longer than the network."""
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :k].tolist()
        classes = self.descriptor.classes
        return [
            [{"label": classes[i], "score": row[i], "index": i} for i in best]
            for row, best in zip(probabilities.tolist(), order, strict=True)
        ]


def read_headers(files: Sequence[bytes], *, of_strangers: bool = False) -> list[Header]:
    """What each image file says of itself: what it is, and what it takes to decode. Raises ImageError, which names the
    image by its place. `of_strangers`: only formats of which that is known before they are decoded."""
    headers = []
    for place, data in enumerate(files):
        with _named(place, len(files)):
            # What training reads, prediction reads; what neither does is told of by the formats that all versions read.
            is_read = images.is_read(data, of_strangers=of_strangers)
            headers.append(images.read(data) if is_read else image_header.read(data))
    return headers


@contextmanager
def _named(place: int, num_files: int) -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        raise ImageError(f"image {place + 1} of {num_files}: {error}" if num_files > 1 else str(error)) from error


def _decode(header: Header, form: Form) -> npt.NDArray[np.uint8]:
    is_whole = images.shrink(header, form.size, form.fit) == 1
    pixels = fast_decode.decode(header) if is_whole and fast_decode is not None else None
    if pixels is None:
        return images.pixels(header, *form)
    if pixels.shape == (*form.size, form.channels):
        return pixels
    return images.fitted(Image.fromarray(pixels.squeeze(axis=2) if pixels.shape[2] == 1 else pixels), *form)
