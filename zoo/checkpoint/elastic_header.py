"""The header of an elastic file: what it says of its levels, and whether it is one that `elastic.pack` writes.

Cheap checks come first, and nothing is built of a size that is only claimed: the text must be, byte for byte, what is
written for the levels it names, and each level have as many values as its network has more than the one before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import Field, ValidationError

from zoo.checkpoint.descriptor import Descriptor, Digest, Frozen
from zoo.checkpoint.file import MAX_HEADER_BYTES, METADATA_KEY, Header
from zoo.checkpoint.nesting import num_added
from zoo.errors import CheckpointError, ZooError
from zoo.network.cost import MAX_COUNT, num_macs, num_params
from zoo.network.graph import Graph, tensor_shapes

MIN_LEVELS, MAX_LEVELS = 2, 8
FLOAT_BYTES = 4
_ORDINARY = '{"format_version":1,'


class LevelDescriptor(Frozen):
    """`digest` and `size_bytes` are of the ordinary file, `payload` is the SHA-256 of what the level adds."""

    digest: Digest
    size_bytes: Annotated[int, Field(ge=1, le=MAX_COUNT)]
    payload: Digest
    descriptor: Descriptor


class ElasticDescriptor(Frozen):
    """What the file says of itself. A format of its own: readers of ordinary files refuse it."""

    format_version: Literal[2] = 2
    levels: Annotated[tuple[LevelDescriptor, ...], Field(min_length=MIN_LEVELS, max_length=MAX_LEVELS)]


@dataclass(frozen=True, slots=True)
class Level:
    """`header` is what the ordinary file says of itself, its size included.

    The file's bytes from `start` to `prefix_bytes` are what the level adds; those up to `prefix_bytes` all it needs.
    """

    number: int
    digest: str
    header: Header
    payload: str
    start: int
    prefix_bytes: int

    @property
    def accuracy(self) -> float | None:
        """Top-1 on the test split, as the file says."""
        test = self.header.descriptor.metrics.test
        return None if test is None else test.accuracy


def levels_of(file: BinaryIO, size_bytes: int) -> tuple[Level, ...]:
    """Cheap checks first: nothing is built of what the file has no bytes for. Reads the header alone."""
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= min(MAX_HEADER_BYTES, size_bytes - 8):
        raise CheckpointError(
            f"{size_bytes} bytes, header of {length}; a header has at most {MAX_HEADER_BYTES} and is within the file"
        )
    text = file.read(length)
    descriptor, counts = _parsed(text)
    starts = [8 + length]
    for count in counts:
        starts.append(starts[-1] + FLOAT_BYTES * count)
    if size_bytes > starts[-1]:
        raise CheckpointError(f"the header promises {starts[-1]} bytes, the file has {size_bytes}")
    for before, after in pairwise(descriptor.levels):
        _check_next(before.descriptor, after.descriptor)
    levels: list[Level] = []
    smaller: Graph | None = None
    for number, (described, count) in enumerate(zip(descriptor.levels, counts, strict=True)):
        with naming(f"level {number}"):
            graph = described.descriptor.architecture.graph()
            if count != (expected := num_added(graph, smaller)) or expected <= 0:
                raise CheckpointError(f"its networks are {expected} values apart, the file has {count}")
            header = _ordinary(described, graph)
        levels.append(Level(number, described.digest, header, described.payload, starts[number], starts[number + 1]))
        if number and header.params <= levels[-2].header.params:
            raise CheckpointError(f"level {number} has {header.params} parameters, no more than the level before")
        smaller = graph
    return tuple(levels)


def _parsed(text: bytes) -> tuple[ElasticDescriptor, list[int]]:
    """What the header says, and how many values each level adds."""
    try:
        header: Any = json.loads(text)
        described = header.pop("__metadata__")[METADATA_KEY]
        counts = [entry["shape"][0] for entry in header.values()]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        expected = f"JSON with {METADATA_KEY} among its metadata, and tensors with a shape"
        raise CheckpointError(f"the safetensors header is damaged: expected {expected}") from error
    if isinstance(described, str) and described.startswith(_ORDINARY):
        raise CheckpointError("an ordinary checkpoint, no elastic file: format_version is 1, not 2")
    try:
        descriptor = ElasticDescriptor.model_validate_json(described, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise CheckpointError(f"{'.'.join(map(str, first['loc'])) or 'descriptor'}: {first['msg']}") from error
    names = [_name(number) for number in range(len(descriptor.levels))]
    if list(header) != names or not all(type(count) is int and 0 < count <= MAX_COUNT for count in counts):
        found = list(zip(header, counts, strict=True))[: MAX_LEVELS + 1]
        raise CheckpointError(f"expected the tensors {', '.join(names)}, each of some values, came {found}")
    if text != header_bytes(descriptor, counts):
        raise CheckpointError("the header is not as it is written: float32 tensors without gaps or overlaps, no spaces")
    return descriptor, counts


def header_bytes(descriptor: ElasticDescriptor, counts: Sequence[int]) -> bytes:
    """As the safetensors library writes it: padded so that the tensors begin at a multiple of 8."""
    header: dict[str, Any] = {"__metadata__": {METADATA_KEY: descriptor.model_dump_json()}}
    end = 0
    for number, count in enumerate(counts):
        begin, end = end, end + FLOAT_BYTES * count
        header[_name(number)] = {"dtype": "F32", "shape": [count], "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _name(number: int) -> str:
    return f"level.{number:02}"


def _ordinary(level: LevelDescriptor, graph: Graph) -> Header:
    """Raises CheckpointError for a size that the file cannot have, and for a network that nobody can run."""
    weights, macs = FLOAT_BYTES * sum(map(prod, tensor_shapes(graph).values())), num_macs(graph)
    if not weights < level.size_bytes <= weights + 8 + MAX_HEADER_BYTES:
        raise CheckpointError(f"its weights take {weights} bytes, its file cannot have {level.size_bytes}")
    if macs > MAX_COUNT:
        raise CheckpointError(f"an image would take {macs} multiply-accumulates: no network that runs")
    return Header(level.descriptor, num_params(graph), macs, level.size_bytes)


def _check_next(smaller: Descriptor, larger: Descriptor) -> None:
    """Both answer the same question about the same images."""
    for what, one, other in (
        ("family", smaller.architecture.family, larger.architecture.family),
        ("input", smaller.architecture.input_shape, larger.architecture.input_shape),
        ("list of classes", smaller.classes, larger.classes),
        ("preprocessing", smaller.preprocessing, larger.preprocessing),
        ("data set", smaller.dataset, larger.dataset),
    ):
        if one != other:
            raise CheckpointError(f"levels of one file have one {what}, not {str(one)[:200]} and {str(other)[:200]}")


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Errors within are of that, as CheckpointErrors."""
    try:
        yield
    except ZooError as error:
        raise CheckpointError(f"{what}: {error}") from error
