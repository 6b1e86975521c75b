"""Ray's workers import from where the sweep was started, unless they are kept from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


@pytest.mark.faults
def test_a_sweep_imports_nothing_from_where_it_runs(tmp_path: Path) -> None:
    folder = tmp_path / "hostile"
    for name in ("trainer", "zoo", "json", "torch"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise ImportError('{name} of a stranger')\n")
    command = [BIN / "zoo-train", "sweep", "digits", "--data", "digits", "--zoo", tmp_path / "zoo", "--seeds", "0"]
    options = ["--epochs", "2", "--limit-train", "100"]
    done = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
