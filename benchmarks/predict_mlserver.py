"""MLServer, for benchmarks/predict.py. In a file of its own, because it imports models by name.

    python benchmarks/predict_mlserver.py 8001 zoo/…/<digest>.safetensors 16 0.002

Its images come as base64 in the Open Inference Protocol's JSON: it takes no forms.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from predict_servers import TorchClassifier


class Model(MLModel):
    async def load(self) -> bool:
        self.classifier = TorchClassifier(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = [self.classifier.decode(base64.b64decode(text)) for text in payload.inputs[0].data.root]
        answers = [json.dumps(self.classifier.top_5(scores)) for scores in self.classifier.probabilities(images)]
        output = ResponseOutput(name="answer", shape=[len(answers), 1], datatype="BYTES", data=answers)
        return InferenceResponse(model_name=self.name, outputs=[output])


async def run(port: int, path: str, max_batch_size: int, batch_timeout: float) -> None:
    settings = Settings(
        host="127.0.0.1",
        http_port=port,
        grpc_port=port + 1000,
        metrics_port=port + 2000,
        parallel_workers=0,
        debug=False,
    )
    model = ModelSettings(
        name="net",
        implementation="predict_mlserver.Model",
        max_batch_size=max_batch_size,
        max_batch_time=batch_timeout,
        parameters=ModelParameters(uri=path),
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    port, path, max_batch_size, batch_timeout = sys.argv[1:]
    asyncio.run(run(int(port), path, int(max_batch_size), float(batch_timeout)))
