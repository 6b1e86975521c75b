"""The cascades of a zoo's data sets that can be used now: measured, or shipped with a directory as `cascades.json`."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from zoo.catalog.protocol import Index
from zoo.catalog.rows import CheckpointRow
from zoo.choosing.cascade import Calibration, Cascade
from zoo.store.annotations import Annotations
from zoo.store.directory_log import Stamp, stamp_of
from zoo.store.entries import Said

log = logging.getLogger(__name__)

# Where a directory brings cascades along, as `zoo calibrate --data … --json` prints them.
_SHIPPED = ("cascades.json", "*/cascades.json")


@dataclass(frozen=True, slots=True)
class ReadyCascade:
    """`rows` are its stages' checkpoints, all of them in the catalog."""

    cascade: Cascade
    rows: tuple[CheckpointRow, ...]


class ReadyCascades:
    """Cascades by data set, ascending in accuracy and in cost; as of the last `follow`.

    Of checkpoints that budgets choose from alone: nobody asked for its stages by name.
    """

    def __init__(self, roots: Sequence[Path], annotations: Annotations) -> None:
        self._roots = roots
        self._annotations = annotations
        # Of each data set one list for each calibration, those that count first.
        self._ready: dict[str, list[list[ReadyCascade]]] = {}
        self._made_of: tuple[list[Calibration], Collection[str], Said] | None = None
        # What a shipped file held, as it was then; and why one was left out, each reason worth one warning.
        self._shipped: dict[Path, tuple[Stamp, Calibration]] = {}
        self._refused: dict[Path, str] = {}

    def of(self, dataset: str) -> Sequence[ReadyCascade]:
        """By what is said now: what has just been staged or deleted is used no longer."""
        said = self._annotations.said
        withheld = said.deprecated | said.staged | said.deleted
        for calibrated in self._ready.get(dataset, ()):
            if found := [each for each in calibrated if withheld.isdisjoint(row.digest for row in each.rows)]:
                return found
        return ()

    def follow(self, catalog: Index, digests: Collection[str]) -> bool:
        """`digests` are the catalog's. True if that changed the cascades, or what their rows say."""
        # Measured ones come last: they count where there are some.
        found = [*self._found_shipped(), *self._annotations.calibrations()], digests, self._annotations.said
        if found == self._made_of:
            return False
        before, self._ready = self._ready, _ready(found[0], catalog)
        self._made_of = found
        return before != self._ready

    def _found_shipped(self) -> Iterable[Calibration]:
        """That of the first directory last."""
        for path in [path for root in reversed(self._roots) for name in _SHIPPED for path in root.glob(name)]:
            try:
                stamp = stamp_of(path)
                if path not in self._shipped or self._shipped[path][0] != stamp:
                    self._shipped[path] = stamp, Calibration.model_validate_json(path.read_bytes())
            except (ValidationError, OSError) as error:
                if self._refused.get(path) != str(error):
                    self._refused[path] = str(error)
                    log.warning("cascades left out: %s: %s", path, error)
            else:
                yield self._shipped[path][1]


def _ready(calibrations: Iterable[Calibration], catalog: Index) -> dict[str, list[list[ReadyCascade]]]:
    ready: dict[str, list[list[ReadyCascade]]] = {}
    for calibration in calibrations:
        rows = catalog.rows({stage.digest for cascade in calibration.cascades for stage in cascade.stages})
        found = [
            ReadyCascade(cascade, tuple(rows[stage.digest] for stage in cascade.stages))
            for cascade in calibration.cascades
            if all(stage.digest in rows for stage in cascade.stages)
        ]
        if found:
            ready.setdefault(calibration.dataset, []).insert(0, found)
    return ready
