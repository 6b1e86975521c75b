"""The Open Inference Protocol, which the clients of Triton and KServe speak.

A model is any way to name a checkpoint, its version the digest. Input `images` is either pixels as the network takes
them, UINT8 (n, height, width, channels), or whole image files of any size, BYTES (n). Outputs are `scores`, FP32
(n, classes), and `labels`, BYTES (n): the likeliest class.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from app.http.openapi import BINARY, declared, described, reading
from app.http.problems import ProblemError
from app.predict import tensors
from app.predict.tensors import LENGTH_HEADER, InferRequest, Output, RequestInput, RequestOutput, TensorError
from app.routes.health import ready
from app.service import Service, ServiceDep
from zoo.catalog.rows import CheckpointRow
from zoo.errors import NotFoundError

router = APIRouter(prefix="/v2", tags=["open inference protocol"])

INPUT = "images"
_OUTPUTS = ("scores", "labels")
# Names and shapes in the JSON of a request, beside its data.
_MAX_OTHER_VALUES = 1024
# Of JSON: a few milliseconds at worst.
_MAX_BYTES_ON_LOOP = 64 * 1024
_EXAMPLE = {"inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [1], "data": ["iVBORw0KGgo…"]}]}
_REQUEST_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": described(InferRequest), "example": _EXAMPLE},
        "application/octet-stream": BINARY,
    },
}
_OF_MODEL = declared(404, 410)
_INFERRED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The outputs, in the protocol's JSON, or in bytes behind it where the request asks so.",
        "content": {
            "application/json": {"schema": {"type": "object", "additionalProperties": True}},
            "application/octet-stream": BINARY,
        },
    },
    **_OF_MODEL,
}
Scores = npt.NDArray[np.float32]


@reading(router, "")
async def server_metadata() -> dict[str, Any]:
    """Name, version and extensions of this server."""
    extensions = ["binary_tensor_data", "classification"]
    return {"name": "checkpoint-zoo", "version": version("checkpoint-zoo"), "extensions": extensions}


@reading(router, "/health/live")
async def server_live() -> dict[str, bool]:
    """The process answers."""
    return {"live": True}


@reading(router, "/health/ready")
def server_ready(service: ServiceDep) -> dict[str, bool]:
    """As /readyz: 503 until the default checkpoint has answered once."""
    ready(service)
    return {"ready": True}


@reading(router, "/models/{name}", responses=_OF_MODEL)
def model_metadata(name: str, service: ServiceDep) -> dict[str, Any]:
    """Inputs and outputs of a checkpoint."""
    return _metadata(name, service, None)


@reading(router, "/models/{name}/versions/{version}", responses=_OF_MODEL)
def version_metadata(name: str, version: str, service: ServiceDep) -> dict[str, Any]:
    """The same, of the version that is the checkpoint's digest."""
    return _metadata(name, service, version)


def _metadata(name: str, service: Service, version: str | None) -> dict[str, Any]:
    row = _checkpoint(service, name, version)
    architecture = service.zoo.files.descriptor(row.digest).architecture
    pixels = [-1, architecture.input_height, architecture.input_width, architecture.input_channels]
    return {
        "name": name,
        "versions": [row.digest],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": pixels}],
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [-1, architecture.num_classes]},
            {"name": "labels", "datatype": "BYTES", "shape": [-1]},
        ],
    }


@reading(router, "/models/{name}/ready", responses=_OF_MODEL)
def model_ready(name: str, service: ServiceDep) -> dict[str, Any]:
    """Any checkpoint of the zoo is: it is loaded by the first request that needs it."""
    _checkpoint(service, name, None)
    return {"name": name, "ready": True}


@reading(router, "/models/{name}/versions/{version}/ready", responses=_OF_MODEL)
def version_ready(name: str, version: str, service: ServiceDep) -> dict[str, Any]:
    """The same, of the version that is the checkpoint's digest."""
    _checkpoint(service, name, version)
    return {"name": name, "ready": True}


@router.post("/models/{name}/infer", responses=_INFERRED, openapi_extra={"requestBody": _REQUEST_BODY})
async def infer(name: str, request: Request, service: ServiceDep) -> Response:
    """Classify pixels (UINT8) or image files (BYTES; base64 in JSON)."""
    return await _infer(name, request, service, None)


@router.post(
    "/models/{name}/versions/{version}/infer", responses=_INFERRED, openapi_extra={"requestBody": _REQUEST_BODY}
)
async def infer_version(name: str, version: str, request: Request, service: ServiceDep) -> Response:
    """The same, by the version that is the checkpoint's digest."""
    return await _infer(name, request, service, version)


