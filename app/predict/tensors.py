"""Tensors as the Open Inference Protocol carries them: as JSON, or (an extension) as bytes behind the JSON.

    {"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [12, 9, …]}]}
    {"inputs": [{…, "parameters": {"binary_data_size": 3072}}]}<3072 bytes>

In bytes, numbers are little endian, and an element of BYTES is its length in 4 bytes and then itself. In JSON an
element of BYTES is a string: base64 in what we read, since an image file is no text, and text in what we write.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, WithJsonSchema
from pydantic.config import JsonDict

from app.admission.json_size import MAX_SMALL_JSON_BYTES, count_values
from app.http.schemas import null_as_nothing

MAX_DIMENSION = 2**31
LENGTH_HEADER = "Inference-Header-Content-Length"
# An empty list in a list.
_BYTES_PER_VALUE = 72
_MAX_DIMENSIONS = 8
_MAX_TENSORS = 16
# More digits than any body's length has; of thousands Python makes no number.
_LENGTH = re.compile(r"[0-9]{1,18}")


# Nested lists are read too.
_FLAT_DATA: JsonDict = {
    "anyOf": [
        {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}},
        {"type": "array", "items": {"type": "string", "contentEncoding": "base64"}},
        {"type": "null"},
    ],
    "default": None,
}


class TensorError(Exception):
    """A request that cannot be read; the message says what was expected and what came."""


class InputParameters(BaseModel):
    binary_data_size: Annotated[int, Field(ge=0)] | None = None


class RequestInput(BaseModel):
    name: Annotated[str, Field(json_schema_extra={"enum": ["images"]})]
    datatype: Annotated[str, Field(json_schema_extra={"enum": ["UINT8", "BYTES"]})]
    shape: Annotated[list[Annotated[int, Field(ge=0, le=MAX_DIMENSION)]], Field(max_length=_MAX_DIMENSIONS)]
    parameters: Annotated[
        InputParameters, BeforeValidator(null_as_nothing, json_schema_input_type=InputParameters | None)
    ] = Field(default_factory=InputParameters)
    data: Annotated[list[Any] | None, WithJsonSchema(_FLAT_DATA)] = None


class OutputParameters(BaseModel):
    binary_data: bool | None = None
    classification: Annotated[int, Field(ge=0, le=1000)] | None = None


class RequestOutput(BaseModel):
    name: Annotated[str, Field(json_schema_extra={"enum": ["scores", "labels"]})]
    parameters: Annotated[
        OutputParameters, BeforeValidator(null_as_nothing, json_schema_input_type=OutputParameters | None)
    ] = Field(default_factory=OutputParameters)


class RequestParameters(BaseModel):
    binary_data_output: bool | None = None


class InferRequest(BaseModel):
    """What clients send beyond this is for other servers: it is left alone."""

    id: str | None = None
    inputs: Annotated[
        list[RequestInput], Field(max_length=_MAX_TENSORS, json_schema_extra={"minItems": 1, "maxItems": 1})
    ]
    outputs: Annotated[list[RequestOutput], Field(max_length=_MAX_TENSORS)] | None = None
    parameters: Annotated[
        RequestParameters, BeforeValidator(null_as_nothing, json_schema_input_type=RequestParameters | None)
    ] = Field(default_factory=RequestParameters)


@dataclass(frozen=True, slots=True)
class Output:
    name: str
    datatype: Literal["FP32", "BYTES"]
    values: npt.NDArray[Any]  # of text, where the datatype is BYTES
    binary: bool


def json_length(body: bytes, header_length: str | None) -> int:
    """How much of the body is JSON. Raises TensorError."""
    if header_length is None:
        return len(body)
    if not _LENGTH.fullmatch(header_length) or int(header_length) > len(body):
        raise TensorError(f"{LENGTH_HEADER} is {header_length}, the body has {len(body)} bytes")
    if int(header_length) > MAX_SMALL_JSON_BYTES:
        raise TensorError(f"{LENGTH_HEADER} is {header_length}; at most {MAX_SMALL_JSON_BYTES} bytes are read")
    return int(header_length)


def memory_bytes(text: bytes, max_values: int) -> int:
    """What parsing takes, at most. Raises TensorError where the JSON holds more than `max_values` numbers and names."""
    if (count := count_values(text)) > max_values:
        raise TensorError(
            f"the JSON holds about {count} values, at most {max_values} are read: send fewer images, or their bytes "
            "behind the JSON (binary_data_size)"
        )
    return _BYTES_PER_VALUE * count + 2 * len(text)


def read(body: bytes, length: int) -> tuple[InferRequest, list[bytes | None]]:
    """The request, `length` bytes of JSON, and for each input its bytes if it has some. Raises TensorError."""
    try:
        request = InferRequest.model_validate_json(body[:length])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise TensorError(f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}") from error
    chunks: list[bytes | None] = []
    for tensor in request.inputs:
        size = tensor.parameters.binary_data_size
        if (size is None) == (tensor.data is None):
            raise TensorError(f"input {tensor.name}: give either data or the parameter binary_data_size")
        chunks.append(None if size is None else body[length : length + size])
        length += size or 0
    if length != len(body):
        raise TensorError(f"the inputs promise a body of {length} bytes, it has {len(body)}")
    return request, chunks


def as_pixels(tensor: RequestInput, data: bytes | None) -> npt.NDArray[np.uint8]:
    """The values of an input of datatype UINT8. Raises TensorError."""
    count = prod(tensor.shape)
    if data is not None:
        values = np.frombuffer(data, dtype=np.uint8)
    else:
        try:
            values = np.asarray(tensor.data).reshape(-1)
        except ValueError:
            raise TensorError(f"input {tensor.name}: data is nested unevenly") from None
        if values.size and (values.dtype.kind != "i" or values.min() < 0 or values.max() > 255):
            raise TensorError(f"input {tensor.name}: UINT8 holds whole numbers from 0 to 255")
    if values.size != count:
        raise TensorError(f"input {tensor.name}: shape {tensor.shape} has {count} values, {values.size} came")
    return values.astype(np.uint8, copy=False).reshape(tensor.shape)


def as_files(tensor: RequestInput, data: bytes | None) -> list[bytes]:
    """The elements of an input of datatype BYTES. Raises TensorError."""
    files = _elements(tensor, data) if data is not None else _from_base64(tensor)
    if prod(tensor.shape) != len(files):
        raise TensorError(
            f"input {tensor.name}: shape {tensor.shape} has {prod(tensor.shape)} files, {len(files)} came"
        )
    return files


def _elements(tensor: RequestInput, data: bytes) -> list[bytes]:
    """One more than the shape has at most: empty ones are 4 bytes each."""
    elements: list[bytes] = []
    place = 0
    while place < len(data) and len(elements) <= prod(tensor.shape):
        start = place + 4
        place = start + int.from_bytes(data[place:start], "little")
        if place > len(data):
            raise TensorError(f"input {tensor.name}: an element ends at byte {place}, there are {len(data)}")
        elements.append(data[start:place])
    return elements


def _from_base64(tensor: RequestInput) -> list[bytes]:
    try:
        return [base64.b64decode(text, validate=True) for text in np.asarray(tensor.data, dtype=object).reshape(-1)]
    except (ValueError, TypeError) as error:
        raise TensorError(f"input {tensor.name}: BYTES in JSON are the base64 of an image file: {error}") from error


def write(answer: dict[str, Any], outputs: Sequence[Output]) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON where bytes follow."""
    described, chunks = [], []
    for output in outputs:
        entry: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(output.values.shape)}
        if output.binary:
            chunks.append(_to_bytes(output))
            entry["parameters"] = {"binary_data_size": len(chunks[-1])}
        else:
            entry["data"] = output.values.reshape(-1).tolist()
        described.append(entry)
    header = json.dumps({**answer, "outputs": described}, ensure_ascii=False).encode()
    return b"".join([header, *chunks]), len(header) if chunks else None


def _to_bytes(output: Output) -> bytes:
    if output.datatype == "FP32":
        return output.values.astype("<f4").tobytes()
    texts = [str(text).encode() for text in output.values.reshape(-1)]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
