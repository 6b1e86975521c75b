"""A checkpoint's row in the catalog, and as people see it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from zoo.catalog.dataset_labels import image_set
from zoo.catalog.rows import DIGITS, CheckpointRow, place_columns
from zoo.catalog.views import CheckpointView, ElasticPlace, Links
from zoo.checkpoint.descriptor import Descriptor
from zoo.checkpoint.file import Header
from zoo.choosing.budget import wilson_interval
from zoo.network.cost import ram_bytes
from zoo.runtime import onnx_model
from zoo.store.entries import Said

# What a row and a view have alike.
_SAME = CheckpointView.model_fields.keys() & CheckpointRow.model_fields.keys() - {"classes", "created_at"}


def row_of(digest: str, header: Header, said: Said, place: ElasticPlace | None = None) -> CheckpointRow:
    descriptor = header.descriptor
    test, measured = descriptor.metrics.test, said.measured.get(digest)
    known = measured or test
    return CheckpointRow(
        digest=digest,
        name=_name(descriptor, digest),
        dataset=descriptor.dataset.name,
        images=image_set(descriptor),
        family=descriptor.architecture.family,
        params=header.params,
        macs=header.macs,
        bytes=header.size_bytes,
        onnx_bytes=onnx_model.size_bytes(descriptor),
        ram_bytes=ram_bytes(descriptor.architecture.graph()),
        accuracy=round(known.accuracy, DIGITS) if known else None,
        accuracy_in_full=known.accuracy if known else None,
        accuracy_n=known.n if known else None,
        accuracy_source=None if known is None else "claimed" if measured is None else "measured",
        val_accuracy=round(descriptor.metrics.validation.accuracy, DIGITS),
        classes=json.dumps(descriptor.classes, ensure_ascii=False),
        created_at=descriptor.created_at.isoformat(),
        parent=descriptor.lineage.parent,
        distilled_from=descriptor.lineage.distilled_from,
        deprecated=digest in said.deprecated,
        staged=digest in said.staged,
        claimed=digest in said.claimed and measured is None,
        **place_columns(place),
    )


def _name(descriptor: Descriptor, digest: str) -> str:
    """What it is called here. A distilled checkpoint has the name of its student, and may be one of several."""
    return f"{descriptor.name}-d{digest[:4]}" if descriptor.lineage.distilled_from else descriptor.name


def view_of(row: CheckpointRow, aliases: Sequence[str]) -> CheckpointView:
    known = row.accuracy is not None and row.accuracy_n is not None
    interval = wilson_interval(row.accuracy or 0, row.accuracy_n or 1) if known else None
    place = f"models/{row.digest}"  # relative to the service's root
    return CheckpointView(
        **{name: getattr(row, name) for name in _SAME},
        id=row.digest,
        accuracy_ci95=(round(interval[0], 4), round(interval[1], 4)) if interval else None,
        classes=tuple(json.loads(row.classes)),
        created_at=row.created,
        aliases=tuple(aliases),
        elastic=row.place,
        links=Links(self=place, file=f"{place}/file", onnx=f"{place}/file?format=onnx"),
    )
