"""One file, several sizes: what is packed comes out, and nothing else is taken for it."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from zoo.checkpoint.elastic import ElasticFile, extract, is_elastic, pack
from zoo.checkpoint.file import MAX_HEADER_BYTES, Checkpoint, decode, digest_of, encode
from zoo.checkpoint.nesting import num_added
from zoo.errors import CheckpointError
from zoo.network.cost import num_params
from zoo.network.families.family import Architecture
from zoo.network.placement import placements
from zoo.runtime.predictor import Predictor

Nested = Callable[..., list[bytes]]


def opened(data: bytes) -> ElasticFile:
    return ElasticFile(io.BytesIO(data), "net.safetensors")


def with_header(data: bytes, header: dict[str, Any] | bytes, rest: bytes | None = None) -> bytes:
    """The file with another header, and with other bytes behind it if given."""
    length = int.from_bytes(data[:8], "little")
    if isinstance(header, dict):
        header = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + (data[8 + length :] if rest is None else rest)


def header_of(data: bytes) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header


def described_otherwise(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    header = header_of(data)
    descriptor = json.loads(header["__metadata__"]["descriptor"])
    change(descriptor)
    header["__metadata__"]["descriptor"] = json.dumps(descriptor, ensure_ascii=False, separators=(",", ":"))
    return with_header(data, header)


# --- what is packed comes out -----------------------------------------------------------------------------------


def test_each_level_is_the_file_that_was_packed(levels: list[bytes]) -> None:
    elastic = pack(levels)
    assert [extract(elastic, level) for level in range(len(levels))] == levels
    assert list(opened(elastic).files()) == levels
    assert [level.digest for level in opened(elastic).levels] == [digest_of(data) for data in levels]


@settings(max_examples=30)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_whatever_grew_is_nested(
    architectures: SearchStrategy[Architecture], nested: Nested, data: st.DataObject, seed: int
) -> None:
    sizes = [data.draw(architectures)]
    for _ in range(data.draw(st.integers(1, 3))):
        kind = data.draw(st.sampled_from(["conv", "residual"]))
        changes = sizes[-1].changes(max_layers=4, layer_kind=kind, channels_added=data.draw(st.integers(1, 3)))
        assume(changes)
        sizes.append(sizes[-1].grown(data.draw(st.sampled_from(changes)), exact=data.draw(st.booleans())))
    files = nested(sizes, seed=seed)
    assert [extract(pack(files), level) for level in range(len(files))] == files


def test_a_level_lies_bit_for_bit_within_the_next_but_for_its_batch_norms(levels: list[bytes]) -> None:
    networks = [decode(extract(pack(levels), level)) for level in range(len(levels))]
    for small, large in pairwise(networks):
        places = placements(small.descriptor.architecture.graph(), large.descriptor.architecture.graph())
        for name, place in places.items():
            same = large.tensors[name][np.ix_(*place)].tobytes() == small.tensors[name].tobytes()
            assert same == ("norm" not in name), name


def test_neighbouring_levels_answer_differently(levels: list[bytes]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    logits = [Predictor(decode(extract(pack(levels), level))).logits(images) for level in range(len(levels))]
    for small, large in pairwise(logits):
        assert np.abs(small - large).max() > 0.01


def test_one_file_is_smaller_than_several(levels: list[bytes]) -> None:
    largest = decode(levels[-1]).descriptor
    assert len(pack(levels)) < sum(map(len, levels))
    assert len(levels[-1]) > 4 * num_params(largest.architecture.graph())


def test_the_file_is_one_that_the_stock_library_reads_and_would_write(levels: list[bytes]) -> None:
    elastic = pack(levels)
    tensors = safetensors.numpy.load(elastic)
    assert sorted(tensors) == ["level.00", "level.01", "level.02", "level.03"]
    descriptor = header_of(elastic)["__metadata__"]["descriptor"]
    assert safetensors.numpy.save(tensors, metadata={"descriptor": descriptor}) == elastic


def test_the_format_is_pinned_by_its_bytes(elastic_example: bytes) -> None:
    """If this fails, files written from now on differ: raise the format's version, or undo what changed them."""
    assert digest_of(elastic_example) == "a31fe3b3fa4ce63eb9b9954e4c70fc8820fef0bbf2f61876469ea2afbaf9f90c"


