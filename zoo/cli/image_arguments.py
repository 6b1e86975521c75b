"""The images that a command is given (files, folders of them, `-` for standard input), classified a batch at a time."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.catalog.views import Prediction
from zoo.errors import ImageError, ZooError
from zoo.images.files import images_below

STDIN = "-"
# Read before they are decoded; what is decoded is bounded by whoever decodes it.
_BATCH_IMAGES = 32
_BATCH_BYTES = 16 * 1024 * 1024

Ask = Callable[[list[bytes]], list[list[Prediction]]]
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """Of one image: `predictions`, or why there are none."""

    name: str
    predictions: list[Prediction] | None = None
    error: str = ""


def paths(arguments: Sequence[str], note: Note) -> Iterator[str]:
    """Names of files in the order given, a folder's sorted; `note` is told what of a folder is left out.

    Raises ZooError for what no file can be named, before anything is read.
    """
    for argument in arguments:
        if re.match(r"(https?|ftp|data):", argument):
            raise ZooError(f"{argument}: only files are read; fetch it first, as in `curl -s URL | zoo predict -`")
    if arguments.count(STDIN) > 1:
        raise ZooError("- is standard input, which can be read once")
    return (name for argument in arguments for name in _expanded(argument, note))


def _expanded(argument: str, note: Note) -> Iterator[str]:
    if argument == STDIN or not Path(argument).is_dir():
        yield argument
        return
    found, left_out = images_below(Path(argument))
    if left_out:
        note(f"{argument}: left out {left_out}")
    if not found:
        raise ZooError(f"{argument}: a folder without images")
    yield from map(str, found)


def answers(names: Iterator[str], ask: Ask) -> Iterator[Answer]:
    """In order, as batches are answered: memory does not grow with their number. A bad file takes no other along."""
    batch: list[tuple[str, bytes]] = []
    for name in names:
        try:
            data = sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
        except OSError as error:
            yield from _answered(batch, ask)
            batch = []
            yield Answer(name, error=f"cannot be read: {error.strerror}")
            continue
        if len(batch) == _BATCH_IMAGES or sum(len(other) for _, other in batch) + len(data) > _BATCH_BYTES:
            yield from _answered(batch, ask)
            batch = []
        batch.append((name, data))
    yield from _answered(batch, ask)


def _answered(batch: list[tuple[str, bytes]], ask: Ask) -> Iterator[Answer]:
    """A refused batch is asked again in halves: so the bad ones are found, whoever refuses them and in what words."""
    if not batch:
        return
    try:
        found = ask([data for _, data in batch])
    except ImageError as error:
        if len(batch) == 1:
            yield Answer(batch[0][0], error=str(error))
            return
        middle = len(batch) // 2
        yield from _answered(batch[:middle], ask)
        yield from _answered(batch[middle:], ask)
        return
    for (name, _), row in zip(batch, found, strict=True):
        yield Answer(name, row)
