"""The servers that benchmarks/predict.py compares. Not a benchmark; started by it, each with its own Python.

    python benchmarks/predict_servers.py fastapi 8001 zoo/…/<digest>.safetensors

`onnx` is what a reader would write instead of this project: FastAPI with UploadFile, Pillow and ONNX Runtime. The
others but `ceiling` answer with eager PyTorch, as their own examples do. All have one thread, and decode with Pillow.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, UploadFile


class TorchClassifier:
    """PNG bytes to labels, as one would write it by hand."""

    def __init__(self, path: Path) -> None:
        import torch

        from zoo.checkpoint.file import load
        from zoo.runtime.module import module_of, normalize

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


def onnx(port: int, path: Path) -> None:
    """Fifteen lines around the file that `zoo get --format onnx` fetches."""
    import uvicorn
    from PIL import Image

    from zoo.checkpoint.file import load
    from zoo.runtime import onnx_model, onnx_runtime

    checkpoint = load(path)
    classes = checkpoint.descriptor.classes
    options = onnx_runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnx_runtime.InferenceSession(onnx_model.build(checkpoint), options)
    app = FastAPI()

    @app.post("/predict")
    async def predict(file: UploadFile) -> dict[str, Any]:
        pixels = np.asarray(Image.open(io.BytesIO(await file.read())).convert("RGB").resize((32, 32)))
        [[scores]] = session.run(["probabilities"], {"images": pixels[None]})
        best = np.argsort(-scores)[:5]
        return {"predictions": [{"label": classes[i], "score": float(scores[i])} for i in best]}

    uvicorn.run(app, port=port, log_level="error", access_log=False)


def ceiling(port: int, path: Path) -> None:
    """This project's server, the forward pass taken out."""
    import typer

    from app.__main__ import main
    from zoo.runtime.predictor import Predictor

    def answer_at_once(self: Predictor, _: str, pixels: np.ndarray) -> np.ndarray:
        num_classes = len(self.descriptor.classes)
        return np.full((len(pixels), num_classes), 1 / num_classes, np.float32)

    Predictor._run = answer_at_once  # type: ignore[method-assign]
    sys.argv = ["zoo-serve", "--zoo", str(path.parent), "--port", str(port), "--log-level", "error"]
    typer.run(main)


if __name__ == "__main__":
    kind, port, path = sys.argv[1:]
    {"fastapi": fastapi, "onnx": onnx, "ceiling": ceiling}[kind](int(port), Path(path))
