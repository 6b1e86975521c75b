"""docs/descriptor-format.md says what the code does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer.recipes.runs import RUNS
from zoo.checkpoint.descriptor import FORMAT_VERSION, Descriptor
from zoo.checkpoint.file import MAX_HEADER_BYTES, Checkpoint, digest_of, encode
from zoo.network.cost import num_params
from zoo.network.families import registry, resnet, secnn
from zoo.network.families.blueprint import BlueprintArchitecture, Stage
from zoo.network.graph import buffer_shapes, tensor_shapes

PAGE = (Path(__file__).parents[2] / "docs" / "descriptor-format.md").read_text()


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def first_cells(text: str) -> list[str]:
    """What the first column of the tables holds in code marks."""
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def schema_keys(schema: dict[str, Any], definitions: dict[str, Any], path: str = "") -> Iterator[str]:
    """Every key of every object that the schema describes, as a path; a key of several families comes with each."""
    for part in (schema, *schema.get("anyOf", []), *schema.get("oneOf", [])):
        if "$ref" in part:
            yield from schema_keys(definitions[part["$ref"].rpartition("/")[2]], definitions, path)
        if "items" in part and isinstance(part["items"], dict):
            yield from schema_keys(part["items"], definitions, f"{path}[]")
        for key, value in part.get("properties", {}).items():
            place = f"{path}.{key}" if path else key
            yield place
            yield from schema_keys(value, definitions, place)


def test_every_key_of_the_descriptor_is_in_the_table_and_no_other() -> None:
    schema = Descriptor.model_json_schema()
    assert first_cells(section("The descriptor")) == list(dict.fromkeys(schema_keys(schema, schema["$defs"])))


def test_keys_are_written_in_the_order_of_the_table(example: Checkpoint) -> None:
    top_level = [key for key in first_cells(section("The descriptor")) if "." not in key]
    whole = example.descriptor.model_copy(update={"license": "Apache-2.0"})
    assert list(json.loads(whole.to_json())) == top_level


def test_keys_that_may_be_left_out_are_those_with_a_default() -> None:
    schema = Descriptor.model_json_schema()
    with_default = {
        key
        for definition in (schema, *schema["$defs"].values())
        for key in definition["properties"].keys() - set(definition.get("required", []))
    }
    with_default.remove("format_version")  # a reader looks at it first
    # The key by which a reader knows the family must be there, though a program that makes one need not name it.
    with_default -= {schema["properties"]["architecture"]["discriminator"]["propertyName"]}
    rows = re.findall(r"^\| `([^`]+)` \|.*may be left out", PAGE, re.MULTILINE)
    assert {row.rpartition(".")[2] for row in rows} == with_default


def tensor_table(title: str) -> dict[str, str]:
    """What the section says of each tensor's shape."""
    return dict(re.findall(r"^\| `([^`]+\.\w+)` \| ([^|]+) \|", section(title), re.MULTILINE))


@pytest.mark.parametrize("head", ["flatten", "average"])
def test_every_tensor_of_secnn_is_in_the_table_with_its_shape(head: str) -> None:
    # All dimensions differ, so that letters cannot be mistaken for one another.
    architecture = secnn.start(
        input_shape=(3, 12, 9),
        num_classes=7,
        channels=5,
        num_blocks=2,
        head=head,  # type: ignore[arg-type]
        bottleneck_channels=11,
        hidden_features=13,
    )
    architecture = architecture.widened(1, 12).deepened(0, "conv", split_slope=True)
    architecture = architecture.deepened(1, "residual", split_slope=True)
    table = tensor_table("The secnn family")
    fixed = {"K": 11, "F": 5 + 17, "H": 13, "N": 7, "S": 11 * (3 * 2 if head == "flatten" else 1), "3": 3, "1": 1}
    named = set()
    for name, shape in tensor_shapes(architecture.graph()).items():
        pattern = re.sub(r"^blocks\.\d\.layers\.\d", "blocks.B.layers.L", name)
        named.add(pattern)
        block, layer = map(int, re.findall(r"\d", name)) if pattern != name else (0, 0)
        before = 3 if block == 0 else 5
        own = (5, 17)[block]
        letters = fixed | {"C": own, "D": before if layer == 0 else own}
        assert tuple(letters[letter] for letter in table[pattern].split(", ")) == shape, name
        assert layer == 0 or not name.endswith("conv.bias")
    assert named == table.keys()