# --- the beginning is enough ------------------------------------------------------------------------------------


class Refusing(io.BytesIO):
    """Bytes of which only the first may be read."""

    def __init__(self, data: bytes, readable: int) -> None:
        super().__init__(data)
        self.readable_bytes = readable

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size >= 0
        assert self.tell() + size <= self.readable_bytes, f"reads up to {self.tell() + size}"
        return super().read(size)


@pytest.mark.parametrize("level", range(4))
def test_no_byte_behind_a_level_is_read_or_needed(levels: list[bytes], level: int) -> None:
    elastic = pack(levels)
    end = opened(elastic).levels[level].prefix_bytes
    assert ElasticFile(Refusing(elastic, end)).extract(level) == levels[level]
    beginning = opened(elastic[:end])
    assert beginning.extract(level) == levels[level]
    assert [one.number for one in beginning.there] == list(range(level + 1))
    assert len(beginning.levels) == len(levels)
    # One byte less is too few, and said so.
    with pytest.raises(CheckpointError, match=rf"level {level}: it needs the first {end} bytes, {end - 1} are there"):
        extract(elastic[: end - 1], level)


def test_the_header_is_read_without_the_weights(levels: list[bytes]) -> None:
    elastic = pack(levels)
    file = ElasticFile(Refusing(elastic, opened(elastic).levels[0].start))
    assert [level.header.size_bytes for level in file.levels] == [len(data) for data in levels]
    assert [level.header.descriptor for level in file.levels] == [decode(data).descriptor for data in levels]
    assert file.levels[-1].prefix_bytes == len(elastic)


def test_a_beginning_is_no_whole_file(levels: list[bytes]) -> None:
    elastic = pack(levels)
    opened(elastic).require_whole()
    with pytest.raises(CheckpointError, match=f"promises {len(elastic)} bytes, the file has {len(elastic) - 4}"):
        opened(elastic[:-4]).require_whole()


# --- what is refused --------------------------------------------------------------------------------------------


def test_levels_that_are_not_nested_are_not_packed(levels: list[bytes]) -> None:
    checkpoint = decode(levels[1])
    changed = {name: tensor.copy() for name, tensor in checkpoint.tensors.items()}
    changed["stages.1.layers.0.pointwise.weight"][0, 0, 0, 0] += 1e-6
    other = encode(Checkpoint(checkpoint.descriptor, changed))
    with pytest.raises(CheckpointError, match=r"^level 1: stages\.1\.layers\.0\.pointwise\.weight is another one"):
        pack([levels[0], other])


def test_minus_zero_is_another_value(levels: list[bytes]) -> None:
    pairs = []
    for data, zero in zip(levels[:2], (0.0, -0.0), strict=True):
        checkpoint = decode(data)
        changed = {name: tensor.copy() for name, tensor in checkpoint.tensors.items()}
        changed["head.output.bias"][0] = zero
        pairs.append(encode(Checkpoint(checkpoint.descriptor, changed)))
    with pytest.raises(CheckpointError, match=r"level 1: head\.output\.bias"):
        pack(pairs)


def test_the_smaller_comes_first(levels: list[bytes]) -> None:
    with pytest.raises(CheckpointError, match=r"^level 1: .* has no place in it"):
        pack([levels[1], levels[0]])
    with pytest.raises(CheckpointError, match=r"level 1 has .* parameters, no more than the level before"):
        pack([levels[0], levels[0]])


@pytest.mark.parametrize("number", [0, 1, 9])
def test_a_file_has_two_to_eight_levels(levels: list[bytes], number: int) -> None:
    with pytest.raises(CheckpointError, match=f"2 to 8 levels, not {number}"):
        pack((levels * 3)[:number])


