"""docs/elastic.md says what the code does; its commands and programs run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from zoo.checkpoint.elastic import ElasticFile, pack
from zoo.checkpoint.elastic_header import MAX_LEVELS, MIN_LEVELS, ElasticDescriptor
from zoo.checkpoint.file import digest_of
from zoo.cli.main import app
from zoo.store.directory import Directory

PAGE = (Path(__file__).parents[2] / "docs" / "elastic.md").read_text()
BLOCKS = re.findall(r"^```(python|sh)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def _keys(schema: dict[str, Any], definitions: dict[str, Any], path: str = "") -> Iterator[str]:
    for key, value in schema["properties"].items():
        yield f"{path}{key}"
        if "items" in value:
            yield from _keys(definitions[value["items"]["$ref"].rpartition("/")[2]], definitions, f"{path}{key}[].")


def test_every_command_and_program_runs(
    levels: list[bytes], serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    small, middle, large = levels[0], levels[1], levels[3]
    for name, data in (("small", small), ("middle", middle), ("large", large)):
        Path(f"{name}.safetensors").write_bytes(data)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for name in ("digit.png", "frog.png"):
        Image.fromarray(pixels).save(name)
    Directory(tmp_path / "zoo").put(pack(levels))
    url = serve(tmp_path / "zoo").url
    variables: dict[str, Any] = {"small": small, "middle": middle, "large": large}
    for language, block in BLOCKS:
        text = block.replace("http://127.0.0.1:8000", url)
        if language == "python":
            exec(text, variables)
            continue
        # Accuracies of the page are those of a trained file; here they begin at 0.6.
        for line in text.replace("0.8 ", "0.6 ").replace("0.86", "0.7").splitlines():
            program, *words = shlex.split(line)
            assert program == "zoo"
            if words[0] in ("get", "pack"):
                Path("net.safetensors").unlink(missing_ok=True)
            done = CliRunner().invoke(app, words, catch_exceptions=False)
            assert done.exit_code == 0, done.output


def test_every_key_is_in_the_table_and_no_other() -> None:
    schema = ElasticDescriptor.model_json_schema()
    keys = [key for key in _keys(schema, schema["$defs"]) if not key.startswith("levels[].descriptor.")]
    table = PAGE.split("## The file, byte by byte")[1]
    assert re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE) == keys
    assert f"{MIN_LEVELS} to {MAX_LEVELS} levels" in PAGE


def test_the_example_of_a_place_is_one(levels: list[bytes], tmp_path: Path) -> None:
    import json

    from zoo.library.local import LocalZoo

    Directory(tmp_path).put(pack(levels))
    with LocalZoo([tmp_path]) as zoo:
        zoo.sync()
        place = zoo.choose(min_acc=0.65).elastic
    assert place is not None
    [shown] = re.findall(r'^"elastic": (\{.*\})$', PAGE, re.MULTILINE)
    assert json.loads(shown).keys() == place.model_dump().keys()


def test_a_level_is_read_with_nothing_but_the_page(elastic_example: bytes) -> None:
    """By hand: the widened example's first tensor, from what both levels add."""
    import io
    import struct

    file = ElasticFile(io.BytesIO(elastic_example))
    assert digest_of(elastic_example[: file.levels[1].prefix_bytes]) == digest_of(elastic_example)
    # blocks.0.layers.0.conv.weight is (1, 1, 3, 3) in level 0, (2, 1, 3, 3) in level 1; its values count up in 1/64.
    first = struct.unpack_from("<9f", elastic_example, file.levels[0].start)
    second = struct.unpack_from("<9f", elastic_example, file.levels[1].start)
    assert first == tuple(n / 64 for n in range(9))
    assert second == tuple(n / 64 for n in range(9, 18))