# All dimensions differ here too.
BLUEPRINT = BlueprintArchitecture(
    input_channels=4,
    input_height=12,
    input_width=9,
    num_classes=7,
    stem_pools=1,
    stages=tuple(Stage(channels=channels, num_layers=2) for channels in (5, 11, 13)),
)


def of_any_stage(name: str) -> str:
    return re.sub(r"\.layers\.\d", ".layers.L", re.sub(r"^stages\.\d", "stages.S", name))


def test_every_tensor_of_blueprint_is_in_the_table_with_its_shape() -> None:
    table = tensor_table("The blueprint family")
    named = set()
    for name, shape in tensor_shapes(BLUEPRINT.graph()).items():
        stage = int(name.split(".")[1]) if name.startswith("stages.") else 0
        own, before = BLUEPRINT.stages[stage].channels, BLUEPRINT.stages[stage - 1].channels
        letters = {"A": 5, "E": 13, "C": own, "D": before, "I": 4, "N": 7, "3": 3, "1": 1}
        assert tuple(letters[letter] for letter in table[of_any_stage(name)].split(", ")) == shape, name
        assert stage > 0 or ".enter." not in name
        named.add(of_any_stage(name))
    assert named == table.keys()


def numbered(name: str) -> tuple[str, list[int]]:
    """The name with letters in place of its numbers, and these."""
    pattern = re.sub(r"^features\.\d+", "features.I", of_any_stage(name))
    return pattern, [int(number) for number in re.findall(r"\.(\d+)", name)]


@pytest.mark.parametrize("family", ["alexnet", "vgg16"])
def test_every_tensor_of_rows_of_convolutions_is_in_the_table_with_its_shape(family: str) -> None:
    count = 5 if family == "alexnet" else 13
    channels = [3, *range(11, 11 + count)]
    shape = {"input_channels": 3, "input_height": 32, "input_width": 32, "num_classes": 7}
    architecture = registry.FAMILIES[family].model_validate({**shape, "channels": tuple(channels[1:])})
    table = tensor_table("The vgg16 and alexnet families")
    named = set()
    for name, shape_of_it in tensor_shapes(architecture.graph()).items():
        pattern, numbers = numbered(name)
        index = numbers[0] if numbers else 0
        kernel = 5 if family == "alexnet" and index < 2 else 3
        letters = {"C": channels[index + 1], "D": channels[index], "K": kernel, "E": channels[-1], "N": 7}
        assert tuple(letters[letter] for letter in table[pattern].split(", ")) == shape_of_it, name
        named.add(pattern)
    assert named == table.keys()


def test_every_tensor_of_resnet_is_in_the_table_with_its_shape() -> None:
    hidden = ((11, 12, 13), (14, 15, 16), (17, 18, 19))
    stages = tuple(
        resnet.ResidualStage(channels=channels, hidden_channels=own)
        for channels, own in zip((21, 23, 25), hidden, strict=True)
    )
    architecture = resnet.Resnet20Architecture(
        input_channels=4, input_height=9, input_width=9, num_classes=7, stages=stages
    )
    table = tensor_table("The resnet20 and resnet56 families")
    named = set()
    for name, shape in tensor_shapes(architecture.graph()).items():
        pattern, numbers = numbered(name)
        stage, layer = numbers or (0, 0)
        own, before = stages[stage].channels, stages[max(0, stage - 1)].channels
        letters = {"A": 21, "E": 25, "I": 4, "N": 7, "3": 3, "C": own, "H": hidden[stage][layer]}
        letters["D"] = own if layer else before
        assert tuple(letters[letter] for letter in table[pattern].split(", ")) == shape, name
        named.add(pattern)
    assert named == table.keys()


