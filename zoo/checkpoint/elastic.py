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
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from zoo.checkpoint.elastic_header import (
    FLOAT_BYTES,
    MAX_LEVELS,
    MIN_LEVELS,
    ElasticDescriptor,
    Level,
    LevelDescriptor,
    header_bytes,
    levels_of,
    naming,
)
from zoo.checkpoint.file import Checkpoint, Header, decode, digest_of, encode, header_of
from zoo.checkpoint.nesting import Network, added, restored
from zoo.errors import CheckpointError, NoModelMeetsConstraintsError

SHOWN_DIGITS = 4
_BEGINNING = b'{"__metadata__":{"descriptor":"{\\"format_version\\":2,'


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
        with naming(f"level {number}"):
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
    counts = [len(payload) // FLOAT_BYTES for payload in payloads]
    text = header_bytes(ElasticDescriptor(levels=tuple(described)), counts)
    packed = b"".join([len(text).to_bytes(8, "little"), text, *payloads])
    ElasticFile(io.BytesIO(packed), "levels")  # whatever else a reader asks for
    return packed


def extract(data: bytes, level: int) -> bytes:
    """The ordinary file of a level. Needs and reads no more than the level's `prefix_bytes`. Raises CheckpointError."""
    return ElasticFile(io.BytesIO(data)).extract(level)


def reaching(levels: Sequence[Level], min_acc: float | None) -> list[Level]:
    """Those with that test accuracy, as it is shown or in full, the smallest first; without a bound the largest first.

    Raises NoModelMeetsConstraintsError where there is none.
    """
    if min_acc is None:
        return list(reversed(levels))
    known = [level for level in levels if level.accuracy is not None]
    found = [level for level in known if max(level.accuracy or 0, round(level.accuracy or 0, SHOWN_DIGITS)) >= min_acc]
    if found:
        return found
    best = max((level.accuracy or 0 for level in known), default=None)
    has = "their accuracies are unknown" if best is None else f"the best has {best:.{SHOWN_DIGITS}f}"
    raise NoModelMeetsConstraintsError(f"none of {len(levels)} levels reaches accuracy {min_acc:g}; {has}", None)


def read_levels(path: Path) -> tuple[Level, ...]:
    """All that the file tells of, those too of which the bytes are not there. Raises CheckpointError."""
    with path.open("rb") as file:
        return ElasticFile(file, path.name).levels


def headers_of(path: Path) -> dict[str, Header]:
    """By digest: of the checkpoint that the file is, or of each level of an elastic file. Raises CheckpointError."""
    with path.open("rb") as file:
        if is_elastic(file):
            elastic = ElasticFile(file, path.name)
            elastic.require_whole()
            return {level.digest: level.header for level in elastic.levels}
        return {path.stem: header_of(file, path.name)}


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
        with naming(name):
            self.levels = levels_of(file, self.size_bytes)

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
            with naming(f"{self._name}: level {level.number}"):
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
