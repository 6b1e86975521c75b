"""Test accuracies, measured by whoever takes a checkpoint in: what its file says of them is a claim."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np

from zoo.checkpoint.content import digest_of_images
from zoo.checkpoint.file import Checkpoint
from zoo.errors import BusyError, CheckpointError, DataError
from zoo.images.folder import name_of
from zoo.library.publishing import trial
from zoo.library.publishing.trial import Limits
from zoo.runtime.classifier import form_of
from zoo.runtime.measure import HeldOutImages
from zoo.store.entries import Measured

# Of larger test splits it is not asked whether they are those that the checkpoint was tested on.
_MAX_COMPARED_BYTES = 256 * 1024 * 1024


class TestSplits:
    """The test images of some data sets, read when they are first asked for. From any thread."""

    __test__ = False  # nothing for pytest, by whose rules the name is that of a test

    def __init__(self, sources: Sequence[str]) -> None:
        """As for HeldOutImages: "digits", or directories and archives. Raises DataError where one does not exist."""
        self._sources: dict[str, str] = {}
        for source in sources:
            name = source if source == "digits" else name_of(Path(source))
            if source != "digits" and not Path(source).exists():
                raise DataError(f"{source}: no such directory or archive of test images")
            if name in self._sources:
                raise DataError(f"{source} and {self._sources[name]} are both test images of data set {name}")
            self._sources[name] = source
        self._read: dict[str, HeldOutImages] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        return list(self._sources)

    def examine(self, checkpoint: Checkpoint, limits: Limits) -> Measured | None:
        """Runs the network as `trial.run`, on the test images of its data set; None without such.

        Raises CheckpointError, also where its classes are not those of the images; BusyError.
        """
        name = checkpoint.descriptor.dataset.name
        if name not in self._sources:
            trial.run(checkpoint, limits)
            return None
        try:
            return self._measured(checkpoint, self._images(name), limits)
        except DataError as error:  # nothing that a publisher can mend
            raise BusyError(f"the test images of data set {name} cannot be read: {error}") from error

    def _measured(self, checkpoint: Checkpoint, images: HeldOutImages, limits: Limits) -> Measured | None:
        descriptor = checkpoint.descriptor
        if descriptor.classes != images.classes:
            raise CheckpointError(
                f"it claims to tell apart the classes of data set {images.name}, and has others than its test images: "
                f"{len(descriptor.classes)} from {descriptor.classes[0]!r} on, not {len(images.classes)} from "
                f"{images.classes[0]!r} on"
            )
        form = form_of(descriptor)
        content, num_bytes = descriptor.dataset.content, len(images) * prod(form.size) * 3
        if content is not None and num_bytes <= _MAX_COMPARED_BYTES:
            pixels = np.concatenate(list(images.batches(form)))
            if digest_of_images(pixels, images.labels, images.classes) != content.test:  # others of the same name
                trial.run(checkpoint, limits)
                return None
        batches = images.batches(form)
        found = trial.run(checkpoint, limits, batches, len(images))
        correct = int((np.array(found.predicted) == images.labels).sum())
        return Measured(accuracy=correct / len(images), n=len(images))

    def _images(self, name: str) -> HeldOutImages:
        with self._lock:
            if name not in self._read:
                self._read[name] = HeldOutImages(self._sources[name])
            return self._read[name]
