"""docs/client.md says what the client does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zoo import errors
from zoo.choosing.budget import Budget
from zoo.client import ZooClient

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=[program.split("\n")[0] for program in PROGRAMS])
def test_every_program_runs(program: str, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save("digit.png")
    with ZooClient(server.url) as zoo:
        exec(program.replace("http://127.0.0.1:8000", server.url), {"zoo": zoo})


def test_every_method_and_bound_is_named() -> None:
    methods = {name for name in dir(ZooClient) if not name.startswith("_")} - {"close"}
    assert methods == set(re.findall(r"^\| `(\w+)\(", PAGE, re.MULTILINE))
    assert all(f"`{name}`" in PAGE for name in Budget.model_fields)


def test_every_error_is_there() -> None:
    named = re.findall(r"^\| `(\w+Error)` \|", PAGE, re.MULTILINE)
    assert [name for name in named if not hasattr(errors, name)] == []
