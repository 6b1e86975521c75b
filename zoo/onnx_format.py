"""ONNX's messages in Protocol Buffers' wire format: as many of them as our networks take.

Written by hand, because the package onnx takes 8 MB of memory in each process that serves, for these few. Numbers of
fields and types are those of onnx/onnx.proto; fields are written in the order of their numbers, as Protocol Buffers do.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

# TensorProto.DataType
FLOAT, UINT8 = 1, 2
# AttributeProto.AttributeType
_FLOAT_ATTRIBUTE, _INT_ATTRIBUTE, _INTS_ATTRIBUTE = 1, 2, 7

Attribute = int | float | Sequence[int]


def model(graph: bytes, opset: int, ir_version: int, producer_name: str, properties: Mapping[str, str]) -> bytes:
    entries = [_message((1, key), (2, value)) for key, value in properties.items()]
    return _message(
        (1, ir_version),
        (2, producer_name),
        (7, graph),
        (8, _message((1, ""), (2, opset))),
        *((14, entry) for entry in entries),
    )


def graph(
    name: str, nodes: Iterable[bytes], initializers: Iterable[bytes], inputs: Iterable[bytes], outputs: Iterable[bytes]
) -> bytes:
    return _message(
        *((1, node) for node in nodes),
        (2, name),
        *((5, initializer) for initializer in initializers),
        *((11, value) for value in inputs),
        *((12, value) for value in outputs),
    )


def node(kind: str, inputs: Iterable[str], output: str, name: str | None = None, **attributes: Attribute) -> bytes:
    return _message(
        *((1, tensor) for tensor in inputs),
        (2, output),
        *([] if name is None else [(3, name)]),
        (4, kind),
        *((5, _attribute(key, value)) for key, value in sorted(attributes.items())),
    )


def tensor(name: str, array: npt.NDArray[np.float32]) -> bytes:
    return _message(*((1, size) for size in array.shape), (2, FLOAT), (8, name), (9, array.astype("<f4").tobytes()))


def value(name: str, element_type: int, shape: Iterable[int | str]) -> bytes:
    """An input or an output; sizes that are free have a name."""
    sizes = [_message((1 if isinstance(size, int) else 2, size)) for size in shape]
    tensor_type = _message((1, element_type), (2, _message(*((1, size) for size in sizes))))
    return _message((1, name), (2, _message((1, tensor_type))))


def _attribute(name: str, value: Attribute) -> bytes:
    match value:
        case float():
            return _message((1, name), (2, value), (20, _FLOAT_ATTRIBUTE))
        case int():
            return _message((1, name), (3, value), (20, _INT_ATTRIBUTE))
        case _:
            return _message((1, name), *((8, item) for item in value), (20, _INTS_ATTRIBUTE))


def _message(*fields: tuple[int, int | float | str | bytes]) -> bytes:
    return b"".join(_field(number, value) for number, value in fields)


def _field(number: int, value: int | float | str | bytes) -> bytes:
    match value:
        case int():
            return _varint(number << 3) + _varint(value)
        case float():
            return _varint(number << 3 | 5) + struct.pack("<f", value)
        case _:
            data = value.encode() if isinstance(value, str) else value
            return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last have the eighth bit set."""
    assert number >= 0, number
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)
