"""Training, serving and downloading where the file system has no locks, or where they do nothing."""

from __future__ import annotations

import errno
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from tests.conftest import BIN

pytestmark = pytest.mark.faults

Lockless = Callable[[Path, int], dict[str, str]]
DIGITS = ("--data", "digits", "--epochs", "2", "--limit-train", "200")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_training_and_serving_without_locks(tmp_path: Path, lockless: Lockless, number: int) -> None:
    root = tmp_path / "zoo"
    environment = lockless(root, number)
    train = [BIN / "zoo-train", "digits", *DIGITS, "--zoo", root]
    done = subprocess.run(train, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("has no locks") == 1
    [digest] = done.stdout.split()
    with serving(root, environment) as url:
        assert httpx.get(f"{url}/models").json()["selected"]["id"] == digest


@contextmanager
def serving(root: Path, environment: dict[str, str] | None = None) -> Iterator[str]:
    words = [BIN / "zoo-serve", "--zoo", root, "--port", "0"]
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            said = ""
            while not (found := re.search(r"serving on (http://\S+:\d+)", said)):
                line = server.stderr.readline()
                assert line, said
                said += line
            yield found.group(1)
        finally:
            server.terminate()
            server.communicate()


@pytest.mark.parametrize("number", [0, errno.ENOLCK], ids=["a lock for everybody", "ENOLCK"])
def test_many_that_download_one_file_where_locks_do_nothing(
    tmp_path: Path, lockless: Lockless, put: Callable[..., str], number: int
) -> None:
    digest = put(tmp_path / "zoo")
    target, environment = tmp_path / "file", lockless(tmp_path, number)
    with serving(tmp_path / "zoo") as url:
        words = [BIN / "zoo", "get", digest, "--url", url, "-o", target]
        for _ in range(3):
            gets = [subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL) for _ in range(6)]
            assert [get.wait(120) for get in gets] == [0] * 6
            assert sha256(target.read_bytes()).hexdigest() == digest
            assert list(tmp_path.glob(".*.part")) == []
            target.unlink()
