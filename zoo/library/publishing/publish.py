"""Taking checkpoints in: the file first and the row second, so that a row never points at nothing.

Bytes arrive in `.incoming`, named by their SHA-256, and are moved to where checkpoints lie once they are found to be
one. Of an upload that is refused nothing is left; where publishing fails for a passing reason the upload stays, for the
next try (`zoo gc` sweeps it after a day). Files that lay in the zoo before are never removed.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from zoo.catalog.rows import CheckpointRow
from zoo.checkpoint.elastic import ElasticFile, is_elastic
from zoo.checkpoint.file import Checkpoint, decode, read
from zoo.errors import BusyError, CheckpointError, NoSpaceError, NotFoundError
from zoo.library import audit
from zoo.library.publishing import trial
from zoo.library.publishing.evaluate import TestSplits
from zoo.library.publishing.trial import Limits
from zoo.store.directory import NO_SPACE, move_into_place
from zoo.store.entries import Measured
from zoo.store.locks import locked

if TYPE_CHECKING:
    from zoo.library.local import LocalZoo

_EXAMINING = threading.Lock()
_MAX_WAIT_SECONDS = 20

# Runs a checkpoint within limits and says what accuracy was measured, or None where there are no images to measure on.
Examine = Callable[[Checkpoint, Limits], Measured | None]


class Upload:
    """An upload in progress. Leaving the context deletes what was not kept.

    with Upload(zoo.uploads) as upload:
        upload.write(data)
        upload.keep(digest)
    publish(zoo, digest)
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = self._folder / f"{secrets.token_hex(16)}.tmp"
        self._sha256 = hashlib.sha256()

    def __enter__(self) -> Self:
        with _no_space_is_ours():
            self._folder.mkdir(exist_ok=True)
            self._file = self._path.open("xb")
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # a buffer that finds no room; whoever wrote to it has been told
            self._file.close()
        self._path.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Raises NoSpaceError."""
        self._sha256.update(data)
        with _no_space_is_ours():
            self._file.write(data)

    def keep(self, digest: str) -> None:
        """For `publish`. Raises CheckpointError where the bytes are not those of the digest, NoSpaceError."""
        found = self._sha256.hexdigest()
        if found != digest:
            raise CheckpointError(f"the bytes have SHA-256 {found}, not {digest}: another file, or damaged on the way")
        with _no_space_is_ours():
            self._file.flush()
            os.fsync(self._file.fileno())
            move_into_place(self._path, self._folder / digest)


def run_once(checkpoint: Checkpoint, limits: Limits) -> None:
    """As `Examine`, of who has no images."""
    trial.run(checkpoint, limits)


@dataclass(frozen=True, slots=True)
class Terms:
    """On which checkpoints are taken in."""

    limits: Limits = field(default_factory=Limits)
    examine: Examine = run_once
    # Whether what was not measured is staged, whatever the publisher asks for.
    stage_claimed: bool = False
    # Whether an accuracy that a file claims counts as a measured one does.
    trust_claims: bool = False


class PublishSettings(Limits, BaseSettings):
    """What a server and `zoo publish --zoo` are told alike, by ZOO_* variables."""

    model_config = SettingsConfigDict(env_prefix="ZOO_", extra="ignore")

    eval_data: Annotated[
        tuple[str, ...],
        NoDecode,
        Field(description="Test images to measure what is published on: directories, archives, or digits."),
    ] = ()
    trust_claims: Annotated[
        bool, Field(description="Choose published checkpoints by the accuracy that they claim, as if it were measured.")
    ] = False

    @field_validator("eval_data", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """ZOO_EVAL_DATA=a:b, as in PATH."""
        return tuple(value.split(os.pathsep)) if isinstance(value, str) else value

    def terms(self, splits: TestSplits) -> Terms:
        measures = bool(splits.names)
        return Terms(self, splits.examine if measures else run_once, measures, self.trust_claims)


def publish(
    zoo: LocalZoo, digest: str, *, stage: bool = False, terms: Terms | None = None
) -> tuple[CheckpointRow, bool]:
    """The row of the checkpoint that was uploaded (or lies in the zoo deleted), and whether it is new.

    Of an elastic file each level becomes a checkpoint, and the row is that of the largest. With `stage` a new one is
    found by its digest alone, until it is promoted. Raises CheckpointError where the bytes are not a whole and valid
    one within the limits, NotFoundError where none were uploaded, and for a passing reason NoSpaceError, BusyError,
    AnnotationsError or OSError.
    """
    blob = zoo.uploads / digest
    if (row := _already_there(zoo, blob, digest)) is not None:
        return row, False
    with _one_at_a_time():
        return _publish(zoo, blob, digest, stage=stage, terms=terms or Terms())


def _publish(zoo: LocalZoo, blob: Path, digest: str, *, stage: bool, terms: Terms) -> tuple[CheckpointRow, bool]:
    if (row := _already_there(zoo, blob, digest)) is not None:  # by now
        return row, False
    is_uploaded = blob.exists()
    try:
        measured = _examined(read(blob) if is_uploaded else zoo.files.read(digest), digest, terms)
    except FileNotFoundError as error:
        raise BusyError(f"another process is publishing {digest}: try again") from error
    except NotFoundError as error:
        raise NotFoundError(
            f"no bytes with SHA-256 {digest} were uploaded: PUT them to /blobs/sha256:{digest} first"
        ) from error
    except CheckpointError:
        if is_uploaded:
            blob.unlink(missing_ok=True)
        raise
    blob.parent.mkdir(exist_ok=True)
    with locked(blob.parent):
        if (row := _already_there(zoo, blob, digest)) is not None:
            return row, False
        rows = _taken_in(zoo, blob, digest, measured, stage=stage, terms=terms)
    for row in rows:
        found = measured[row.digest]
        claim = row.accuracy if found is None else found.accuracy
        source_of_claim = "claimed" if found is None else "measured"
        level_of = {} if row.digest == digest else {"level_of": digest}
        facts = {"accuracy": claim, "accuracy_source": source_of_claim, **level_of}
        audit.record("publish", row.digest, staged=row.staged or None, **facts)
    return rows[-1], True


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """In this process, whatever many publish at once. Raises BusyError: threads that wait long are missed elsewhere."""
    if not _EXAMINING.acquire(timeout=_MAX_WAIT_SECONDS):
        raise BusyError("other checkpoints are being run before they are published: try again")
    try:
        yield
    finally:
        _EXAMINING.release()


def _already_there(zoo: LocalZoo, blob: Path, digest: str) -> CheckpointRow | None:
    with suppress(NotFoundError, CheckpointError):  # a file that is gone or damaged is replaced by the blob
        levels = zoo.files.levels_of(digest)
        rows = [zoo.chooser.find(each) for each in levels or [digest]]
        if blob.exists():
            zoo.files.file(digest, "safetensors") if levels else zoo.files.load(digest)
            blob.unlink(missing_ok=True)
        return rows[-1]
    return None


def _is_there(zoo: LocalZoo, digest: str) -> bool:
    """Whether the zoo has the file, of a deleted checkpoint too; damaged perhaps."""
    with suppress(NotFoundError):
        return zoo.files.size_bytes(digest) >= 0
    return False


def _examined(data: bytes, digest: str, terms: Terms) -> dict[str, Measured | None]:
    """By digest, the accuracy of what the file brings."""
    found, header_bytes = {}, int.from_bytes(data[:8], "little")
    for each, file in _brought(data, digest):
        checkpoint = decode(file, each)
        trial.check_bounds(checkpoint, header_bytes, terms.limits)
        found[each] = terms.examine(checkpoint, terms.limits)
    return found


def _brought(data: bytes, digest: str) -> Iterator[tuple[str, bytes]]:
    """By digest, the file, or of an elastic file those of its levels, smallest first."""
    if not is_elastic(BytesIO(data)):
        yield digest, data
        return
    elastic = ElasticFile(BytesIO(data), digest)
    elastic.require_whole()
    yield from zip([level.digest for level in elastic.levels], elastic.files(), strict=True)


def _taken_in(
    zoo: LocalZoo, blob: Path, digest: str, measured: Mapping[str, Measured | None], *, stage: bool, terms: Terms
) -> list[CheckpointRow]:
    """With the lock held. What fails leaves every file where it was, but for the upload where there is no space."""
    was_there, is_new = _is_there(zoo, digest), False
    try:
        with _no_space_is_ours("it is not published"):
            # What is said of it comes first: a server that sees the file a moment before its row must know it.
            rows_before = zoo.catalog.rows(measured)
            for each in measured:
                if each in rows_before and _is_there(zoo, each):
                    continue
                found = measured[each]
                is_staged = stage or (terms.stage_claimed and found is None)
                # One that lay in the zoo before, deleted perhaps, counts as it did: to bring it back is no new claim.
                is_claim = found is None and not terms.trust_claims
                claimed = None if is_claim and _is_there(zoo, each) else is_claim
                zoo.annotator.announce(each, staged=is_staged, claimed=claimed, measured=found)
            if not was_there or not _is_whole(zoo, digest):
                zoo.store.put(digest, blob)
                is_new = not was_there
                zoo.files.levels_of(digest)  # from now on known
            rows = [zoo.annotator.admit(each) for each in measured]
    except NoSpaceError:
        blob.unlink(missing_ok=True)
        if is_new:
            zoo.store.delete(digest)
        raise
    blob.unlink(missing_ok=True)
    return rows


def _is_whole(zoo: LocalZoo, digest: str) -> bool:
    with suppress(CheckpointError, NotFoundError):
        zoo.files.read(digest)
        return True
    return False


@contextmanager
def _no_space_is_ours(outcome: str = "nothing of it was kept") -> Iterator[None]:
    """A full disk or quota becomes NoSpaceError."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise NoSpaceError(
                f"no space for the checkpoint: {error.strerror}; {outcome}. `zoo gc` makes room"
            ) from error
        raise