def test_levels_answer_one_question(levels: list[bytes]) -> None:
    checkpoint = decode(levels[1])
    for update, what in (
        ({"classes": ("a", "b", "c", "d")}, "list of classes"),
        ({"dataset": checkpoint.descriptor.dataset.model_copy(update={"name": "photos"})}, "data set"),
    ):
        other = encode(Checkpoint(checkpoint.descriptor.model_copy(update=update), checkpoint.tensors))
        with pytest.raises(CheckpointError, match=f"levels of one file have one {what}"):
            pack([levels[0], other])


def test_what_another_program_wrote_is_not_packed(levels: list[bytes]) -> None:
    header = header_of(levels[1])
    turned = with_header(levels[1], {name: header[name] for name in [*header][::-1]})
    assert decode(turned).descriptor == decode(levels[1]).descriptor
    with pytest.raises(CheckpointError, match="level 1: written by another program"):
        pack([levels[0], turned])


@settings(max_examples=30)
@given(data=st.data())
def test_a_flipped_bit_in_a_level_is_noticed(levels: list[bytes], data: st.DataObject) -> None:
    elastic = pack(levels)
    number = data.draw(st.integers(0, 3))
    level = opened(elastic).levels[number]
    damaged = bytearray(elastic)
    damaged[data.draw(st.integers(level.start, level.prefix_bytes - 1))] ^= 1 << data.draw(st.integers(0, 7))
    files = opened(bytes(damaged)).files()
    assert [next(files) for _ in range(number)] == levels[:number]
    with pytest.raises(CheckpointError, match=f"level {number}: its values have SHA-256 .*changed or damaged"):
        next(files)


@settings(max_examples=60)
@given(data=st.data())
def test_a_damaged_header_gives_the_packed_files_or_an_error(levels: list[bytes], data: st.DataObject) -> None:
    elastic = pack(levels)
    damaged = bytearray(elastic)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, opened(elastic).levels[0].start - 1))
        damaged[place] = data.draw(st.integers(0, 255) | st.sampled_from(b'{}[]",:0123456789'))
    try:
        for level, found in enumerate(opened(bytes(damaged)).files()):
            assert found == levels[level]
    except CheckpointError:
        pass


def _swapped(data: bytes) -> bytes:
    def swap(descriptor: dict[str, Any]) -> None:
        descriptor["levels"][1:3] = descriptor["levels"][2:0:-1]

    return described_otherwise(data, swap)


def _tensors_swapped(data: bytes) -> bytes:
    header = header_of(data)
    names = ["__metadata__", "level.01", "level.00", "level.02", "level.03"]
    return with_header(data, {name: header[name] for name in names})


def _with_entry(name: str, **change: Any) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        header = header_of(data)
        header[name] = {**header[name], **change}
        return with_header(data, header)

    return changed


def _huge(data: bytes) -> bytes:
    """All levels claim as many values as fit into 64 bits; the file is as long as it was."""
    header, end = header_of(data), 0
    for number in range(4):
        header[f"level.{number:02}"] = {"dtype": "F32", "shape": [2**60], "data_offsets": [end, end := end + 2**62]}
    return with_header(data, header)


def _wide(data: bytes) -> bytes:
    def widen(descriptor: dict[str, Any]) -> None:
        for level in descriptor["levels"]:
            for stage in level["descriptor"]["architecture"]["stages"]:
                stage |= {"channels": 65536, "num_layers": 64}

    return described_otherwise(data, widen)


def _many_levels(data: bytes) -> bytes:
    def repeat(descriptor: dict[str, Any]) -> None:
        descriptor["levels"] *= 100

    return described_otherwise(data, repeat)


DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "0 bytes, header of 0"),
    "padded": (lambda data: data + b"\0" * 4, "promises .* bytes, the file has"),
    "swapped levels": (_swapped, "values apart|no more than"),
    "swapped tensors": (_tensors_swapped, "expected the tensors level.00, level.01, level.02, level.03"),
    "overlap": (_with_entry("level.01", data_offsets=[0, 4]), "without gaps or overlaps"),
    "other shape": (_with_entry("level.00", shape=[1]), "without gaps or overlaps"),
    "two axes": (_with_entry("level.00", shape=[1, 1]), "without gaps or overlaps"),
    "negative": (_with_entry("level.00", shape=[-1]), "of some values"),
    "true": (_with_entry("level.00", shape=[True]), "of some values"),
    "half": (_with_entry("level.02", dtype="F16"), "without gaps or overlaps"),
    "no shape": (_with_entry("level.02", shape=[]), "header is damaged"),
    "spaces": (
        lambda data: with_header(data, json.dumps(header_of(data)).encode()),
        "no spaces",
    ),
    "padded header": (
        lambda data: with_header(data, data[8 : 8 + int.from_bytes(data[:8], "little")] + b" " * 8),
        "no spaces",
    ),
    "long header": (lambda data: (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + data[8:], "header has at most"),
    "endless header": (lambda data: (2**64 - 1).to_bytes(8, "little") + data[8:], "header has at most"),
    "no JSON": (lambda data: with_header(data, b"{" * 100_000), "header is damaged"),
    "a list": (lambda data: with_header(data, b"[]"), "header is damaged"),
    "huge": (_huge, "values apart"),
    "wide": (_wide, "values apart"),
    "thousands of levels": (_many_levels, "levels: Tuple should have at most 8 items"),
    "one level": (
        lambda data: described_otherwise(data, lambda descriptor: descriptor["levels"].__delitem__(slice(1, None))),
        "levels: Tuple should have at least 2 items",
    ),
    "format 1": (
        lambda data: described_otherwise(data, lambda descriptor: descriptor.update(format_version=1)),
        "format_version",
    ),
    "other size": (
        lambda data: described_otherwise(data, lambda descriptor: descriptor["levels"][2].update(size_bytes=2**62)),
        "its file cannot have 4611686018427387904",
    ),
    "unknown key": (
        lambda data: described_otherwise(data, lambda descriptor: descriptor["levels"][2].update(speed=1)),
        "speed",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_what_is_no_elastic_file_is_refused_at_once(levels: list[bytes], damage: str) -> None:
    change, message = DAMAGED[damage]
    damaged = change(pack(levels))
    started = time.process_time()
    for read in (lambda: opened(damaged), lambda: extract(damaged, 3)):
        with pytest.raises(CheckpointError, match=message):
            read()
    assert time.process_time() - started < 1


def test_a_level_that_is_another_file_than_promised_is_refused(levels: list[bytes]) -> None:
    other = described_otherwise(pack(levels), lambda descriptor: descriptor["levels"][1].update(digest="0" * 64))
    assert extract(other, 0) == levels[0]
    with pytest.raises(CheckpointError, match=f"level 1: it is the file {digest_of(levels[1])} .* promises {'0' * 64}"):
        extract(other, 1)


def test_there_is_no_level_beyond_the_last(levels: list[bytes]) -> None:
    for level in (-1, 4):
        with pytest.raises(CheckpointError, match=f"no level {level}: there are levels 0 to 3"):
            extract(pack(levels), level)


def test_readers_of_ordinary_files_say_what_it_is(levels: list[bytes]) -> None:
    with pytest.raises(CheckpointError, match="format_version is 2, this version reads 1: it has several levels"):
        decode(pack(levels))


def test_ordinary_files_are_no_elastic_ones(levels: list[bytes]) -> None:
    assert is_elastic(io.BytesIO(pack(levels)))
    assert not any(is_elastic(io.BytesIO(data)) for data in (*levels, b"", b"12345678{}"))
    with pytest.raises(CheckpointError, match="an ordinary checkpoint, no elastic file: format_version is 1, not 2"):
        opened(levels[0])


def test_what_a_level_adds_is_counted_from_the_networks(levels: list[bytes]) -> None:
    graphs = [decode(data).descriptor.architecture.graph() for data in levels]
    file = opened(pack(levels))
    for level, graph, smaller in zip(file.levels, graphs, [None, *graphs[:-1]], strict=True):
        assert level.prefix_bytes - level.start == 4 * num_added(graph, smaller)
