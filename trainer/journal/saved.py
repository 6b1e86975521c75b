"""A state of training in one file: replaced whole, and checked before it is believed."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch

from zoo.errors import RunError
from zoo.store.directory import write_atomically


def write(path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def read(path: Path, device: torch.device) -> dict[str, Any]:
    """Raises RunError where the file is damaged, FileNotFoundError where there is none.

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
    return state
