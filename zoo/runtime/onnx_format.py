"""ONNX's messages in Protocol Buffers' wire format: as many of them as our networks take.

Written by hand, because the package onnx takes 8 MB of memory in each process that serves, for these few. Numbers of
fields and types are those of onnx/onnx.proto; fields are written in the order of their numbers, as Protocol Buffers do.

A message is kept in parts until it is written, so that its length can be told without its weights: `Blank` stands for
them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

# TensorProto.DataType
FLOAT, UINT8 = 1, 2
# AttributeProto.AttributeType
_FLOAT_ATTRIBUTE, _INT_ATTRIBUTE, _INTS_ATTRIBUTE = 1, 2, 7

Attribute = int | float | Sequence[int]


class Content(Protocol):
    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Blank:
    """So many bytes, whatever they are."""

    num_bytes: int

    def __len__(self) -> int:
        return self.num_bytes


class Message:
    def __init__(self, parts: list[Content]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    @property
    def parts(self) -> list[Content]:
        return self._parts

    def to_bytes(self) -> bytes:
        assert all(isinstance(part, bytes) for part in self._parts), "a blank cannot be written"
        return b"".join(self._parts)  # type: ignore[arg-type]


Field = int | float | str | bytes | Blank | Message


def model(graph: Message, opset: int, ir_version: int, producer_name: str, properties: Mapping[str, str]) -> Message:
    entries = [_message((1, key), (2, value)) for key, value in properties.items()]
    return _message(
        (1, ir_version),
        (2, producer_name),
        (7, graph),
        (8, _message((1, ""), (2, opset))),
        *((14, entry) for entry in entries),
    )


def graph(
    name: str,
    nodes: Iterable[Message],
    initializers: Iterable[Message],
    inputs: Iterable[Message],
    outputs: Iterable[Message],
) -> Message:
    return _message(
        *((1, node) for node in nodes),
        (2, name),
        *((5, initializer) for initializer in initializers),
        *((11, value) for value in inputs),
        *((12, value) for value in outputs),
    )


def node(kind: str, inputs: Iterable[str], output: str, name: str | None = None, **attributes: Attribute) -> Message:
    return _message(
        *((1, tensor) for tensor in inputs),
        (2, output),
        *([] if name is None else [(3, name)]),
        (4, kind),
        *((5, _attribute(key, value)) for key, value in sorted(attributes.items())),
    )


def tensor(name: str, shape: Sequence[int], content: bytes | Blank) -> Message:
    """float32, little endian."""
    return _message(*((1, size) for size in shape), (2, FLOAT), (8, name), (9, content))


def value(name: str, element_type: int, shape: Iterable[int | str]) -> Message:
    """An input or an output; sizes that are free have a name."""
    sizes = [_message((1 if isinstance(size, int) else 2, size)) for size in shape]
    tensor_type = _message((1, element_type), (2, _message(*((1, size) for size in sizes))))
    return _message((1, name), (2, _message((1, tensor_type))))


def _attribute(name: str, value: Attribute) -> Message:
    match value:
        case float():
            return _message((1, name), (2, value), (20, _FLOAT_ATTRIBUTE))
        case int():
            return _message((1, name), (3, value), (20, _INT_ATTRIBUTE))
        case _:
            return _message((1, name), *((8, item) for item in value), (20, _INTS_ATTRIBUTE))


def _message(*fields: tuple[int, Field]) -> Message:
    return Message([part for number, value in fields for part in _field(number, value)])


def _field(number: int, value: Field) -> list[Content]:
    match value:
        case int():
            return [_varint(number << 3) + _varint(value)]
        case float():
            return [_varint(number << 3 | 5) + struct.pack("<f", value)]
        case str():
            return _field(number, value.encode())
        case _:
            head = _varint(number << 3 | 2) + _varint(len(value))
            return [head, *(value.parts if isinstance(value, Message) else [value])]


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last have the eighth bit set."""
    assert number >= 0, number
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)
