"""LitServe, for benchmarks/predict.py. In a file of its own, because its workers import what they run by name.

python benchmarks/predict_litserve.py 8001 zoo/…/<digest>.safetensors 16 0.002
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
from predict_servers import TorchClassifier


class Api(litserve.LitAPI):
    def __init__(self, path: Path, max_batch_size: int, batch_timeout: float) -> None:
        super().__init__(max_batch_size=max_batch_size, batch_timeout=batch_timeout)
        self.path = path

    def setup(self, device: str) -> None:  # noqa: ARG002
        self.classifier = TorchClassifier(self.path)

    def decode_request(self, request) -> np.ndarray:  # type: ignore[no-untyped-def]  # an annotation has a meaning to it
        return self.classifier.decode(request["file"].file.read())

    def batch(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return inputs

    def predict(self, images: Any) -> np.ndarray:
        return self.classifier.probabilities(images if isinstance(images, list) else [images])

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        return self.classifier.top_5(output.reshape(-1))


if __name__ == "__main__":
    port, path, max_batch_size, batch_timeout = sys.argv[1:]
    api = Api(Path(path), int(max_batch_size), float(batch_timeout))
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(port=int(port), num_api_servers=1, generate_client_file=False, log_level="error")
