"""The catalog's file when others hold it, replace it, or the file system is in the way."""

from __future__ import annotations

import errno
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlmodel import SQLModel

from zoo.catalog.database import Database
from zoo.catalog.rows import ROWS
from zoo.library.local import LocalZoo

Put = Callable[..., str]
Opened = Callable[..., LocalZoo]
ZOO = Path(sys.executable).parent / "zoo"


def catalog_of(root: Path) -> Path:
    return root / "catalog.sqlite"


@pytest.fixture
def held(tmp_path: Path, put: Put, opened: Opened) -> Iterator[LocalZoo]:
    """A zoo whose catalog's write lock somebody keeps, as a database browser or a stopped process does."""
    put(tmp_path)
    zoo = opened(tmp_path)
    with closing(sqlite3.connect(catalog_of(tmp_path), isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield zoo


def test_reading_needs_no_write_lock(tmp_path: Path, held: LocalZoo, caplog: pytest.LogCaptureFixture) -> None:
    started = time.monotonic()
    again = LocalZoo([tmp_path])
    again.sync()
    held.sync()
    assert again.catalog.digests() == held.catalog.digests() != set()
    again.close()
    assert time.monotonic() - started < 1
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_what_is_new_is_found_though_the_catalog_cannot_be_written(
    tmp_path: Path, put: Put, held: LocalZoo, caplog: pytest.LogCaptureFixture
) -> None:
    new = put(tmp_path, seed=1)
    started = time.monotonic()
    assert held.sync()
    assert len(held.catalog.digests()) == 2
    held.annotator.mark(new, aliases=["stable"], deprecated=True)
    held.delete(new)
    assert len(held.catalog.digests()) == 1
    assert time.monotonic() - started < 4, "waited for once"
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "(database is locked): kept in memory until it can" in warning


def test_a_catalog_that_was_locked_for_a_while_is_shared_again(
    tmp_path: Path, put: Put, caplog: pytest.LogCaptureFixture
) -> None:
    """Else two servers, one of which once waited in vain, would each know only of what it did itself."""
    put(tmp_path)
    other = LocalZoo([tmp_path])
    other.sync()
    database = Database(catalog_of(tmp_path), SQLModel.metadata, [ROWS], return_seconds=0.0)
    with closing(sqlite3.connect(catalog_of(tmp_path), isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with database.writing() as writing:
            writing.execute(ROWS.delete())
        assert not database.follow_file(), "somebody has it still"
        assert len(other.catalog.digests()) == 1
    assert database.follow_file()
    with database.writing() as writing:
        writing.execute(ROWS.delete())
    assert other.catalog.digests() == set()
    database.close()
    other.close()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings[-1] == f"the catalog {catalog_of(tmp_path)} can be used again"


def test_readers_wait_for_no_large_transaction(tmp_path: Path, put: Put, opened: Opened) -> None:
    """`zoo reindex` beside a server: what is larger than SQLite's cache must not lock it out until all is written."""
    put(tmp_path)
    reading = opened(tmp_path)
    database = Database(catalog_of(tmp_path), SQLModel.metadata, [ROWS])
    with database.writing() as writing:
        [row] = writing.execute(ROWS.select()).mappings()
        large = [{**row, "digest": f"{number:064}", "classes": "x" * 100_000} for number in range(60)]
        writing.execute(ROWS.insert(), large)
        started = time.monotonic()
        assert len(reading.catalog.digests()) == 1
        assert time.monotonic() - started < 1
    assert len(reading.catalog.digests()) == 61
    database.close()


def test_no_file_that_somebody_truncates_ends_the_process(tmp_path: Path, put: Put) -> None:
    """What is mapped into memory is SIGBUS then, which no program can catch and go on."""
    put(tmp_path)
    program = f"""
from pathlib import Path; import os
from zoo.library.local import LocalZoo
zoo = LocalZoo([Path({str(tmp_path)!r})])
zoo.sync()
for path in Path({str(tmp_path)!r}).glob("catalog*"):
    os.truncate(path, 0)
    zoo.sync()
    assert len(list(zoo.models())) == 1, path
assert "catalog" not in Path("/proc/self/maps").read_text()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_catalog_that_is_removed_or_replaced_is_noticed(
    tmp_path: Path, put: Put, opened: Opened, is_replaced: bool
) -> None:
    digest = put(tmp_path)
    one, other = opened(tmp_path), opened(tmp_path)
    if is_replaced:
        shutil.copy(catalog_of(tmp_path), tmp_path / "copy")
        (tmp_path / "copy").replace(catalog_of(tmp_path))
    else:
        catalog_of(tmp_path).unlink()
    for zoo in (one, other):
        assert zoo.sync()
        assert zoo.catalog.digests() == {digest}
    new = put(tmp_path, seed=1)
    one.sync()
    assert new in other.catalog.digests(), "both use one file again"


def test_a_file_system_without_locks(tmp_path: Path, put: Put, lockless: Callable[[Path, int], dict[str, str]]) -> None:
    """tests/faults has the trainer and the server on one, and other errors."""
    root = tmp_path / "zoo"
    digest = put(root)
    environment = lockless(root, errno.ENOSYS)

    def zoo(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([ZOO, *words, "--zoo", root], env=environment, capture_output=True, text=True)

    shown = zoo("show", "best", "--json")
    assert shown.returncode == 0, shown.stderr
    assert digest in shown.stdout
    assert "kept in memory until it can" in shown.stderr
    put(tmp_path / "other", seed=1)
    published = zoo("publish", next((tmp_path / "other").rglob("*.safetensors")))
    assert published.returncode == 0, published.stderr
    assert "has no locks (" in published.stderr
    assert len(list(root.rglob("*.safetensors"))) == 2
