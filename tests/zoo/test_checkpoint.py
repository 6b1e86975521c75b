from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from zoo.checkpoint.file import MAX_HEADER_BYTES, Checkpoint, decode, digest_of, encode, load, read_header
from zoo.errors import CheckpointError
from zoo.network.cost import num_macs, num_params
from zoo.network.families.family import Architecture
from zoo.network.graph import tensor_shapes

MakeCheckpoint = Callable[..., Checkpoint]


def same(one: Checkpoint, other: Checkpoint) -> bool:
    return (
        one.descriptor == other.descriptor
        and one.tensors.keys() == other.tensors.keys()
        and all(one.tensors[name].tobytes() == other.tensors[name].tobytes() for name in one.tensors)
        and all(one.tensors[name].shape == other.tensors[name].shape for name in one.tensors)
    )


def stored(directory: Path, data: bytes) -> Path:
    path = directory / f"{digest_of(data)}.safetensors"
    path.write_bytes(data)
    return path


def file_of(checkpoint: Checkpoint, tensors: dict[str, np.ndarray]) -> bytes:
    """A well-formed safetensors file of these tensors under the checkpoint's descriptor, checked by nobody."""
    return safetensors.numpy.save(tensors, metadata={"descriptor": checkpoint.descriptor.to_json()})


def with_header(length: int, header: bytes, rest: bytes = b"") -> bytes:
    return length.to_bytes(8, "little") + header + rest


@settings(max_examples=40)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_save_then_load_is_identity(
    architectures: SearchStrategy[Architecture], make_checkpoint: MakeCheckpoint, data: st.DataObject, seed: int
) -> None:
    checkpoint = make_checkpoint(data.draw(architectures), seed=seed)
    assert same(decode(encode(checkpoint)), checkpoint)


def test_equal_checkpoints_give_equal_bytes_in_whatever_order_their_tensors_come(
    make_checkpoint: MakeCheckpoint,
) -> None:
    checkpoint = make_checkpoint()
    backwards = Checkpoint(checkpoint.descriptor, dict(reversed(checkpoint.tensors.items())))
    assert encode(checkpoint) == encode(make_checkpoint()) == encode(backwards)
    assert encode(checkpoint) == encode(decode(encode(checkpoint)))


