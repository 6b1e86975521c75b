"""Index: what a zoo asks of its catalog. `zoo.catalog.index.Catalog`, in SQLite, is one.

An index holds no truth: its rows can be made again from the files of a store and its annotations (`zoo reindex`). So it
may lose everything, and must never answer with what it has not been given.

    index: Index = Catalog(path)
    index.add(rows)
    index.choose(Budget(min_acc=0.8))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from zoo.catalog.rows import CheckpointRow, Listing, Page
from zoo.catalog.views import DatasetView, ElasticPlace
from zoo.choosing.budget import Budget, Complexity, Filters
from zoo.errors import CatalogError
from zoo.store.entries import Said


class Index(Protocol):
    """Methods may be called from any thread, by several processes. All may raise CatalogError.

    What names no data set is about the default one. Deprecated and staged rows are found by `rows` and `find` alone.
    """

    is_incomplete: bool
    """While the rows of a file that was begun anew are made again."""

    def close(self) -> None: ...

    # --- what it holds ---------------------------------------------------------------------------------

    def add(self, rows: Iterable[CheckpointRow]) -> None:
        """Those whose digest is known already are left as they are (idempotent)."""

    def replace(self, rows: Iterable[dict[str, Any]]) -> None:
        """Throws all rows away and takes these, in one step."""

    def remove(self, digests: Iterable[str]) -> None: ...

    def annotate(self, said: Said) -> bool:
        """Makes the rows say what the annotations say; True if that changed any."""

    def follow_latencies(self, medians: Mapping[str, float]) -> bool:
        """Milliseconds by digest; of others none is known from now on. True if that changed any."""

    def follow_places(self, places: Mapping[str, ElasticPlace], *, is_complete: bool) -> bool:
        """Where levels lie in elastic files; of others nothing changes, unless that is complete. True if any did."""

    def follow_folders(self, folders: set[str]) -> None:
        """Keeps the places of the store's last listing."""

    def folders(self) -> set[str]:
        """The places of the store's last listing."""

    def label_images(self, first_seen: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
        """What the data set of each image set is called here; other images under one name are told apart."""

    def follow_file(self) -> bool:
        """Whether another process has put an empty or older index in its place, which is now used."""

    def leave_file(self, error: CatalogError) -> bool:
        """After an error: whether it goes on without what failed, so that the same again may succeed."""

    # --- what it answers -------------------------------------------------------------------------------

    def choose(self, budget: Budget) -> CheckpointRow | None:
        """The first row in the budget's order; ties go to the smaller one. Those that only claim their accuracy come
        last, here and below."""

    def meets(self, digest: str, filters: Filters) -> bool:
        """Whether the row is there and within the bounds, also one that no budget would choose."""

    def best_available(self, filters: Filters) -> CheckpointRow | None:
        """The nearest to bounds that nothing meets: the most accurate within the costs, else the smallest."""

    def page(self, budget: Budget, limit: int, cursor: str | None = None) -> Page:
        """Eligible rows in the budget's order. Raises ValueError for a cursor that no page of them gave out."""

    def listing(self, budget: Budget, limit: int, cursor: str | None = None) -> Listing:
        """As `page`, with the choice and the count, as of one moment."""

    def pareto(self, filters: Filters, x: Complexity) -> list[CheckpointRow]:
        """Those that none beats in both `x` and accuracy, ascending in both."""

    def find(self, reference: str, dataset: str | None = None) -> CheckpointRow:
        """By digest, prefix, name or computed alias. Raises NotFoundError, also where several are meant."""

    def named(self, name: str) -> list[CheckpointRow]:
        """Rows with exactly this name, sorted by digest; the first hundred at most."""

    def rows(self, digests: Iterable[str]) -> dict[str, CheckpointRow]:
        """The rows of these digests; unknown ones are left out."""

    def digests(self) -> set[str]: ...

    def count(self, filters: Filters) -> int: ...

    def aliases(self) -> dict[str, str]:
        """The digests that smallest, best and latest stand for."""

    def dataset_of(self, filters: Filters) -> str | None:
        """Their own, else the default one. None in an empty index."""

    def datasets(self) -> list[str]:
        """Data sets with at least one checkpoint to choose, sorted by name."""

    def dataset_views(self) -> list[DatasetView]:
        """Likewise."""

    def families(self, filters: Filters) -> list[str]:
        """Architecture families in the data set."""

    def is_measured(self, filters: Filters) -> bool:
        """Whether any latency is known in the data set."""
