"""Writes to the catalog, and its smaller tables. Every function runs within the caller's transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from sqlalchemy import Connection, bindparam, update
from sqlalchemy.dialects.sqlite import insert
from sqlmodel import Field, SQLModel, delete, or_, select

from zoo.catalog import dataset_labels, staircase
from zoo.catalog.rows import DIGITS, PLACE, ROW, ROWS, SCHEMA_VERSION, CheckpointRow, CheckpointTable, place_columns
from zoo.catalog.views import ElasticPlace
from zoo.store.entries import Said


class ImageSet(SQLModel, table=True):
    """A set of images that checkpoints were trained on, and the data set's name in this catalog."""

    __tablename__ = f"image_set_{SCHEMA_VERSION}"
    __table_args__ = ({"sqlite_with_rowid": False},)

    images: str = Field(primary_key=True)
    facts: str
    label: str


class FolderRow(SQLModel, table=True):
    """A place of the store's last listing that had checkpoint files (`zoo.store.store.Listing.places`)."""

    __tablename__ = f"folder_{SCHEMA_VERSION}"
    __table_args__ = ({"sqlite_with_rowid": False},)

    path: str = Field(primary_key=True)


IMAGE_SETS = ImageSet.__table__  # type: ignore[attr-defined]
FOLDERS = FolderRow.__table__  # type: ignore[attr-defined]
_ADD_ROW = insert(ROWS).on_conflict_do_nothing(index_elements=["digest"])
_SET_LATENCY = update(ROWS).where(ROW.digest == bindparam("changed")).values(latency_ms=bindparam("to"))
_OF_DIGEST = select(ROWS).where(ROW.digest == bindparam("digest"))
# A statement takes 32,766 values at most.
_BATCH = 10_000


def images_key(facts: str) -> str:
    """A short key, because each row has one."""
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def row_of(connection: Connection, digest: str) -> CheckpointRow | None:
    return staircase.first(connection, _OF_DIGEST, digest=digest)


def add(connection: Connection, rows: Iterable[CheckpointRow]) -> None:
    for row in rows:
        if connection.execute(_ADD_ROW, row.model_dump()).rowcount:
            staircase.extend(connection, row)


def replace(connection: Connection, rows: Iterable[dict[str, Any]]) -> None:
    connection.execute(delete(CheckpointTable))
    waiting = iter(rows)
    while batch := list(islice(waiting, _BATCH)):
        connection.execute(insert(ROWS), batch)
    staircase.rebuild(connection)


def remove(connection: Connection, digests: list[str]) -> None:
    # A row that is no step has one before it that reaches as far: without it nothing changes.
    outdated = staircase.with_steps_of(connection, digests)
    gone = [{"gone": digest} for digest in digests]
    connection.execute(delete(CheckpointTable).where(ROW.digest == bindparam("gone")), gone)
    staircase.rebuild(connection, outdated)


def missing_annotations(connection: Connection, said: Said) -> dict[str, dict[str, Any]]:
    """Rows that differ from the annotations: digest -> the columns as they should be."""
    is_annotated = or_(ROW.deprecated, ROW.staged, ROW.claimed)
    known = set(connection.scalars(select(ROW.digest).where(is_annotated)))
    missing = {}
    for digest in {*known, *said.deprecated, *said.staged, *said.claimed, *said.measured}:
        row, measured = row_of(connection, digest), said.measured.get(digest)
        wanted: dict[str, Any] = {
            "deprecated": digest in said.deprecated,
            "staged": digest in said.staged,
            "claimed": digest in said.claimed and measured is None,
        }
        if measured is not None:
            shown = {"accuracy": round(measured.accuracy, DIGITS), "accuracy_in_full": measured.accuracy}
            wanted |= {**shown, "accuracy_n": measured.n, "accuracy_source": "measured"}
        if row is not None and any(getattr(row, name) != value for name, value in wanted.items()):
            missing[digest] = wanted
    return missing


def annotate(connection: Connection, missing: Mapping[str, Mapping[str, Any]]) -> None:
    outdated = staircase.with_steps_of(connection, list(missing))
    for digest, wanted in missing.items():
        connection.execute(update(ROWS).where(ROW.digest == digest).values(**wanted))
    staircase.rebuild(connection, outdated)
    for digest in missing:
        if (row := row_of(connection, digest)) is not None:
            staircase.extend(connection, row)


def missing_latencies(connection: Connection, medians: Mapping[str, float]) -> dict[str, float | None]:
    """Rows whose latency differs: digest -> milliseconds, or None for a latency that is to be removed."""
    query = select(ROW.digest, ROW.latency_ms).where(ROW.latency_ms.is_not(None))
    before = {row.digest: row.latency_ms for row in connection.execute(query)}
    wanted: dict[str, float] = {}
    waiting = iter(medians)
    while part := list(islice(waiting, _BATCH)):
        found = connection.scalars(select(ROW.digest).where(ROW.digest.in_(part)))
        wanted |= {digest: medians[digest] for digest in found}
    every = before.keys() | wanted.keys()
    return {digest: wanted.get(digest) for digest in every if before.get(digest) != wanted.get(digest)}


def set_latencies(connection: Connection, latencies: Mapping[str, float | None]) -> None:
    connection.execute(_SET_LATENCY, [{"changed": digest, "to": ms} for digest, ms in latencies.items()])
    staircase.rebuild(connection, {pair for pair in staircase.STAIRCASES if "latency_ms" in pair})


def missing_places(connection: Connection, places: Mapping[str, ElasticPlace]) -> dict[str, dict[str, Any]]:
    """By digest, what the columns should be of rows that say something else of where they lie in elastic files."""
    query = select(ROW.digest, *(getattr(ROW, name) for name in PLACE)).where(ROW.elastic_file.is_not(None))
    before = {row[0]: dict(zip(PLACE, row[1:], strict=True)) for row in connection.execute(query)}
    wanted = {digest: place_columns(places.get(digest)) for digest in before.keys() | places.keys()}
    missing = {digest: columns for digest, columns in wanted.items() if before.get(digest) != columns}
    return {digest: columns for digest, columns in missing.items() if row_of(connection, digest) is not None}


def set_places(connection: Connection, missing: Mapping[str, Mapping[str, Any]]) -> None:
    for digest, wanted in missing.items():
        connection.execute(update(ROWS).where(ROW.digest == digest).values(**wanted))


def labels(connection: Connection) -> dict[str, str]:
    """Image set -> name of its data set."""
    return {row.facts: row.label for row in connection.execute(select(IMAGE_SETS))}


def label(connection: Connection, first_seen: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """As `Catalog.label_images`."""
    before = labels(connection)
    found = dataset_labels.extended({**before, **given}, first_seen)
    changed = {facts: name for facts, name in found.items() if before.get(facts) != name}
    for facts, name in changed.items():
        key = images_key(facts)
        statement = insert(IMAGE_SETS).values(images=key, facts=facts, label=name)
        connection.execute(statement.on_conflict_do_update(index_elements=["images"], set_={"label": name}))
        connection.execute(update(ROWS).where(ROW.images == key).values(dataset=name))
    if before.keys() & changed.keys():
        staircase.rebuild(connection)
    return found


def set_folders(connection: Connection, folders: set[str]) -> None:
    connection.execute(delete(FolderRow))
    if folders:
        connection.execute(insert(FOLDERS), [{"path": folder} for folder in folders])
