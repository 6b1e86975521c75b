"""A run's plan (sizes, epochs) in its directory, so that a resumed run keeps to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from zoo.store.directory import write_atomically

Plan = TypeVar("Plan")


def kept(path: Path, key: Sequence[str], kind: type[Plan], make: Callable[[], Plan]) -> Plan:
    """The plan stored for the same key, else the one that `make` returns, which is then stored."""
    file = TypeAdapter(tuple[list[str], kind])  # type: ignore[valid-type]
    try:
        saved = file.validate_json(path.read_bytes())
    except (OSError, ValidationError):  # not there, or damaged
        saved = None
    if saved is not None and saved[0] == [*key]:
        return saved[1]
    made = make()
    write_atomically(path, file.dump_json(([*key], made)))
    return made
