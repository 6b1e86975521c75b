"""schemathesis, all checks, over the whole OpenAPI document: nothing answered that is not declared, nothing crashes.

It is no dependency: `pip install schemathesis` in any environment, and have its `schemathesis` on PATH.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TOKEN = "a-token-for-publishing"
# What no schema can say: that `confidence` needs `min_acc`, that `model` goes with no budget, that bytes are those of a
# digest. Such requests fit the schema and are 422 (400 for bytes that are no image).
_CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "401", "403", "404", "409", "410", "413", "422", "5xx"]
"""


@pytest.mark.faults
def test_schemathesis_finds_nothing(serving: Callable[..., AbstractContextManager[str]], tmp_path: Path) -> None:
    program = shutil.which("schemathesis")
    if program is None:
        pytest.skip("there is no schemathesis on PATH")
    (tmp_path / "schemathesis.toml").write_text(_CONFIG)
    zoo = shutil.copytree(ROOT / "zoo" / "pretrained", tmp_path / "zoo", ignore=shutil.ignore_patterns("*.sqlite*"))
    options = {
        "--checks": "all",
        "--phases": "examples,coverage,fuzzing",
        "--max-examples": "50",
        "--seed": "1",
        "--header": f"Authorization: Bearer {TOKEN}",
        "--suppress-health-check": "all",
        "--request-timeout": "20",
    }
    with serving(zoo, ZOO_PUBLISH_TOKEN=TOKEN) as url:
        words = [program, "--config-file", "schemathesis.toml", "run", f"{url}/openapi.json", "--continue-on-failure"]
        words += [word for option in options.items() for word in option]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