def test_tensors_that_are_not_contiguous_are_written_as_they_read(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint()
    turned = {name: np.asfortranarray(tensor) for name, tensor in checkpoint.tensors.items()}
    assert encode(Checkpoint(checkpoint.descriptor, turned)) == encode(checkpoint)


def test_tensors_come_in_the_order_of_the_graph(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint()
    assert list(decode(encode(checkpoint)).tensors) == list(tensor_shapes(checkpoint.descriptor.architecture.graph()))


def test_the_stock_library_reads_the_file(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    path = stored(tmp_path, encode(checkpoint))
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"descriptor": checkpoint.descriptor.to_json()}
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    assert same(Checkpoint(checkpoint.descriptor, found), Checkpoint(checkpoint.descriptor, checkpoint.tensors))


def test_the_format_is_pinned_by_its_bytes(example: Checkpoint) -> None:
    """If this fails, files written from now on differ: raise FORMAT_VERSION, or undo what changed them."""
    assert digest_of(encode(example)) == "fbdc7202bcec352cfd7517029ee158bef726e34516ca57c8182d52bed6226f3d"


# --- reading from disk ----------------------------------------------------------------------------------------


def test_load_reads_what_was_written(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    assert same(load(stored(tmp_path, encode(checkpoint))), checkpoint)


def test_the_header_alone_tells_descriptor_and_cost(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    path = stored(tmp_path, encode(checkpoint))
    header = read_header(path)
    graph = checkpoint.descriptor.architecture.graph()
    assert header.descriptor == checkpoint.descriptor
    assert (header.params, header.macs) == (num_params(graph), num_macs(graph))
    assert header.size_bytes == len(path.read_bytes())


@settings(max_examples=100)
@given(data=st.data())
def test_a_flipped_bit_is_noticed(
    make_checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = encode(make_checkpoint())
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("flipped") / f"{digest_of(whole)}.safetensors"
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"the bytes have SHA-256 .*: the file was changed or damaged"):
        load(path)


@settings(max_examples=100)
@given(data=st.data())
def test_a_truncated_file_is_noticed_by_its_header(
    make_checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = encode(make_checkpoint())
    length = data.draw(st.integers(0, len(whole) - 1) | st.integers(0, 20))
    path = tmp_path_factory.mktemp("truncated") / "model.safetensors"
    path.write_bytes(whole[:length])
    promise = (
        rf"model.safetensors: (not a whole safetensors file: {length} bytes|the header promises {len(whole)} bytes)"
    )
    for read in (read_header, load):
        with pytest.raises(CheckpointError, match=promise):
            read(path)


@settings(max_examples=300)
@given(data=st.data())
def test_damaged_bytes_are_a_checkpoint_or_a_checkpoint_error(
    make_checkpoint: MakeCheckpoint, data: st.DataObject
) -> None:
    damaged = bytearray(encode(make_checkpoint()))
    header_end = 8 + int.from_bytes(damaged[:8], "little")
    places = st.integers(0, header_end - 1) | st.integers(0, len(damaged) - 1)
    for place in data.draw(st.lists(places, min_size=1, max_size=4)):
        damaged[place] = data.draw(st.integers(0, 255) | st.sampled_from(b'{}[]",:0123456789'))
    try:
        decode(bytes(damaged))
    except CheckpointError as error:
        assert str(error).startswith("checkpoint: ")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a whole safetensors file: 0 bytes"),
        (b"\x00" * 7, "not a whole safetensors file: 7 bytes"),
        (with_header(2**63, b"{}"), "not a whole safetensors file: 10 bytes, header of 9223372036854775808"),
        (with_header(2, b"[]"), "the safetensors header is damaged"),
        (with_header(4, b"\xff\xfe{}"), "the safetensors header is damaged"),
        (with_header(9, b'{"a": 12}'), "the safetensors header is damaged"),
        (with_header(200_000, b"[" * 200_000), "the safetensors header is damaged"),
        (with_header(2, b"{}"), "a safetensors file without a descriptor in its metadata: no checkpoint of ours"),
        (with_header(2, b"{}", b"more"), "the header promises 10 bytes, the file has 14"),
        (b"<html>not found</html>", "not a whole safetensors file"),
    ],
)
def test_what_is_no_checkpoint_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    for read in (read_header, load):
        with pytest.raises(CheckpointError, match=f"model.safetensors: {message}"):
            read(path)


def test_a_header_over_the_cap_is_not_parsed(tmp_path: Path) -> None:
    length = MAX_HEADER_BYTES + 1
    path = stored(tmp_path, with_header(length, b'{"__metadata__":{"descriptor":"' + b" " * (length - 34) + b'"}}'))
    for read in (read_header, load):
        with pytest.raises(
            CheckpointError, match=f"the header has {length} bytes, at most {MAX_HEADER_BYTES} are read"
        ):
            read(path)


def test_another_librarys_file_is_no_checkpoint(tmp_path: Path) -> None:
    path = stored(tmp_path, safetensors.numpy.save({"w": np.zeros(3, np.float32)}, metadata={"format": "pt"}))
    with pytest.raises(CheckpointError, match="without a descriptor in its metadata"):
        load(path)


def test_a_descriptor_of_another_version_is_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    description = json.loads(checkpoint.descriptor.to_json()) | {"format_version": 2}
    data = safetensors.numpy.save(dict(checkpoint.tensors), metadata={"descriptor": json.dumps(description)})
    with pytest.raises(CheckpointError, match="safetensors: format_version is 2, this version reads 1"):
        read_header(stored(tmp_path, data))


# --- weights that do not fit ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["head.output.weight", "blocks.1.layers.0.norm.running_var"])
def test_weights_must_be_finite(make_checkpoint: MakeCheckpoint, name: str, value: float) -> None:
    checkpoint = make_checkpoint()
    tensors = {key: tensor.copy() for key, tensor in checkpoint.tensors.items()}
    tensors[name].flat[-1] = value
    with pytest.raises(CheckpointError, match=f"{name} holds numbers that are not finite"):
        decode(file_of(checkpoint, tensors))
    with pytest.raises(CheckpointError, match=f"{name} holds numbers that are not finite"):
        encode(Checkpoint(checkpoint.descriptor, tensors))


def test_every_tensor_must_be_there(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint()
    tensors = dict(checkpoint.tensors)
    del tensors["head.conv.bias"]
    with pytest.raises(CheckpointError, match=r"tensors missing: \['head.conv.bias'\]; not in the architecture: \[\]"):
        decode(file_of(checkpoint, tensors))


def test_no_other_tensor_may_be_there(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint()
    tensors = dict(checkpoint.tensors) | {"extra": np.zeros(1, np.float32)}
    with pytest.raises(CheckpointError, match=r"tensors missing: \[\]; not in the architecture: \['extra'\]"):
        decode(file_of(checkpoint, tensors))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda tensor: tensor.reshape(3, 4, 1), r"float32 \(3, 4, 1\)"),
        (lambda tensor: tensor[:, :3], r"float32 \(3, 3, 1, 1\)"),
        (lambda tensor: tensor.astype(np.float16), r"float16 \(3, 4, 1, 1\)"),
        (lambda tensor: tensor.astype(np.float64), r"float64 \(3, 4, 1, 1\)"),
    ],
)
def test_shape_and_type_must_be_the_architectures(
    make_checkpoint: MakeCheckpoint, change: Callable[[np.ndarray], np.ndarray], found: str
) -> None:
    checkpoint = make_checkpoint()
    changed = np.ascontiguousarray(change(checkpoint.tensors["head.conv.weight"]))
    tensors = dict(checkpoint.tensors) | {"head.conv.weight": changed}
    with pytest.raises(CheckpointError, match=rf"head.conv.weight should be float32 \(3, 4, 1, 1\), is {found}"):
        decode(file_of(checkpoint, tensors))


def test_a_type_numpy_does_not_know_is_refused(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint()
    data = file_of(checkpoint, dict(checkpoint.tensors))
    for dtype in (b'"BF8"', b'"U32"', b'"I32"'):
        with pytest.raises(CheckpointError):
            decode(data.replace(b'"F32"', dtype, 1))
