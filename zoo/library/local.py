"""A zoo on this machine: directories of checkpoint files and the catalog over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Unpack

from pydantic import ValidationError

from zoo.catalog.database import catalog_path
from zoo.catalog.index import Catalog
from zoo.catalog.protocol import Index
from zoo.catalog.views import CheckpointDetail, CheckpointView, DatasetView, Prediction
from zoo.checkpoint import file as checkpoint_file
from zoo.checkpoint.elastic import ElasticFile, reaching, read_levels
from zoo.checkpoint.elastic_header import Level
from zoo.checkpoint.file import Checkpoint
from zoo.choosing.budget import Bounds, Budget, Complexity, FileFormat, Filters
from zoo.errors import CheckpointError, NotFoundError, ZooError
from zoo.library.annotate import Annotator
from zoo.library.answer import answer
from zoo.library.choose import Chooser
from zoo.library.files import CheckpointFiles
from zoo.library.follow import Follower
from zoo.library.publishing.evaluate import TestSplits
from zoo.library.publishing.publish import PublishSettings, Terms, Upload, publish
from zoo.library.ready_cascades import ReadyCascades
from zoo.protocol import AnyPath, Marks, PredictOptions, Progress, Reference, Zoo, reference_of
from zoo.runtime.predictor import Predictor
from zoo.store.annotations import Annotations
from zoo.store.directories import Directories
from zoo.store.directory import INCOMING, require_zoo, write_atomically
from zoo.store.store import Store

# Networks kept ready: as many as a cascade has stages.
_MAX_LOADED = 8


class LocalZoo(Zoo):
    """Several directories count as one zoo; the first holds the catalog, or nothing where it is read-only.

        with LocalZoo([Path("my-zoo")]) as zoo:
            zoo.sync()
            print(zoo.choose(min_acc=0.8).name, zoo.predict("frog.png", max_params=20_000))

    Its parts, for who needs rows and bytes: `store`, `catalog`,
    `files`, `chooser`, `annotator`, `annotations`. All may be used from any thread.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        default_dataset: str | None = None,
        publishing: PublishSettings | None = None,
        store: Store | None = None,
    ) -> None:
        """Raises ZooError where a root is no zoo's directory. Call `sync` to index the files.

        `store`: where checkpoints and annotations are instead of in the directories; then the first directory only has
        the catalog, and what is being uploaded.

        `publishing`: on which terms `publish` takes checkpoints in; else the environment says (ZOO_*).
        """
        for root in roots:
            require_zoo(root)
        self.roots = tuple(roots)
        self.uploads = roots[0] / INCOMING
        self._publishing = publishing
        self.store = Directories(roots) if store is None else store
        self.annotations = Annotations(self.store)
        self.catalog: Index = Catalog(catalog_path(roots, self.store.url), default_dataset)
        self.files = CheckpointFiles(self.store, self.catalog)
        cascades = ReadyCascades(roots, self.annotations)
        self.chooser = Chooser(self.catalog, self.annotations, cascades)
        self._follower = Follower(self.catalog, self.files, self.annotations, cascades)
        self.annotator = Annotator(
            self.uploads, self.catalog, self.files, self.annotations, self.chooser, self._follower
        )
        self._predictor = lru_cache(maxsize=_MAX_LOADED)(lambda digest: Predictor(self.files.load(digest)))

    def close(self) -> None:
        self.catalog.close()

    def sync(self) -> bool:
        """Has the catalog follow the files; see `Follower.sync`."""
        return self._follower.sync()

    def reindex(self) -> int:
        """Rebuilds the catalog from the files alone and returns the number of checkpoints."""
        return self._follower.reindex()

    # --- choosing --------------------------------------------------------------------------------------

    def choose(self, **bounds: Unpack[Bounds]) -> CheckpointView:
        return self.chooser.view(self.chooser.choose(Budget(**bounds)))

    def models(self, **bounds: Unpack[Bounds]) -> Iterator[CheckpointView]:
        return iter(self.chooser.views(self.chooser.rows(Budget(**bounds))))

    def pareto(self, x: Complexity = "params", **bounds: Unpack[Bounds]) -> list[CheckpointView]:
        return self.chooser.views(self.catalog.pareto(Filters.model_validate(bounds), x))

    def datasets(self) -> list[DatasetView]:
        return self.catalog.dataset_views()

    def show(self, reference: str, *, dataset: str | None = None) -> CheckpointDetail:
        row = self.chooser.find(reference, dataset)
        descriptor = self.files.descriptor(row.digest)
        stages = descriptor.architecture.outline()
        return CheckpointDetail(**dict(self.chooser.view(row)), descriptor=descriptor, stages=stages)

    # --- using -----------------------------------------------------------------------------------------

    def download(
        self,
        checkpoint: Reference,
        to: AnyPath,
        *,
        file_format: FileFormat = "safetensors",
        upgradable: bool = False,
        progress: Progress | None = None,
    ) -> Path:
        digest, target = self._digest(checkpoint), Path(to)
        if upgradable and file_format != "safetensors":
            raise ZooError(f"an upgradable file is a safetensors file, not one of {file_format}")
        data = self.files.beginning(digest) if upgradable else self.files.file(digest, file_format)
        write_atomically(target, data)
        if progress:
            progress(len(data), len(data))
        return target

    def upgrade(
        self, file: AnyPath, *, min_acc: float | None = None, progress: Progress | None = None
    ) -> CheckpointView:
        Budget(min_acc=min_acc)
        target = Path(file)
        levels = read_levels(target)
        level, view = self._first_there(reaching(levels, min_acc))
        with suppress(CheckpointError), target.open("rb") as opened:
            if ElasticFile(opened).extract(level.number):
                return view
        data = self.files.beginning(level.digest, [each.digest for each in levels])
        write_atomically(target, data)
        if progress:
            progress(len(data), len(data))
        return view

    def _predict(
        self, files: Sequence[bytes], model: Reference | None, options: PredictOptions
    ) -> list[list[Prediction]]:
        return answer(self.chooser, self._predictor, files, None if model is None else reference_of(model), options)

    def verified(self) -> Iterator[tuple[str, Checkpoint | ZooError]]:
        """Each file by digest, also those that the catalog leaves out: read whole and checked, or what is wrong."""
        for digest in sorted(self.files.digests):
            try:
                yield digest, self.files.decoded(digest)
            except (ZooError, OSError) as error:
                yield digest, error if isinstance(error, ZooError) else CheckpointError(str(error))

    # --- changing --------------------------------------------------------------------------------------

    def publish(self, data: bytes, *, stage: bool = False) -> CheckpointView:
        """Adds a checkpoint, given as the bytes of its file, to the first directory; see `zoo.library.publishing`."""
        digest = checkpoint_file.digest_of(data)
        with Upload(self.uploads) as upload:
            upload.write(data)
            upload.keep(digest)
        row, _ = publish(self, digest, stage=stage, terms=self._terms)
        return self.chooser.view(row)

    def alias(self, alias: str, checkpoint: Reference, *, dataset: str | None = None) -> CheckpointView:
        return self.annotator.alias(alias, reference_of(checkpoint), dataset=dataset)

    def unalias(self, alias: str, *, dataset: str | None = None) -> None:
        self.annotator.unalias(alias, dataset=dataset)

    def _mark(self, checkpoint: Reference, dataset: str | None, **marks: Unpack[Marks]) -> CheckpointView:
        return self.annotator.mark(self._digest(checkpoint, dataset), **marks)

    def delete(self, checkpoint: Reference) -> None:
        self.annotator.delete(reference_of(checkpoint))

    def undelete(self, digest: str) -> CheckpointView:
        return self.annotator.undelete(digest)

    def _first_there(self, levels: Sequence[Level]) -> tuple[Level, CheckpointView]:
        """Raises NotFoundError where all are deleted."""
        for level in levels[:-1]:
            with suppress(NotFoundError):
                return level, self.chooser.view(self.chooser.find(level.digest))
        return levels[-1], self.chooser.view(self.chooser.find(levels[-1].digest))

    def _digest(self, checkpoint: Reference, dataset: str | None = None) -> str:
        return self.chooser.find(reference_of(checkpoint), dataset).digest

    @cached_property
    def _terms(self) -> Terms:
        try:
            settings = self._publishing or PublishSettings()
        except ValidationError as error:
            first = error.errors()[0]
            raise ZooError(f"ZOO_{str(first['loc'][0]).upper()}: {first['msg']}") from error
        return settings.terms(TestSplits(settings.eval_data))
