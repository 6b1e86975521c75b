"""One safetensors file that holds several sizes of a network, the smaller ones within the larger.

    8 bytes      length of the header, little endian
    header       JSON: {"__metadata__": {"descriptor": "…"}, "level.00": {"dtype": "F32", "shape", "data_offsets"}, …}
    level.00     the smallest network          ◄─ prefix_bytes of level 0 end here
    level.01     what the next one adds to it  ◄─ those of level 1: the network of level 1 is in these bytes
    …

A level is the ordinary checkpoint that was packed: it comes out byte for byte, and that file's digest is its own. Only
the bytes up to its end are needed, so a file can be sent up to a level, used, and continued later. For given levels
there is one file: what is read must be what `pack` writes.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zoo.checkpoint.descriptor import Descriptor, Digest
from zoo.checkpoint.file import MAX_HEADER_BYTES, METADATA_KEY, Checkpoint, Header, decode, digest_of, encode
from zoo.checkpoint.nesting import Network, added, num_added, restored
from zoo.errors import CheckpointError, NoModelMeetsConstraintsError, ZooError
from zoo.network.cost import MAX_COUNT, num_macs, num_params
from zoo.network.graph import Graph, tensor_shapes

MIN_LEVELS, MAX_LEVELS = 2, 8
SHOWN_DIGITS = 4
_FLOAT_BYTES = 4
_BEGINNING = b'{"__metadata__":{"descriptor":"{\\"format_version\\":2,'


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LevelDescriptor(_Frozen):
    """`digest` and `size_bytes` are of the ordinary file, `payload` is the SHA-256 of what the level adds."""

    digest: Digest
    size_bytes: Annotated[int, Field(ge=1, le=MAX_COUNT)]
    payload: Digest
    descriptor: Descriptor


class ElasticDescriptor(_Frozen):
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


def pack(levels: Sequence[bytes]) -> bytes:
    """An elastic file of these ordinary checkpoint files, the smallest first.

    >>> elastic = pack([small, large])
    >>> extract(elastic, 0) == small, extract(elastic, 1) == large
    (True, True)

    Raises CheckpointError, with level and tensor, where one does not lie within the next, bit for bit.
    """
    if not MIN_LEVELS <= len(levels) <= MAX_LEVELS:
        raise CheckpointError(f"an elastic file has {MIN_LEVELS} to {MAX_LEVELS} levels, not {len(levels)}")
    described: list[LevelDescriptor] = []
    payloads: list[bytes] = []
    smaller: Network | None = None
    for number, data in enumerate(levels):
        with _naming(f"level {number}"):
            checkpoint = decode(data)
            if encode(checkpoint) != data:
                raise CheckpointError("written by another program, its bytes could not be restored")
            network = checkpoint.descriptor.architecture.graph(), checkpoint.tensors
            payloads.append(added(network, smaller).tobytes())
        described.append(
            LevelDescriptor(
                digest=digest_of(data),
                size_bytes=len(data),
                payload=digest_of(payloads[-1]),
                descriptor=checkpoint.descriptor,
            )
        )
        smaller = network
    counts = [len(payload) // _FLOAT_BYTES for payload in payloads]
    text = _header(ElasticDescriptor(levels=tuple(described)), counts)
    packed = b"".join([len(text).to_bytes(8, "little"), text, *payloads])
    ElasticFile(io.BytesIO(packed), "levels")  # whatever else a reader asks for
    return packed


def extract(data: bytes, level: int) -> bytes:
    """The ordinary file of a level. Needs and reads no more than the level's `prefix_bytes`. Raises CheckpointError."""
    return ElasticFile(io.BytesIO(data)).extract(level)


def reaching(levels: Sequence[Level], min_acc: float | None) -> Level:
    """The smallest with that test accuracy, as it is shown or in full; without a bound the largest.

    Raises NoModelMeetsConstraintsError.
    """
    if min_acc is None:
        return levels[-1]
    known = [level for level in levels if level.accuracy is not None]
    for level in known:
        if max(level.accuracy or 0, round(level.accuracy or 0, SHOWN_DIGITS)) >= min_acc:
            return level
    best = max((level.accuracy or 0 for level in known), default=None)
    found = "their accuracies are unknown" if best is None else f"the best has {best:.{SHOWN_DIGITS}f}"
    raise NoModelMeetsConstraintsError(f"none of {len(levels)} levels reaches accuracy {min_acc:g}; {found}", None)


def read_levels(path: Path) -> tuple[Level, ...]:
    """All that the file tells of, those too of which the bytes are not there. Raises CheckpointError."""
    with path.open("rb") as file:
        return ElasticFile(file, path.name).levels


def is_elastic(file: BinaryIO) -> bool:
    """Whether it begins as an elastic file does; then it is read by no other reader."""
    file.seek(8)
    return file.read(len(_BEGINNING)) == _BEGINNING


