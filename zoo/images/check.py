"""Checks a folder of images before training: counts, sizes, damaged files, duplicates."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.errors import DataError
from zoo.images import duplicates, splits
from zoo.images import folder as image_folder
from zoo.images.decode import Fit, Form
from zoo.images.folder import BadFiles, ImageFile, ImageFolder
from zoo.images.picture import Color

# Without --image-size: images of one size up to this stay as they are, all others become squares of their median
# shorter side, at most this.
MAX_DEFAULT_SIZE = 96
# Of the largest class beside the smallest: from here on accuracy says little of the smallest.
_IMBALANCED = 5

Probe = tuple[Color, tuple[int, int]]


def common_form(probes: Iterable[Probe | None], image_size: int | None, fit: Fit) -> tuple[Form, str]:
    """What all training images are brought to, by their colours and sizes; and a sentence that says so."""
    counts = Counter(probe for probe in probes if probe is not None)
    color: Color = "gray" if all(color == "gray" for color, _ in counts) else "rgb"
    sizes = sorted({size for _, size in counts}, key=lambda size: (size[0] * size[1], size))
    if not sizes:  # no file is good
        return Form(color, (1, 1), fit), ""
    smallest, largest = (f"{width}×{height}" for height, width in (sizes[0], sizes[-1]))
    came = f"images of {smallest}" if len(sizes) == 1 else f"images of {len(sizes):,} sizes, {smallest} to {largest},"
    if image_size is None and len(sizes) == 1 and max(sizes[0]) <= MAX_DEFAULT_SIZE:
        return Form(color, sizes[0], fit), f"{came} stay as they are"
    if image_size is None:
        shorter = [min(size) for (_, size), count in counts.items() for _ in range(count)]
        image_size = min(MAX_DEFAULT_SIZE, int(np.median(shorter)))
    size = image_size, image_size
    how = {"squeeze": "squeezed", "crop": "the middle of each cut out"}[fit]
    how = "" if all(height == width for height, width in sizes) else f", {how}"
    return Form(
        color, size, fit
    ), f"{came} are resized to {image_size}×{image_size}{how} (--image-size: to another size)"


def require_memory(num_images: int, form: Form) -> None:
    """Raises DataError where the decoded images take more than half of this machine's memory."""
    height, width = form.size
    needed, there = num_images * form.channels * height * width, _memory_bytes()
    if there is not None and needed > there // 2:
        raise DataError(
            f"{num_images:,} images of {width}×{height} take {needed / 2**30:,.1f} GiB once they are decoded, more "
            f"than half of the {there / 2**30:,.1f} GiB of memory here: give a smaller --image-size, or fewer images"
        )


def _memory_bytes() -> int | None:
    """Of the machine, or of the container; None where the system does not say."""
    limits = []
    with suppress(OSError, ValueError, AttributeError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):  # "max" where there is no limit
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits, default=None)


@dataclass(frozen=True)
class Report:
    """`counts`: class -> split -> images; validation images that are to be taken from training images count as such.

    `equal` and `near`: paths of images that are one picture; `near` are not equal to the byte. `problems` have to be
    mended before one trains; `remarks` are worth a look.
    """

    name: str
    summary: str
    sizes: str
    counts: dict[str, dict[str, int]]
    left_out: list[dict[str, str | int]]
    damaged: list[str]
    equal: list[list[str]]
    near: list[list[str]]
    problems: list[str]
    remarks: list[str]


def check(path: Path, *, test_share: float | None = None, image_size: int | None = None, fit: Fit = "crop") -> Report:
    """Reads and decodes every image once. Raises DataError where nothing can be trained on it at all."""
    wrong: list[str] = []
    folder = image_folder.read(path, test_share, wrong)
    bad = BadFiles()
    good, thumbnails = bad.thumbnails(folder.files)
    files = [folder.files[place] for place in good]
    equal = duplicates.equal(files)
    first = {place: places[0] for places in equal for place in places}
    same = duplicates.near(thumbnails, [first.get(place, place) for place in range(len(files))])
    near = [places for places in same if places not in equal]
    counts = _counts(folder, files)
    form, sizes = common_form((bad.probe(file) for file in folder.train if file not in bad), image_size, fit)
    require_memory(len(folder.files), form)
    remarks = [*folder.findings, *_imbalance(counts)]
    if equal:
        remarks.append(f"files that are there twice or more: {len(equal):,}, as {_example(files, equal)}")
    if near:
        remarks.append(
            f"pictures that are there twice or more, nearly the same: {len(near):,}, as {_example(files, near)}"
        )
    remarks += image_folder.in_two_classes(files, same)
    damage = [f"{len(bad):,} {'file' if len(bad) == 1 else 'files'} cannot be read: {bad}"] if bad else []
    return Report(
        name=folder.name,
        summary=folder.summary,
        sizes=sizes,
        counts=counts,
        left_out=[{"what": kind, "count": count, "first": first} for kind, count, first in folder.left_out.items()],
        damaged=list(bad.values()),
        equal=_paths(files, equal),
        near=_paths(files, near),
        problems=[*wrong, *damage, *_missing(counts), *image_folder.leaks(files, same)],
        remarks=remarks,
    )


def _counts(folder: ImageFolder, files: Sequence[ImageFile]) -> dict[str, dict[str, int]]:
    """Counts of readable files: class -> split -> number."""
    labels = {split: [file.label for file in files if file.split == split] for split in ("train", "validation", "test")}
    if not folder.validation:
        train = labels["train"]
        indices, _ = splits.validation(np.array([folder.classes.index(label) for label in train]))
        labels["validation"] = [train[index] for index in indices]
        labels["train"] = list((Counter(train) - Counter(labels["validation"])).elements())
    counted = {split: Counter(found) for split, found in labels.items()}
    return {label: {split: counted[split][label] for split in counted} for label in folder.classes}


def _missing(counts: dict[str, dict[str, int]]) -> list[str]:
    sentences = []
    for split, name in (("train", "training"), ("test", "test")):
        if missing := [label for label, found in counts.items() if not found[split]]:
            sentences.append(
                f"{len(missing)} of {len(counts)} classes have no {name} image: {image_folder.named(missing)}"
            )
    return sentences


def _imbalance(counts: dict[str, dict[str, int]]) -> list[str]:
    train = {label: found["train"] for label, found in counts.items()}
    largest, smallest = max(train, key=train.__getitem__), min(train, key=train.__getitem__)
    if not train[smallest] or train[largest] < _IMBALANCED * train[smallest]:
        return []
    return [
        f"{largest} has {train[largest] / train[smallest]:.0f} times as many training images as {smallest} "
        f"({train[largest]:,}, {train[smallest]:,}): accuracy is mostly of the large classes"
    ]


def _paths(files: Sequence[ImageFile], groups: Sequence[Sequence[int]]) -> list[list[str]]:
    return [[str(files[place].path) for place in places] for places in groups]


def _example(files: Sequence[ImageFile], groups: Sequence[Sequence[int]]) -> str:
    return " and ".join(str(files[place].path) for place in groups[0][:2])
