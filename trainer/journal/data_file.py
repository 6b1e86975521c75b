"""A summary of a run's training data for people to look at: `data.json` beside its log.

Counts of each class, what was left out, and a contact sheet: a row for each class of some of its training images, as
the network sees them, in one WebP. Bounded in classes, pixels and bytes, whatever the data set. And the content's
digests, so that other images do not go on under the run's name.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from trainer.data.datasets import Data, Split
from zoo.checkpoint.descriptor import Content
from zoo.errors import RunError
from zoo.store.directory import write_atomically

NAME = "data.json"
MAX_CLASSES = 1000
MAX_SHEET_BYTES = 128 * 1024
_MAX_ROWS = 100
_MAX_COLUMNS = 8
_MAX_SIDE = 64
# Of the whole sheet. Colour noise, which compresses worst, then takes 95 kB at the last but one of the qualities below.
_MAX_PIXELS = 400_000
# None: lossless. Tried in this order until the sheet is small enough.
_QUALITIES = (None, 80, 40, 10, 0)


def require_same_images(run: Path, data: Data) -> None:
    """Raises RunError where the run is one of other images. Files of before there were digests, or damaged ones, do not
    say which."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        before = Content.model_validate(json.loads((run / NAME).read_bytes())["content"])
        if before != data.content:
            raise RunError(
                f"{run} is a run on other images that are called {data.name} too: give these another --name, or use "
                "another --zoo"
            )


def write(run: Path, data: Data) -> None:
    """Into the run's directory, in place of what was there. Raises RunError where that was of other images."""
    require_same_images(run, data)
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    counted = {name: _counts(split, len(data.classes)) for name, split in splits.items()}
    classes = [
        {"name": label, **{name: counts[index] for name, counts in counted.items()}}
        for index, label in enumerate(data.classes[:MAX_CLASSES])
    ]
    channels, height, width = data.image_shape
    content = {
        "content": data.content.model_dump(),
        "about": data.about,
        "findings": data.findings,
        "image": {"channels": channels, "height": height, "width": width},
        "num_classes": len(data.classes),
        "classes": classes,
        "sheet": _sheet(data.train, counted["train"][:_MAX_ROWS]),
    }
    # Findings name files, whose names need not be UTF-8.
    write_atomically(run / NAME, json.dumps(content, ensure_ascii=False).encode(errors="replace"))


def _counts(split: Split, num_classes: int) -> list[int]:
    counts: list[int] = torch.bincount(split.labels.cpu(), minlength=num_classes).tolist()
    return counts


def _sheet(split: Split, counts: list[int]) -> dict[str, object]:
    """A row for each of the counts; a class of fewer images than there are columns leaves the rest of its row empty."""
    channels, *sides = split.images.shape[1:]
    scale = min(1.0, _MAX_SIDE / max(sides), (_MAX_PIXELS / len(counts) / (sides[0] * sides[1])) ** 0.5)
    height, width = (max(1, int(side * scale)) for side in sides)
    columns = max(1, min(_MAX_COLUMNS, max(counts), _MAX_PIXELS // (len(counts) * height * width)))
    mode = "L" if channels == 1 else "RGB"
    sheet = Image.new(mode, (columns * width, len(counts) * height))
    for row in range(len(counts)):
        for column, pixels in enumerate(_some(split, row, columns)):
            image = Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels)
            image = image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BOX)
            sheet.paste(image, (column * width, row * height))
    return {"columns": columns, "rows": len(counts), "height": height, "width": width, "webp": _encoded(sheet)}


def _some(split: Split, label: int, most: int) -> Iterator[np.ndarray]:
    """Images of a class, (height, width, channels), evenly from the first to the last."""
    of_class = torch.nonzero(split.labels.cpu() == label).flatten()
    chosen = torch.linspace(0, len(of_class) - 1, min(most, len(of_class))).round().long()
    for index in of_class[chosen].tolist():
        yield split.images[index].cpu().permute(1, 2, 0).numpy()


def _encoded(sheet: Image.Image) -> str:
    """WebP as base64, of the best quality that is small enough."""
    for quality in _QUALITIES:
        file = io.BytesIO()
        options = {"lossless": True} if quality is None else {"quality": quality}
        sheet.save(file, "WEBP", **options)
        if file.tell() <= MAX_SHEET_BYTES:
            break
    return base64.b64encode(file.getvalue()).decode()