class ElasticFile:
    """An elastic file, or the beginning of one; read as far as is asked, and checked as far as it is read.

    >>> with open("net.safetensors", "rb") as file:
    ...     elastic = ElasticFile(file)
    ...     [level.header.params for level in elastic.there]
    ...     small = elastic.extract(0)
    """

    def __init__(self, file: BinaryIO, name: str = "elastic file") -> None:
        """Reads the header alone. Raises CheckpointError, with `name`, where that is not one that `pack` writes."""
        self._file, self._name = file, name
        self.size_bytes = file.seek(0, os.SEEK_END)
        file.seek(0)
        with _naming(name):
            self.levels = _levels(file, self.size_bytes)

    @property
    def there(self) -> tuple[Level, ...]:
        """The levels of which all bytes are there."""
        return tuple(level for level in self.levels if level.prefix_bytes <= self.size_bytes)

    def require_whole(self) -> None:
        """Raises CheckpointError where the file is only the beginning of one."""
        promised = self.levels[-1].prefix_bytes
        if self.size_bytes != promised:
            raise CheckpointError(f"{self._name}: the header promises {promised} bytes, the file has {self.size_bytes}")

    def extract(self, level: int) -> bytes:
        """The ordinary file of a level. Raises CheckpointError where its bytes are not there, or not those it had."""
        if not 0 <= level < len(self.levels):
            raise CheckpointError(f"{self._name}: no level {level}: there are levels 0 to {len(self.levels) - 1}")
        *_, found = self.files(level, level)
        return found

    def files(self, first: int = 0, last: int | None = None) -> Iterator[bytes]:
        """The ordinary files of levels `first` to `last`, in one pass; of all without. Raises as `extract`."""
        smaller: Network | None = None
        self._file.seek(self.levels[0].start)
        for level in self.levels[: None if last is None else last + 1]:
            with _naming(f"{self._name}: level {level.number}"):
                smaller = self._network(level, smaller)
                if level.number < first:
                    continue
                data = encode(Checkpoint(level.header.descriptor, smaller[1]))
                if (len(data), digest_of(data)) != (level.header.size_bytes, level.digest):
                    raise CheckpointError(
                        f"it is the file {digest_of(data)} of {len(data)} bytes, where the header promises "
                        f"{level.digest} of {level.header.size_bytes}"
                    )
            yield data

    def _network(self, level: Level, smaller: Network | None) -> Network:
        if level.prefix_bytes > self.size_bytes:
            raise CheckpointError(f"it needs the first {level.prefix_bytes} bytes, {self.size_bytes} are there")
        payload = self._file.read(level.prefix_bytes - level.start)
        if (found := digest_of(payload)) != level.payload:
            raise CheckpointError(f"its values have SHA-256 {found}, not {level.payload}: changed or damaged")
        graph = level.header.descriptor.architecture.graph()
        return graph, restored(graph, np.frombuffer(payload, "<f4"), smaller)


def _levels(file: BinaryIO, size_bytes: int) -> tuple[Level, ...]:
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
        starts.append(starts[-1] + _FLOAT_BYTES * count)
    if size_bytes > starts[-1]:
        raise CheckpointError(f"the header promises {starts[-1]} bytes, the file has {size_bytes}")
    for before, after in pairwise(descriptor.levels):
        _check_next(before.descriptor, after.descriptor)
    levels: list[Level] = []
    smaller: Graph | None = None
    for number, (described, count) in enumerate(zip(descriptor.levels, counts, strict=True)):
        with _naming(f"level {number}"):
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
        raise CheckpointError(f"the safetensors header cannot be read: {error!r}") from error
    try:
        descriptor = ElasticDescriptor.model_validate_json(described, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise CheckpointError(f"{'.'.join(map(str, first['loc'])) or 'descriptor'}: {first['msg']}") from error
    names = [_name(number) for number in range(len(descriptor.levels))]
    if list(header) != names or not all(type(count) is int and 0 < count <= MAX_COUNT for count in counts):
        found = list(zip(header, counts, strict=True))[: MAX_LEVELS + 1]
        raise CheckpointError(f"expected the tensors {', '.join(names)}, each of some values, came {found}")
    if text != _header(descriptor, counts):
        raise CheckpointError("the header is not as it is written: float32 tensors without gaps or overlaps, no spaces")
    return descriptor, counts


def _header(descriptor: ElasticDescriptor, counts: Sequence[int]) -> bytes:
    """As the safetensors library writes it: padded so that the tensors begin at a multiple of 8."""
    header: dict[str, Any] = {"__metadata__": {METADATA_KEY: descriptor.model_dump_json()}}
    end = 0
    for number, count in enumerate(counts):
        begin, end = end, end + _FLOAT_BYTES * count
        header[_name(number)] = {"dtype": "F32", "shape": [count], "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _name(number: int) -> str:
    return f"level.{number:02}"


def _ordinary(level: LevelDescriptor, graph: Graph) -> Header:
    """Raises CheckpointError for a size that the file cannot have, and for a network that nobody can run."""
    weights, macs = _FLOAT_BYTES * sum(map(prod, tensor_shapes(graph).values())), num_macs(graph)
    if not weights < level.size_bytes <= weights + 8 + MAX_HEADER_BYTES:
        raise CheckpointError(f"its weights take {weights} bytes, its file cannot have {level.size_bytes}")
    if macs > MAX_COUNT:
        raise CheckpointError(f"an image would take {macs} multiply-accumulates: no network that runs")
    return Header(level.descriptor, num_params(graph), macs, level.size_bytes)


def _check_next(smaller: Descriptor, larger: Descriptor) -> None:
    """Both answer the same question about the same images."""
    for what, one, other in (
        ("family", smaller.architecture.family, larger.architecture.family),
        ("input", _input(smaller), _input(larger)),
        ("list of classes", smaller.classes, larger.classes),
        ("preprocessing", smaller.preprocessing, larger.preprocessing),
        ("data set", smaller.dataset, larger.dataset),
    ):
        if one != other:
            raise CheckpointError(f"levels of one file have one {what}, not {str(one)[:200]} and {str(other)[:200]}")


def _input(descriptor: Descriptor) -> tuple[int, int, int]:
    architecture = descriptor.architecture
    return architecture.input_channels, architecture.input_height, architecture.input_width


@contextmanager
def _naming(what: str) -> Iterator[None]:
    try:
        yield
    except ZooError as error:
        raise CheckpointError(f"{what}: {error}") from error
