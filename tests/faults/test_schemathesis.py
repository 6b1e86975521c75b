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
# Its defaults, but for what no schema can say of four operations: which cursors there are and which bytes have which
# digest (422), which bytes are an image and which numbers fit a tensor's shape (400), what each policy goes with (422).
_DEFAULTS = ["2xx", "3xx", "401", "403", "404", "409", "429", "5xx"]
_CONFIG = f"""
[[operations]]
include-path = "/models"
checks.positive_data_acceptance.expected-statuses = {[*_DEFAULTS, "422"]}

[[operations]]
include-path-regex = "^/blobs/"
checks.positive_data_acceptance.expected-statuses = {[*_DEFAULTS, "422"]}

[[operations]]
include-path = "/predict"
checks.positive_data_acceptance.expected-statuses = {[*_DEFAULTS, "400", "422"]}

[[operations]]
include-path-regex = "/infer$"
checks.positive_data_acceptance.expected-statuses = {[*_DEFAULTS, "400"]}
"""


@pytest.mark.faults
@pytest.mark.parametrize("seed", [1, 2])
def test_schemathesis_finds_nothing(
    serving: Callable[..., AbstractContextManager[str]], tmp_path: Path, seed: int
) -> None:
    program = shutil.which("schemathesis")
    if program is None:
        pytest.skip("there is no schemathesis on PATH")
    (tmp_path / "schemathesis.toml").write_text(_CONFIG)
    zoo = shutil.copytree(ROOT / "zoo" / "pretrained", tmp_path / "zoo", ignore=shutil.ignore_patterns("*.sqlite*"))
    options = {
        "--checks": "all",
        "--phases": "examples,coverage,fuzzing",
        "--max-examples": "50",
        "--seed": str(seed),
        "--header": f"Authorization: Bearer {TOKEN}",
        "--suppress-health-check": "all",
        "--request-timeout": "20",
    }
    with serving(zoo, ZOO_PUBLISH_TOKEN=TOKEN) as url:
        words = [program, "--config-file", "schemathesis.toml", "run", f"{url}/openapi.json", "--continue-on-failure"]
        words += [word for option in options.items() for word in option]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
