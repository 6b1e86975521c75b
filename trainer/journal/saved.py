"""What training keeps, in one file each: replaced whole, and checked before it is believed."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from torch import Tensor

from zoo.errors import RunError
from zoo.store.directory import write_atomically


def write(path: Path, version: int, state: dict[str, Any]) -> None:
    """`version` changes whenever the contents of the file do."""
    buffer = io.BytesIO()
    torch.save({"version": version, **state}, buffer)
    write_atomically(path, buffer.getvalue())


def read(path: Path, version: int, device: torch.device) -> dict[str, Any]:
    """Raises RunError where the file is damaged or of another version, FileNotFoundError where there is none.

    torch does not look at the checksums (CRC-32) that it writes: bits that flipped would be weights.
    """
    try:
        with ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise BadZipFile(f"the checksum of {damaged} differs")
        state = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(state, dict):
            raise BadZipFile(f"a dict should be in it, not a {type(state).__name__}")
    except (BadZipFile, EOFError, RuntimeError, NotImplementedError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise RunError(
            f"{path} is damaged ({reason}): without it the run cannot go on where it was; once it is deleted, "
            "--resume says what is left to go on with, or begins again"
        ) from error
    if state.get("version") != version:
        raise RunError(f"{path.parent} was written by another version of the trainer: use another --zoo or --seed")
    return state


def write_array(path: Path, values: Tensor) -> None:
    """For `read_array`, as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, values.cpu().numpy())
    write_atomically(path, buffer.getvalue())


def read_array(path: Path) -> Tensor | None:
    """None where it is not there, or damaged."""
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError):
        return None


def require_same(run: Path, before: dict[str, Any], now: dict[str, Any], may_differ: Callable[[str], bool]) -> None:
    """Raises RunError where a run goes on with other settings or images than it was started with."""
    differing = [key for key in before | now if before.get(key) != now.get(key) and not may_differ(key)]
    if differing:
        differences = "; ".join(f"{key} = {before.get(key)}, not {now.get(key)}" for key in differing)
        raise RunError(
            f"{run} was started with {differences}: resume with the same, or use another --zoo or --seed; other images "
            "may have another --name"
        )


def require_epochs(run: Path, asked: int, done: int, epochs: int) -> None:
    """Raises RunError where a run is to end before the epochs that it has done."""
    if epochs < done:
        raise RunError(
            f"{run} was last asked for {asked} epochs and has {done} behind it, so it cannot end after {epochs}: "
            f"--epochs {done} or more goes on with it"
        )
