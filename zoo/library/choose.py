"""Chooses checkpoints by budget or by name, and explains why where none qualifies."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping

from zoo.catalog.names import COMPUTED_ALIASES, MIN_PREFIX
from zoo.catalog.protocol import Index
from zoo.catalog.rows import CheckpointRow, column_of
from zoo.catalog.views import CheckpointView, Selection
from zoo.choosing.adaptive import spread
from zoo.choosing.budget import ALL_DATASETS, UNITS, Budget, Filters
from zoo.errors import BusyError, GoneError, NoModelMeetsConstraintsError, NotFoundError
from zoo.library.ready_cascades import ReadyCascade, ReadyCascades
from zoo.library.rows import view_of
from zoo.library.upkeep.device import device_name
from zoo.store.annotations import Annotations

_PAGE = 1000


class Chooser:
    """Belongs to a LocalZoo. All methods may be called from any thread."""

    def __init__(self, catalog: Index, annotations: Annotations, cascades: ReadyCascades) -> None:
        self._catalog = catalog
        self._annotations = annotations
        self._cascades = cascades

    # --- by budget -------------------------------------------------------------------------------------

    def choose(self, budget: Budget) -> CheckpointRow:
        """The one that the budget prefers. Raises NoModelMeetsConstraintsError, with the nearest checkpoint."""
        row = self._catalog.choose(budget)
        if row is None:
            raise self.nothing_meets(budget)
        return row

    def select(self, budget: Budget, limit: int, cursor: str | None = None) -> tuple[Selection, str | None]:
        """A page of the eligible checkpoints, the preferred ones first, and the cursor of the next.

        Raises as `choose` where something was asked for, and ValueError for a cursor that no page of them gave out.
        """
        listing = self._catalog.listing(budget, limit, cursor)
        if listing.selected is None and budget.is_filtered():
            raise self.nothing_meets(budget)
        selection = Selection(
            dataset=listing.dataset,
            selected=None if listing.selected is None else self._view(listing.selected, listing.aliases),
            because=None if listing.selected is None else budget.because(),
            items=tuple(self._view(row, listing.aliases) for row in listing.page.rows),
            count=listing.count,
        )
        return selection, listing.page.next_cursor

    def rows(self, budget: Budget) -> list[CheckpointRow]:
        """All eligible rows, the preferred ones first."""
        page = self._catalog.page(budget, _PAGE)
        rows = list(page.rows)
        while page.next_cursor is not None:
            page = self._catalog.page(budget, _PAGE, page.next_cursor)
            rows += page.rows
        return rows

    def levels(self, budget: Budget) -> list[CheckpointRow]:
        """Of the eligible ones those that no other beats in both MACs and accuracy, ascending in both; at most
        `MAX_LEVELS`, spread evenly. Where no accuracy is known, the one that `choose` has. Raises as it does.
        """
        return spread(self._catalog.pareto(budget, "macs")) or [self.choose(budget)]

    def cascade(self, min_acc: float, dataset: str | None = None) -> ReadyCascade:
        """The one with the fewest mean MACs that reaches the accuracy; without `dataset`, of the default one.

        As `choose` does, one with a stage whose accuracy is only claimed where no other will do.

        Raises NoModelMeetsConstraintsError, and NotFoundError for a data set without cascades.
        """
        name = self._catalog.dataset_of(Budget(dataset=dataset))
        found = self._cascades.of(name or "")
        if not found:
            raise NotFoundError(
                f"data set {name} has no cascades: `zoo calibrate --zoo DIR --data PATH`, given the directories that "
                "are served and the images that the checkpoints were trained on, finds some"
            )
        index = bisect_left(found, min_acc, key=lambda ready: ready.cascade.accuracy)
        if index == len(found):
            best = found[-1]
            raise NoModelMeetsConstraintsError(
                f"no cascade of data set {name} reaches accuracy {min_acc:g}; the best one promises "
                f"{best.cascade.accuracy:.4f}: ask for less, or calibrate again if there are new checkpoints",
                self.view(self.find(best.rows[-1].digest)).model_dump(mode="json"),
            )
        measured = (ready for ready in found[index:] if not any(row.claimed for row in ready.rows))
        return next(measured, found[index])

    # --- by name ---------------------------------------------------------------------------------------

    def find(self, reference: str, dataset: str | None = None) -> CheckpointRow:
        """By digest, digest prefix, name or alias; computed aliases are about `dataset`, else the default one.

        Raises NotFoundError, also where the checkpoint is of another data set than `dataset`; GoneError where it was
        deleted; BusyError while that is not known.
        """
        try:
            row = self._find(reference, dataset)
        except NotFoundError:
            # Another process may have named or deleted it since the last sync.
            if not self._annotations.read():
                self._check_complete()
                raise
            row = self._find(reference, dataset)
        if dataset not in (None, ALL_DATASETS, row.dataset):
            raise NotFoundError(f"checkpoint {row.name} is of data set {row.dataset}, not of {dataset}")
        return row

    def named(self, reference: str, budget: Budget) -> CheckpointRow:
        """As `find`, and it must meet the budget. Raises NoModelMeetsConstraintsError where it does not."""
        row = self.find(reference, budget.dataset)
        if not budget.bounds() or self._catalog.meets(row.digest, budget):
            return row
        bounds = budget.model_copy(update={"dataset": None, "prefer": None})
        chosen = self._catalog.choose(budget)
        nearest = chosen or self._catalog.best_available(budget)
        other = "" if chosen is None else f"; without its name, {chosen.name} is chosen"
        raise NoModelMeetsConstraintsError(
            f"checkpoint {row.name} does not meet {bounds}: it has {_qualities(row, budget)}{other}",
            None if nearest is None else self.view(nearest).model_dump(mode="json"),
        )

    def _find(self, reference: str, dataset: str | None) -> CheckpointRow:
        named = self._named(reference)
        of_dataset = self._catalog.dataset_of(Budget(dataset=dataset)) if named else None
        if of_dataset in (None, ALL_DATASETS) and len(named) == 1:
            [of_dataset] = named
        try:
            row = self._catalog.find(named.get(of_dataset or "", reference), dataset)
            if row.digest in self._annotations.said.deleted:  # its row is still to go
                raise NotFoundError(row.digest)
            return row
        except NotFoundError as error:
            if reference in COMPUTED_ALIASES and dataset not in (None, ALL_DATASETS, *self._catalog.datasets()):
                raise NotFoundError(self._holds_none_of(dataset)) from error
            if named:
                other, digest = next(iter(named.items()))
                name = found.name if (found := self._catalog.rows([digest]).get(digest)) else digest
                raise NotFoundError(
                    f"alias {reference}: checkpoint {name} is of data set {other}, not of {of_dataset}; name it with "
                    f"dataset={other}"
                ) from error
            deleted = [digest for digest in self._annotations.said.deleted if digest.startswith(reference)]
            if deleted and len(reference) >= MIN_PREFIX:
                raise GoneError(f"checkpoint {deleted[0]} was deleted") from error
            raise

    def _named(self, alias: str) -> dict[str, str]:
        """The digests that have the alias, by what their data sets are called now."""
        named = self._annotations.said.aliases.get(alias, {})
        rows = self._catalog.rows(named.values()) if named else {}
        return {rows[digest].dataset if digest in rows else dataset: digest for dataset, digest in named.items()}

    def view(self, row: CheckpointRow) -> CheckpointView:
        [view] = self.views([row])
        return view

    def views(self, rows: Iterable[CheckpointRow]) -> list[CheckpointView]:
        computed = self._catalog.aliases()
        return [self._view(row, computed) for row in rows]

    def _view(self, row: CheckpointRow, computed: Mapping[str, str]) -> CheckpointView:
        """`computed`: the digests of computed aliases."""
        aliases = [alias for alias, digest in computed.items() if digest == row.digest]
        return view_of(row, aliases + self._annotations.said.aliases_of(row.digest))

    # --- why nothing will do ---------------------------------------------------------------------------

    def nothing_meets(self, filters: Filters) -> NoModelMeetsConstraintsError:
        """Raises BusyError while that is not known."""
        self._check_complete()
        best = self._catalog.best_available(filters)
        dataset = self._catalog.dataset_of(filters)
        if best is None:
            return NoModelMeetsConstraintsError(self._holds_none_of(dataset), None)
        of_dataset = "" if dataset == ALL_DATASETS else f" of data set {dataset}"
        bounds = filters.model_copy(update={"dataset": None, "prefer": None})
        return NoModelMeetsConstraintsError(
            f"no checkpoint{of_dataset} meets {bounds}; {self._what_there_is(filters, best)}",
            self.view(best).model_dump(mode="json"),
        )

    def _check_complete(self) -> None:
        if self._catalog.is_incomplete:
            raise BusyError("the catalog was damaged or removed, and is made again from the files: ask again")

    def _holds_none_of(self, dataset: str | None) -> str:
        names = self._catalog.datasets()
        if dataset in (None, ALL_DATASETS) or not names:
            return "the zoo holds no checkpoint"
        are = "is" if len(names) == 1 else "are"
        return f"the zoo holds no checkpoint of data set {dataset}: there {are} {', '.join(names)}"

    def _what_there_is(self, filters: Filters, nearest: CheckpointRow) -> str:
        """Why nothing meets the bounds, where that is not a matter of more or less; else the nearest checkpoint."""
        if filters.family is not None and filters.family not in (families := self._catalog.families(filters)):
            are = "is the family" if len(families) == 1 else "are the families"
            return f"there {are} {', '.join(families)}"
        if filters.max_latency_ms is not None and not self._catalog.is_measured(filters):
            return (
                f"no latency has been measured on this machine ({device_name()}): `zoo calibrate --zoo DIR`, given the "
                "directories that are served, measures them"
            )
        found = f"the nearest has {nearest.params:,} parameters and {_accuracy(nearest)} ({nearest.name})"
        return f"{found}: ask for less, or allow more"


def _accuracy(row: CheckpointRow) -> str:
    return "unknown accuracy" if row.accuracy is None else f"accuracy {row.accuracy:.4f}"


def _qualities(row: CheckpointRow, filters: Filters) -> str:
    """What the bounds are about."""
    asked = filters.bounds()
    of_images = "" if row.accuracy_n is None else f" of {row.accuracy_n:,} images"
    found = [f"{_accuracy(row)}{of_images}"] if asked & {"min_acc", "confidence"} else []
    for bound in sorted(asked & UNITS.keys(), key=list(UNITS).index):
        value = getattr(row, column_of(bound.removeprefix("max_"), filters.format))
        found.append("unknown latency" if value is None else f"{value:,} {filters.unit(bound)}")
    found += [f"family {row.family}"] if "family" in asked else []
    return ", ".join(found)