async def _infer(name: str, request: Request, service: Service, version: str | None) -> Response:
    row = await run_in_threadpool(_checkpoint, service, name, version)
    service.inference.check_room(row.digest)  # before the body is read
    body = await request.body()
    try:
        asked, chunks = await _read(service, row, body, request.headers.get(LENGTH_HEADER))
        outputs = _wanted(asked)
        scores = await _scores(service, row, asked, chunks)
    except TensorError as error:
        raise ProblemError(400, "bad-tensor", str(error)) from error
    labels = np.array(json.loads(row.classes), dtype=object)
    answer = {"model_name": name, "model_version": row.digest} | ({} if asked.id is None else {"id": asked.id})
    content, length = tensors.write(answer, [_output(output, asked, scores, labels) for output in outputs])
    if length is None:
        return Response(content, media_type="application/json")
    return Response(content, headers={LENGTH_HEADER: str(length)}, media_type="application/octet-stream")


def _checkpoint(service: Service, name: str, version: str | None) -> CheckpointRow:
    """A version is the digest, or its first digits, of a checkpoint that has the model's name."""
    if version is None:
        return service.zoo.chooser.find(name)
    row = service.zoo.chooser.find(version)
    if name != row.name and service.zoo.chooser.find(name) != row:
        raise NotFoundError(f"version {version} is of the model {row.name}, not of {name}")
    return row


async def _read(
    service: Service, row: CheckpointRow, body: bytes, header_length: str | None
) -> tuple[InferRequest, list[bytes | None]]:
    length = tensors.json_length(body, header_length)
    architecture = service.zoo.files.descriptor(row.digest).architecture
    # Of each pixel its numbers, and two brackets at most.
    num_numbers = architecture.input_height * architecture.input_width * (architecture.input_channels + 2)
    max_values = service.settings.max_images * num_numbers + _MAX_OTHER_VALUES
    work = service.inference.work
    if length <= _MAX_BYTES_ON_LOOP:
        tensors.memory_bytes(body[:length], max_values)
        return tensors.read(body, length)
    num_bytes = await work.decode(length, tensors.memory_bytes, body[:length], max_values)
    if num_bytes > work.max_bytes:
        raise TensorError(f"the JSON takes {num_bytes >> 20} MiB to parse: send the bytes behind it (binary_data_size)")
    return await work.decode(num_bytes, tensors.read, body, length)


def _wanted(asked: InferRequest) -> list[RequestOutput]:
    """All outputs where the request names none."""
    unknown = [output.name for output in asked.outputs or () if output.name not in _OUTPUTS]
    if unknown:
        raise TensorError(f"no output {', '.join(unknown)}: there are {', '.join(_OUTPUTS)}")
    return asked.outputs or [RequestOutput(name=name) for name in _OUTPUTS]


async def _scores(service: Service, row: CheckpointRow, asked: InferRequest, chunks: list[bytes | None]) -> Scores:
    if [tensor.name for tensor in asked.inputs] != [INPUT]:
        names = ", ".join(tensor.name for tensor in asked.inputs) or "none"
        raise TensorError(f"there is one input, {INPUT}; came: {names}")
    [tensor], [data] = asked.inputs, chunks
    num_images = tensor.shape[0] if tensor.shape else 0
    if not 1 <= num_images <= service.settings.max_images:
        raise TensorError(f"a request takes 1 to {service.settings.max_images} images, its shape is {tensor.shape}")
    architecture = service.zoo.files.descriptor(row.digest).architecture
    shape = [num_images, architecture.input_height, architecture.input_width, architecture.input_channels]
    if tensor.shape != {"UINT8": shape, "BYTES": [num_images]}.get(tensor.datatype):
        raise TensorError(
            f"input {INPUT} is UINT8 {[-1, *shape[1:]]} or BYTES [-1], came: {tensor.datatype} {tensor.shape}"
        )
    if tensor.datatype == "BYTES":
        files = await service.inference.work.decode(_size(tensor, data), tensors.as_files, tensor, data)
        answer = await service.inference.classify(row.digest, files, architecture.num_classes)
        return answer.scores
    pixels = await service.inference.work.decode(_size(tensor, data), tensors.as_pixels, tensor, data)
    scores, _ = await service.inference.probabilities(row.digest, pixels)
    return scores


def _size(tensor: RequestInput, data: bytes | None) -> int:
    """What it takes to read it: the copy of its bytes, or numbers of 8."""
    return len(data) if data is not None else 8 * min(len(tensor.data or ()), prod(tensor.shape))


def _output(wanted: RequestOutput, asked: InferRequest, scores: Scores, labels: npt.NDArray[Any]) -> Output:
    parameters = wanted.parameters
    binary = bool(asked.parameters.binary_data_output if parameters.binary_data is None else parameters.binary_data)
    if wanted.name == "labels":
        return Output("labels", "BYTES", labels[scores.argmax(axis=1)], binary)
    if not parameters.classification:
        return Output("scores", "FP32", scores, binary)
    # Triton's form of the k likeliest: "score:index:label", likeliest first.
    best = np.argsort(-scores, axis=1, kind="stable")[:, : parameters.classification]
    texts = [[f"{line[i]:f}:{i}:{labels[i]}" for i in order] for line, order in zip(scores, best, strict=True)]
    return Output("scores", "BYTES", np.array(texts, dtype=object), binary)
