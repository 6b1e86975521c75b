from __future__ import annotations

from pathlib import Path

import pytest

from zoo.store.locks import is_locked, lock


def test_a_lock_is_seen_without_being_taken(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.touch()
    assert not is_locked(path)
    with path.open("ab") as held:
        lock(held, path)
        assert is_locked(path)
        with path.open("ab") as other, pytest.raises(BlockingIOError):
            lock(other, path)
        path.read_bytes()  # closing it elsewhere in the process lets go of nothing
        assert is_locked(path)
    assert not is_locked(path)
