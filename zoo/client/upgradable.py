"""Elastic files of a zoo server: resumable, verified, atomic download of their beginning, and of what comes next."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.catalog.levels import first_level, require_beginning
from zoo.catalog.views import CheckpointView, ElasticPlace
from zoo.choosing.budget import Budget, FileFormat
from zoo.client.download import go_on
from zoo.client.operations import Operations, Runtime, check, naming_extra, network
from zoo.client.transport import Exchange, Server
from zoo.errors import CheckpointError, NotFoundError, RemoteError, ZooError
from zoo.protocol import Progress, Reference
from zoo.store.directory import end_of_link
from zoo.store.partial_file import partial_file

if TYPE_CHECKING:
    from zoo.checkpoint.elastic_header import Level
    from zoo.runtime.elastic import ElasticNetwork
    from zoo.runtime.module import TorchClassifier
    from zoo.runtime.onnx_classifier import OnnxClassifier


class ElasticOperations:
    """What both clients ask of elastic files, as exchanges."""

    def __init__(self, zoo: Operations) -> None:
        self._zoo = zoo

    def download(
        self,
        checkpoint: Reference | None,
        to: Path | None,
        file_format: FileFormat,
        progress: Progress | None,
        budget: Budget,
    ) -> Exchange[Path]:
        if file_format != "safetensors":
            raise ZooError(f"an upgradable file is a safetensors file, not one of {file_format}")
        view = yield from self._view(checkpoint, budget)
        target = to or self._cached(view)
        yield from fetch_beginning(self._zoo.server, view, target, progress)
        return target

    def upgrade(self, file: Path, min_acc: float | None, progress: Progress | None) -> Exchange[CheckpointView]:
        """Where a level was deleted, to the next that would do."""
        from zoo.checkpoint.elastic import reaching, read_levels  # which need safetensors

        Budget(min_acc=min_acc)
        *levels, last = reaching(read_levels(file), min_acc)
        for level in levels:
            with suppress(NotFoundError):
                return (yield from self._fetch_level(file, level.number, progress))
        return (yield from self._fetch_level(file, last.number, progress))

    def load(
        self,
        checkpoint: Reference | None,
        runtime: Runtime,
        budget: Budget,
        wait: Callable[[Exchange[CheckpointView]], object],
    ) -> Exchange[ElasticNetwork[OnnxClassifier | TorchClassifier]]:
        """`wait` runs an exchange to its end: further levels are fetched when the network is asked for them."""
        check(runtime)
        view = yield from self._view(checkpoint, budget)
        path = self._cached(view)
        yield from fetch_beginning(self._zoo.server, view, path, None)
        with naming_extra(runtime):
            from zoo.runtime.elastic import ElasticNetwork

            loaded = ElasticNetwork(
                lambda: path.open("rb"),
                lambda found: network(found, runtime),
                lambda number: wait(self._fetch_level(path, number, None)),
            )
            loaded.level = place_of(view).level
        return loaded

    def _fetch_level(self, file: Path, number: int, progress: Progress | None) -> Exchange[CheckpointView]:
        """Asks for no bytes where the file has the level already."""
        from zoo.checkpoint.elastic import ElasticFile

        with file.open("rb") as opened:
            elastic = ElasticFile(opened, file.name)
            levels = elastic.levels
            view: CheckpointView = yield from self._zoo.show(levels[number].digest)
            with suppress(CheckpointError):
                elastic.extract(number)
                return view
        place = yield from self._own_place(levels, view, number)
        yield from fetch_beginning(self._zoo.server, view.model_copy(update={"elastic": place}), file, progress)
        return view

    def _own_place(self, levels: Sequence[Level], view: CheckpointView, number: int) -> Exchange[ElasticPlace]:
        """Of a level in the file that has these levels: the server may name another one that has it, too."""
        if (place := view.elastic) is None or not _is_of(place, levels, number):
            for level in reversed(levels):
                with suppress(NotFoundError):
                    place = (yield from self._zoo.show(level.digest)).elastic
                    if place is not None and _is_of(place, levels, level.number):
                        ends = {"level": number, "prefix_bytes": levels[number].prefix_bytes}
                        return place.model_copy(update=ends)
            raise ZooError(f"the elastic file is not in this zoo, which has its level {view.id} elsewhere")
        return place

    def _view(self, checkpoint: Reference | None, budget: Budget) -> Exchange[CheckpointView]:
        if checkpoint is None:
            view = yield from self._first_level(budget)
            require_beginning(view, budget)
            return view
        return (yield from self._zoo.show((yield from self._zoo.digest(checkpoint, budget))))

    def _first_level(self, budget: Budget) -> Exchange[CheckpointView]:
        """What the budget chooses among levels of elastic files; where none meets it, what it chooses."""
        chosen = yield from self._zoo.choose(budget)
        page = yield from self._zoo.page(budget)
        while (level := first_level(page.items, budget)) is None and page.following:
            page = yield from self._zoo.page(budget, page.following)
        return level or chosen

    def _cached(self, view: CheckpointView) -> Path:
        """Under another name than a whole file has: it is only its beginning."""
        return self._zoo.cache / f"{place_of(view).file}.elastic.safetensors"


def _is_of(place: ElasticPlace, levels: Sequence[Level], number: int) -> bool:
    """Whether the place is that of a level in the file that has these levels."""
    return (place.level, place.levels, place.prefix_bytes) == (number, len(levels), levels[number].prefix_bytes)


def place_of(view: CheckpointView) -> ElasticPlace:
    """Raises ZooError."""
    if view.elastic is None:
        raise ZooError(f"{view.name} is no level of an elastic file, so there is nothing to upgrade to: get it whole")
    return view.elastic


def fetch_beginning(server: Server, view: CheckpointView, target: Path, progress: Progress | None) -> Exchange[None]:
    """The elastic file up to the level that the view is of; from where the target ends, if that is a beginning of it.

    Asks nothing where the target has the level already. Each level is checked against its SHA-256, a whole file against
    its own. Raises RemoteError, ZooError where it is no level, or OSError where the target cannot be written.
    """
    place, target = place_of(view), end_of_link(target)
    there = target.read_bytes() if target.is_file() else b""
    if len(there) >= place.prefix_bytes and not _wrong(there, view, place):
        return
    ask = functools.partial(server.build, "GET", f"/blobs/sha256:{place.file}")
    with partial_file(target, place.file) as partial:
        if len(there) > partial.size or partial.size > place.prefix_bytes:
            partial.restart()
            partial.append(there[: place.prefix_bytes])
        for _ in range(2 if partial.size else 1):  # what was there before may be wrong
            yield from go_on(server, ask, place.file, partial, progress, place.prefix_bytes)
            if not (wrong := _wrong(partial.read(), view, place)):
                partial.move_to(target)
                return
            partial.restart()
        raise RemoteError(f"{server.url} sent other bytes than those of {place.file}: {wrong}")


def _wrong(data: bytes, view: CheckpointView, place: ElasticPlace) -> str:
    """Why it is not a beginning of the elastic file that has this level, or ""."""
    from zoo.checkpoint.elastic import ElasticFile
    from zoo.checkpoint.file import digest_of  # both need safetensors

    try:
        digests = list(map(digest_of, ElasticFile(BytesIO(data)).files(0, place.level)))
    except CheckpointError as error:
        return str(error)
    if digests[-1] != view.id:
        return f"level {place.level} is {digests[-1]}, not {view.id}"
    if place.level == place.levels - 1 and (found := digest_of(data)) != place.file:
        return f"their SHA-256 is {found}"
    return ""
