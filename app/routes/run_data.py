"""What a run was trained on, as it wrote beside its log (`data.json`): counts, findings, and a sheet of images."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

from pydantic import Base64Bytes, BaseModel, Field, ValidationError

log = logging.getLogger(__name__)

_NAME = "data.json"
# A run writes less than half of it.
_MAX_BYTES = 2**20


class ClassCounts(BaseModel):
    name: str
    train: int
    validation: int
    test: int


class ImageForm(BaseModel):
    channels: int
    height: int
    width: int


class Sheet(BaseModel):
    """A grid of training images of one size, in /runs/{name}/images: a row for each of the first classes."""

    columns: int = Field(description="At most so many of each class; a class that has fewer leaves the rest empty.")
    rows: int
    height: int = Field(description="Of one image in it, in pixels.")
    width: int
    webp: Base64Bytes = Field(exclude=True)


class RunData(BaseModel):
    about: tuple[str, ...] = Field(description="What the images are and how they were made ready, in sentences.")
    findings: tuple[str, ...] = Field(description="What was left out, and what is odd about the rest, in sentences.")
    image: ImageForm = Field(description="As the networks take it.")
    num_classes: int
    classes: tuple[ClassCounts, ...] = Field(description="How many images of each class; the first 1,000 classes.")
    sheet: Sheet


def read(log_path: Path) -> RunData | None:
    """None where the run has left no such file, as those of earlier versions, or a damaged one."""
    path = log_path.with_name(_NAME)
    try:
        status = path.stat()
        return _parsed(path, (status.st_mtime_ns, status.st_size))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = "not as runs write it" if isinstance(error, ValidationError) else error
        log.warning("what run %s was trained on is not shown: %s is %s", log_path.parent.name, path, reason)
        return None


@lru_cache(maxsize=32)
def _parsed(path: Path, stamp: tuple[int, int]) -> RunData:
    """Kept while the file's stamp, its time in nanoseconds and its size, stays the same."""
    if stamp[1] > _MAX_BYTES:
        raise ValueError(f"{stamp[1]:,} bytes long, and at most {_MAX_BYTES:,} are read")
    return RunData.model_validate_json(path.read_bytes())