def test_tensors_that_are_not_trained_are_marked(tiny: secnn.SecnnArchitecture) -> None:
    def marked(title: str) -> set[str]:
        return set(re.findall(r"^\| `([^`]+)` \| [^|]+ \| not trained \|", section(title), re.MULTILINE))

    of_any_block = {
        re.sub(r"^blocks\.\d\.layers\.\d", "blocks.B.layers.L", name) for name in buffer_shapes(tiny.graph())
    }
    assert marked("The secnn family") == of_any_block
    assert marked("The blueprint family") == {of_any_stage(name) for name in buffer_shapes(BLUEPRINT.graph())}
    for title, run in (("The vgg16 and alexnet families", "vgg16"), ("The resnet20 and resnet56 families", "resnet56")):
        buffers = buffer_shapes(RUNS[run]().start.network((3, 32, 32), 10).graph())
        assert marked(title) == {numbered(name)[0] for name in buffers}


def test_numbers_of_the_format() -> None:
    assert f"format version **{FORMAT_VERSION}**" in PAGE
    assert f"| `format_version` | integer | {FORMAT_VERSION} |" in PAGE
    assert PAGE.count(f"{MAX_HEADER_BYTES:,}") == 2


# --- the worked example ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(example: Checkpoint) -> bytes:
    return encode(example)


def test_sizes_and_name(example: Checkpoint, data: bytes) -> None:
    text = section("A worked example")
    length = int.from_bytes(data[:8], "little")
    assert f"\n{digest_of(data)}.safetensors\n" in text
    assert f"{num_params(example.descriptor.architecture.graph())} parameters" in text
    for number in (f"has {len(data):,} bytes", f"header, {length:,},", f"up to byte {8 + length:,}."):
        assert number in text
    assert data[: 8 + length].endswith(b"}" + 6 * b" ")
    assert (8 + length) % 8 == 0


def test_bytes(data: bytes) -> None:
    lines = [line for block in blocks("hex") for line in block.splitlines()]
    assert len(lines) == 6
    for line in lines:
        offset, content, shown = re.fullmatch(r"([0-9a-f]{8})  ((?:[0-9a-f]{2} ?){16}) +\|(.{16})\|", line).groups()  # type: ignore[union-attr]
        piece = data[int(offset, 16) :][:16]
        assert piece == bytes.fromhex(content)
        assert shown == "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)


def test_descriptor_and_header_entries(example: Checkpoint, data: bytes) -> None:
    [descriptor], [entries] = blocks("json"), blocks("header")
    assert json.loads(descriptor) == json.loads(example.descriptor.to_json())
    header = data[: 8 + int.from_bytes(data[:8], "little")].decode("utf-8", errors="replace")
    tensors = [name for name in json.loads(header[8:]) if name != "__metadata__"]
    assert tensors == sorted(tensors)
    for entry, name in zip(entries.splitlines(), (tensors[0], tensors[-1]), strict=True):
        assert entry.startswith(f'"{name}":')
        assert entry in header


def test_the_program_reads_the_file(data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"{digest_of(data)}.safetensors"
    path.write_bytes(data)
    [program] = blocks("python")
    exec(program, {"path": str(path)})
    assert capsys.readouterr().out == "['class 0', 'class 1', 'class 2'] (0.0, 0.015625, 0.03125)\n"


def test_the_header_of_a_thousand_layers(make_checkpoint: Callable[..., Checkpoint]) -> None:
    layer = secnn.Layer(kind="conv", negative_slope=0.2)
    start = secnn.start(input_shape=(1, 8, 8), num_classes=2, num_blocks=2)
    blocks = tuple(block.model_copy(update={"layers": (layer,) * 500}) for block in start.blocks)
    data = encode(make_checkpoint(start.model_copy(update={"blocks": blocks})))
    claimed = re.search(r"1,000 layers needs some ([\d,]+);", PAGE)
    assert claimed is not None
    assert int.from_bytes(data[:8], "little") == pytest.approx(int(claimed[1].replace(",", "")), rel=0.02)
