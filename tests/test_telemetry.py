"""No command reports to anybody: nothing is stored for a report, and no name but the zoo's own is looked up."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.conftest import BIN

ROOT = Path(__file__).parent.parent
DIGIT = ROOT / "docs" / "digit.png"

# Networks for programs: the same, without a command of ours.
_PROGRAM = """
import sys
from pathlib import Path
from zoo.checkpoint.file import load
from zoo.runtime.onnx_classifier import OnnxClassifier
[path, *_] = Path(sys.argv[1]).rglob("*.safetensors")
print(OnnxClassifier(load(path)).predict(sys.argv[2], 1)[0].label)
"""


def watched(home: Path) -> dict[str, str]:
    """Whatever a library keeps to send later lies in `home`. Not silenced as this test run is."""
    silencers = ("HF_HUB_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED", "DO_NOT_TRACK")
    environment = {name: value for name, value in os.environ.items() if name not in silencers}
    return {**environment, "ORT_DISABLE_TELEMETRY": "0", "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}


def stored(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "words",
    [
        [BIN / "zoo", "predict", DIGIT, "--zoo"],
        [BIN / "zoo", "verify", "--zoo"],
        [sys.executable, "-c", _PROGRAM],
    ],
    ids=["predict", "verify", "program"],
)
def test_running_a_network_stores_no_report(words: list[object], grown: Path, tmp_path: Path) -> None:
    arguments = [*map(str, words), str(grown), *([str(DIGIT)] if "-c" in words else [])]
    done = subprocess.run(arguments, env=watched(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert stored(tmp_path) == []


def served(grown: Path, home: Path, launcher: list[str], seconds: float) -> None:
    """Starts `zoo-serve --workers 2`, asks it for a prediction, lets it serve for some seconds, and stops it."""
    log = home / "log"
    words = [*launcher, BIN / "zoo-serve", "--zoo", grown, "--port", "0", "--workers", "2"]
    with log.open("w") as stderr:
        process = subprocess.Popen(list(map(str, words)), env=watched(home), stderr=stderr)
    try:
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        for _ in range(100):
            try:
                answer = httpx.post(f"{found.group()}/predict", files={"file": DIGIT.read_bytes()})
                break
            except httpx.ConnectError:
                time.sleep(0.1)
        assert answer.status_code == 200
        time.sleep(seconds)
    finally:
        process.terminate()
        process.wait()


def test_serving_stores_no_report(grown: Path, tmp_path: Path) -> None:
    served(grown, tmp_path, [], 0)
    assert stored(tmp_path) == [tmp_path / "log"]


@pytest.mark.faults
def test_serving_asks_nobody(grown: Path, tmp_path: Path) -> None:
    """Unsilenced, ONNX Runtime's first look-up comes after nine seconds."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("there is no strace here")
    trace = tmp_path / "trace"
    served(grown, tmp_path, [strace, "-D", "-f", "-qq", "-e", "trace=connect", "-o", str(trace)], 15)
    assert [line for line in trace.read_text().splitlines() if "sin" in line and "127.0.0.1" not in line] == []
    assert set(stored(tmp_path)) == {tmp_path / "log", trace}
