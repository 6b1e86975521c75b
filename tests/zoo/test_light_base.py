"""Without any extra, a zoo behind a URL can be asked; what needs more says which extra to install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ENVIRONMENT
from tests.zoo.conftest import FaultyServer

# What a fresh environment without extras does not have.
HIDDEN = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"PIL", "fastapi", "numpy", "onnxruntime", "orjson", "prometheus_client", "pyspng",
                "pydantic_settings", "safetensors", "simplejpeg", "sqlalchemy", "sqlmodel", "starlette", "torch"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
"""


def run(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", HIDDEN + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)


def zoo(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run("from zoo.cli.main import main; sys.argv[0] = 'zoo'; main()", *arguments)


def test_a_server_is_asked_without_extras(server: FaultyServer, tmp_path: Path) -> None:
    listed = zoo("list", "--url", server.url)
    assert listed.returncode == 0, listed.stderr
    got = zoo("get", "best", "--url", server.url, "--output", tmp_path / "best.safetensors")
    assert got.returncode == 0, got.stderr
    assert (tmp_path / "best.safetensors").stat().st_size > 1000
    code = "from zoo.client import ZooClient; z = ZooClient(sys.argv[1]); z.download(z.best()); z.load(z.best())"
    loaded = run(code, server.url)
    assert "zoo.errors.ZooError: to run networks, pip install 'checkpoint-zoo[local]'" in loaded.stderr


@pytest.mark.parametrize("command", [["list"], ["verify"], ["calibrate"], ["reindex"]])
def test_a_directory_needs_an_extra_which_is_named(command: list[str], small_zoo: Path) -> None:
    done = zoo(*command, "--zoo", small_zoo)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "pip install 'checkpoint-zoo[local]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_serving_needs_an_extra_which_is_named(small_zoo: Path) -> None:
    code = "from app.__main__ import command; sys.argv[0] = 'zoo-serve'; command()"
    done = run(code, "--zoo", small_zoo)
    assert done.returncode == 1
    assert "pip install 'checkpoint-zoo[serve]'" in done.stderr
    assert "Traceback" not in done.stderr
