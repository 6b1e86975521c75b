"""On which terms this server takes checkpoints in, and the accuracies that it measures itself."""

from __future__ import annotations

import logging
import random
import threading

from app.settings import Settings
from zoo.catalog.rows import CheckpointRow
from zoo.choosing.budget import Budget
from zoo.errors import ConflictError, ZooError
from zoo.library.local import LocalZoo
from zoo.library.publishing.evaluate import TestSplits

log = logging.getLogger(__name__)


class Publishing:
    """With `eval_data`, test accuracies are measured; what cannot be measured is staged, and not promoted from here."""

    def __init__(self, settings: Settings) -> None:
        """Raises DataError where test images are missing."""
        self._splits = TestSplits(settings.eval_data)
        self.measures = bool(settings.eval_data)
        self.terms = settings.terms(self._splits)
        self._failed: set[str] = set()

    def check_promotion(self, zoo: LocalZoo, row: CheckpointRow) -> None:
        """Measures it if need be. Raises ConflictError where it cannot be measured, CheckpointError."""
        if not self.measures or row.accuracy_source == "measured":
            return
        measured = self._splits.examine(zoo.files.load(row.digest), self.terms.limits)
        if measured is None:
            raise ConflictError(
                f"checkpoint {row.digest} only claims its accuracy, and this server measures: give it test images of "
                f"data set {row.dataset} (--eval-data), or promote it where the directory is: `zoo promote --zoo DIR`"
            )
        zoo.annotator.measured(row.digest, measured)

    def measure_claims(self, zoo: LocalZoo, stopping: threading.Event) -> bool:
        """Measures what came in before there were images to measure on. True if that changed anything.

        Several workers may be at it: each begins elsewhere, and asks for each what is known by now.
        """
        changed = False
        for name in self._splits.names:
            digests = [
                row.digest for row in zoo.chooser.rows(Budget(dataset=name)) if row.accuracy_source != "measured"
            ]
            for digest in random.sample(digests, len(digests)):
                if stopping.is_set() or digest in self._failed:
                    continue
                try:
                    if zoo.chooser.find(digest).accuracy_source == "measured":
                        continue
                    measured = self._splits.examine(zoo.files.load(digest), self.terms.limits)
                    if measured is not None:
                        zoo.annotator.measured(digest, measured)
                        changed = True
                except (ZooError, OSError) as error:
                    self._failed.add(digest)
                    log.warning("checkpoint %s keeps the accuracy that it claims: %s", digest, error)
        return changed
