"""Nothing is imported from the folder that a command is run in: it may be a stranger's download."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

BIN = Path(sys.executable).parent
# Of the standard library, of what is used, and of the project itself.
NAMES = "base64 email json logging random select signal socket tempfile threading token numpy typer fastapi uvicorn ray"
OURS = "app trainer zoo"


@pytest.fixture
def hostile(tmp_path: Path) -> Callable[[str], Path]:
    """A folder of modules each of which leaves its name in the file `imported` beside the folder."""

    def make(names: str) -> Path:
        folder = tmp_path / "hostile"
        for name in names.split():
            (folder / name).mkdir(parents=True)
            (folder / name / "__init__.py").write_text(
                f"open({str(tmp_path / 'imported')!r}, 'a').write('{name} ')\nraise ImportError('a stranger: {name}')\n"
            )
        return folder

    return make


def run(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(word) for word in words], cwd=folder, capture_output=True, text=True)
    imported = folder.parent / "imported"
    assert not imported.exists(), imported.read_text()
    assert done.returncode == 0, done.stderr
    return done


def test_commands_import_nothing_from_where_they_run(hostile: Callable[[str], Path], put: Callable[..., str]) -> None:
    folder = hostile(f"{NAMES} {OURS}")
    digest = put(folder.parent / "zoo")
    assert digest[:12] in run(folder, BIN / "zoo", "list", "--zoo", folder.parent / "zoo").stdout
    assert "Usage" in run(folder, BIN / "zoo-train", "grow", "--help").stdout
    run(folder, BIN / "zoo-serve", "--version")


@pytest.mark.parametrize("package", ["app", "trainer"])
def test_modules_run_by_name_import_nothing_else_from_there(hostile: Callable[[str], Path], package: str) -> None:
    assert "Usage" in run(hostile(NAMES), sys.executable, "-m", package, "--help").stdout


def test_workers_import_nothing_from_there(
    hostile: Callable[[str], Path], put: Callable[..., str], tmp_path: Path
) -> None:
    folder = hostile(f"{NAMES} {OURS}")
    put(tmp_path / "zoo")
    log = tmp_path / "log"
    command = [BIN / "zoo-serve", "--zoo", tmp_path / "zoo", "--workers", "2", "--port", "0"]
    with log.open("w") as stderr:
        process = subprocess.Popen(command, cwd=folder, stderr=stderr, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 30
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        assert httpx.get(f"{found.group()}/models", timeout=30).json()["count"] == 1
    finally:
        process.terminate()
        process.wait()
    assert not (tmp_path / "imported").exists()
