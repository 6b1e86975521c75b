from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.settings import Settings, is_loopback

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_token(tmp_path: Path, host: str) -> None:
    assert is_loopback(host)
    assert Settings(zoo=(tmp_path,), host=host).token is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_any_other_host_needs_one(tmp_path: Path, host: str) -> None:
    with pytest.raises(ValueError, match="can be reached from other machines: set ZOO_TOKEN"):
        Settings(zoo=(tmp_path,), host=host)
    assert Settings(zoo=(tmp_path,), host=host, token="x" * 16).host == host


def test_a_short_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 16 characters"):
        Settings(zoo=(tmp_path,), token="short")


def test_who_may_read_may_not_publish(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ZOO_TOKEN and ZOO_PUBLISH_TOKEN are the same"):
        Settings(zoo=(tmp_path,), token="x" * 16, publish_token="x" * 16)


def test_a_setting_that_is_refused_is_named(tmp_path: Path, command: Command) -> None:
    for environment, message in (
        ({"ZOO_MAX_IMAGES": "0"}, "ZOO_MAX_IMAGES: Input should be greater than or equal to 1"),
        ({"ZOO_HOST": "0.0.0.0"}, "host 0.0.0.0 can be reached from other machines"),
    ):
        done = command("zoo-serve", "--zoo", tmp_path, "--port", "0", environment=environment)
        assert done.returncode == 1
        assert done.stderr.startswith(f"zoo-serve: {message}")


def test_directories_come_from_the_environment_as_in_path(tmp_path: Path) -> None:
    code = "from app.settings import Settings; print(*Settings().zoo, Settings().max_images)"
    environment = {"ZOO_ZOO": f"{tmp_path}/a:{tmp_path}/b", "ZOO_MAX_IMAGES": "7"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"{tmp_path}/a", f"{tmp_path}/b", "7"]
