"""One safetensors file: a network's weights and, in the metadata, its descriptor.

    8 bytes    length of the header, little endian
    header     JSON: {"__metadata__": {"descriptor": "…"}, "blocks.0…": {"dtype", "shape", "data_offsets"}, …}
    the rest   float32 tensors, little endian

The stock safetensors library reads such a file. Reading one as a checkpoint checks more than it does: that
the descriptor builds exactly these tensors, and that every weight is finite.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import SEEK_END
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from zoo.checkpoint.descriptor import Descriptor, parse
from zoo.errors import CheckpointError, DescriptorError
from zoo.network.cost import MAX_COUNT, num_macs, num_params
from zoo.network.graph import tensor_shapes

Tensors = Mapping[str, npt.NDArray[np.float32]]

# A checkpoint of 1,000 layers has a header near 540 kB. The safetensors library itself accepts 100 MB and
# takes 15 s over a 60 MB header of empty tensors.
MAX_HEADER_BYTES = 4 * 1024 * 1024
METADATA_KEY = "descriptor"


@dataclass(frozen=True, slots=True)
class Header:
    """All that a file says before its weights are read."""

    descriptor: Descriptor
    params: int
    macs: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A network's weights, and what it says about itself.

    checkpoint = load(Path("net.safetensors"))  # raises CheckpointError
    checkpoint.descriptor.metrics.test
    encode(checkpoint)  # the same bytes again
    """

    descriptor: Descriptor
    tensors: Tensors


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def encode(checkpoint: Checkpoint) -> bytes:
    """The file's bytes; equal checkpoints give equal bytes. Raises CheckpointError where weights do not fit."""
    check_tensors(checkpoint, "checkpoint")
    # One metadata key only: safetensors writes several in random order, and the bytes name the file.
    metadata = {METADATA_KEY: checkpoint.descriptor.to_json()}
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in checkpoint.tensors.items()}
    return safetensors.numpy.save(tensors, metadata=metadata)


def decode(data: bytes, name: str = "checkpoint") -> Checkpoint:
    """Raises CheckpointError, with `name`, unless the bytes are one whole and valid checkpoint."""
    descriptor = _descriptor(_header_json(data[: 8 + MAX_HEADER_BYTES], len(data), name), name)
    try:
        tensors = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{name}: not a whole safetensors file: {error}") from error
    check_tensors(Checkpoint(descriptor, tensors), name)
    # The library returns them in random order; what is built from a checkpoint should not depend on it.
    order = tensor_shapes(descriptor.architecture.graph())
    return Checkpoint(descriptor, {key: tensors[key] for key in order})


def load(path: Path) -> Checkpoint:
    """Reads and checks the file; if it is named by a digest, its bytes must have that digest."""
    return decode(read(path), path.name)


def read(path: Path) -> bytes:
    """The file's bytes, of which only the digest was checked, if the file is named by one."""
    data = path.read_bytes()
    if len(path.stem) == len(digest_of(b"")):
        require_digest(data, path.stem, path.name)
    return data


def require_digest(data: bytes, digest: str, name: str) -> None:
    """Raises CheckpointError, with `name`."""
    if (found := digest_of(data)) != digest:
        raise CheckpointError(f"{name}: the bytes have SHA-256 {found}: the file was changed or damaged")


def read_header(path: Path) -> Header:
    """As `header_of` the file."""
    with path.open("rb") as file:
        return header_of(file, path.name)


def header_of(file: BinaryIO, name: str) -> Header:
    """The descriptor and the cost, without reading the weights. Raises CheckpointError, with `name`.

    Checks that the file is as long as it says and that its tensors are those of the descriptor's graph.
    """
    size_bytes = file.seek(0, SEEK_END)
    file.seek(0)
    header = _header_json(file.read(8), size_bytes, name, rest=file)
    descriptor = _descriptor(header, name)
    graph = descriptor.architecture.graph()
    wanted = {key: ("F32", list(shape)) for key, shape in tensor_shapes(graph).items()}
    found = {key: (entry["dtype"], entry["shape"]) for key, entry in header.items() if key != "__metadata__"}
    if wanted != found:
        differing = sorted(key for key in wanted | found if wanted.get(key) != found.get(key))
        raise CheckpointError(f"{name}: the tensors are not those of the architecture: {differing[:3]}")
    macs = num_macs(graph)
    if macs > MAX_COUNT:
        raise CheckpointError(f"{name}: an image would take {macs} multiply-accumulates: no network that runs")
    return Header(descriptor, num_params(graph), macs, size_bytes)


def check_tensors(checkpoint: Checkpoint, name: str) -> None:
    """The tensors are exactly those of the descriptor's graph: names, shapes, float32, finite."""
    wanted = tensor_shapes(checkpoint.descriptor.architecture.graph())
    found = checkpoint.tensors
    if wanted.keys() != found.keys():
        missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
        raise CheckpointError(f"{name}: tensors missing: {missing}; not in the architecture: {unknown}")
    for key, shape in wanted.items():
        tensor = found[key]
        if tensor.shape != shape or tensor.dtype != np.float32:
            raise CheckpointError(f"{name}: {key} should be float32 {shape}, is {tensor.dtype} {tensor.shape}")
        if not np.isfinite(tensor).all():
            raise CheckpointError(f"{name}: {key} holds numbers that are not finite")


def _header_json(start: bytes, size_bytes: int, name: str, rest: BinaryIO | None = None) -> dict[str, Any]:
    """`start` is the file's first 8 bytes, or all of it; the header is read from `rest` if given."""
    length = int.from_bytes(start[:8], "little")
    if size_bytes < 8 or length > size_bytes - 8:
        raise CheckpointError(f"{name}: not a whole safetensors file: {size_bytes} bytes, header of {length}")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(f"{name}: the header has {length} bytes, at most {MAX_HEADER_BYTES} are read")
    text = rest.read(length) if rest else start[8 : 8 + length]
    try:
        header = json.loads(text)
        tensors = [entry for key, entry in header.items() if key != "__metadata__"]
        ends = [entry["data_offsets"][1] for entry in tensors if entry["dtype"] and isinstance(entry["shape"], list)]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{name}: the safetensors header is damaged: {error}") from error
    if expected != size_bytes:
        raise CheckpointError(f"{name}: the header promises {expected} bytes, the file has {size_bytes}")
    return header


def _descriptor(header: dict[str, Any], name: str) -> Descriptor:
    metadata = header.get("__metadata__")
    text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise CheckpointError(f"{name}: a safetensors file without a descriptor in its metadata: no checkpoint of ours")
    try:
        return parse(text)
    except DescriptorError as error:
        raise CheckpointError(f"{name}: {error}") from error
