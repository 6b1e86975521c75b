"""The servers that benchmarks/predict.py compares. Not a benchmark; started by it, each with its own Python.

    python benchmarks/predict_servers.py fastapi 8001 zoo/…/<digest>.safetensors

All but `ceiling` answer with eager PyTorch, as their own examples do, one thread each, and decode with Pillow.
"""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, UploadFile


class TorchClassifier:
    """PNG bytes to labels, as one would write it by hand."""

    def __init__(self, path: Path) -> None:
        import torch

        from zoo.checkpoint import load
        from zoo.module import module_of, normalize

        torch.set_num_threads(1)
        checkpoint = load(path)
        self.classes = checkpoint.descriptor.classes
        self._module = module_of(checkpoint).eval()
        self._normalize = lambda pixels: normalize(pixels, checkpoint.descriptor.preprocessing)

    def decode(self, data: bytes) -> np.ndarray:
        from PIL import Image

        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def probabilities(self, images: list[np.ndarray]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
            return self._module(self._normalize(pixels)).softmax(dim=1).numpy()

    def top_5(self, scores: np.ndarray) -> dict[str, Any]:
        best = np.argsort(-scores)[:5]
        return {"predictions": [{"label": self.classes[i], "score": float(scores[i])} for i in best]}


def fastapi(port: int, path: Path) -> None:
    import uvicorn

    classifier = TorchClassifier(path)
    app = FastAPI()

    @app.post("/predict")
    def predict(file: UploadFile) -> dict[str, Any]:
        [scores] = classifier.probabilities([classifier.decode(file.file.read())])
        return classifier.top_5(scores)

    uvicorn.run(app, port=port, log_level="error", access_log=False)


def ceiling(port: int, path: Path) -> None:
    """This project's server, the forward pass taken out."""
    import typer

    from app.__main__ import main
    from zoo.predictor import Predictor

    def answer_at_once(self: Predictor, _: str, pixels: np.ndarray) -> np.ndarray:
        num_classes = len(self.descriptor.classes)
        return np.full((len(pixels), num_classes), 1 / num_classes, np.float32)

    Predictor._run = answer_at_once  # type: ignore[method-assign]
    sys.argv = ["zoo-serve", "--zoo", str(path.parent), "--port", str(port), "--log-level", "error"]
    typer.run(main)


def mlserver(port: int, path: Path, max_batch_size: str, batch_timeout: str) -> None:
    """Its images come as base64 in the Open Inference Protocol's JSON: it takes no forms."""
    import asyncio

    from mlserver import MLModel, MLServer, ModelSettings, Settings
    from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

    class Model(MLModel):
        async def load(self) -> bool:
            self.classifier = TorchClassifier(path)
            return True

        async def predict(self, payload: InferenceRequest) -> InferenceResponse:
            texts = payload.inputs[0].data.root
            scores = self.classifier.probabilities([self.classifier.decode(base64.b64decode(text)) for text in texts])
            answers = [json.dumps(self.classifier.top_5(row)) for row in scores]
            output = ResponseOutput(name="answer", shape=[len(answers), 1], datatype="BYTES", data=answers)
            return InferenceResponse(model_name=self.name, outputs=[output])

    async def run() -> None:
        settings = Settings(
            http_port=port,
            grpc_port=port + 1000,
            metrics_port=port + 2000,
            parallel_workers=0,
            debug=False,
            max_batch_size=int(max_batch_size),
        )
        server = MLServer(settings)
        model = ModelSettings(
            name="net", implementation=Model, max_batch_size=int(max_batch_size), max_batch_time=float(batch_timeout)
        )
        await server.start([model])

    asyncio.run(run())


if __name__ == "__main__":
    kind, port, path, *options = sys.argv[1:]
    globals()[kind](int(port), Path(path), *options)
