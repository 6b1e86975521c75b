"""Annotations: what no checkpoint file can say, as entries of a log, and what the entries say together.

    annotations.jsonl    beside the checkpoints; one JSON object a line, appended and never changed, with time and actor

    {"kind": "alias", "alias": "stable", "dataset": "cifar10", "digest": …}     digest null: no checkpoint any longer
    {"kind": "deprecated", "digest": …, "value": true}                          likewise staged, deleted, claimed
    {"kind": "measured", "digest": …, "accuracy": 0.8012, "n": 10000}           test accuracy, asked about here
    {"kind": "latency", "digest": …, "device": …, "median_ms": …, "p95_ms": …, "num_runs": …}
    {"kind": "calibration", "calibration": {"dataset": …, "num_images": …, "cascades": […]}}
    {"kind": "dataset", "images": …, "label": "photos-1b2c3d4e"}                what images are called here, for good

Of two entries about one thing the later counts. Kinds that this version does not know are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import MAXYEAR, datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from zoo.checkpoint.descriptor import Digest, Fraction, Slug
from zoo.choosing.cascade import Calibration

# Computed from the catalog, or taken in URLs: /models/file, /zoo/cifar10/resolve/main/…
# Of one checkpoint.
MAX_ALIASES = 32
RESERVED = ("smallest", "best", "latest", "file", "pareto", "main")


def _no_digits(alias: str) -> str:
    if re.fullmatch(r"[0-9a-f]{8,64}", alias):
        raise ValueError("an alias must not look like the first digits of a digest")
    return alias


def _as_sorted(text: str) -> str:
    """A time in the one form in which they sort as text; what comes later than any must still be one."""
    if not text:
        return text
    time = datetime.fromisoformat(text)
    if time.utcoffset() != timedelta(0) or time.year == MAXYEAR:
        raise ValueError(f"a time is in UTC and before the year {MAXYEAR}, as 2026-11-21T02:00:00+00:00, not {text}")
    return time.isoformat(timespec="microseconds")


# Empty until the entry is appended.
Time = Annotated[str, AfterValidator(_as_sorted)]
Alias = Annotated[Slug, AfterValidator(_no_digits)]
Flag = Literal["deprecated", "staged", "deleted", "claimed"]


class Measured(BaseModel):
    """Top-1 over the `n` test images that this zoo has asked a checkpoint about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    accuracy: Fraction
    n: Annotated[int, Field(ge=1)]


class Latency(BaseModel):
    """Milliseconds for one image, over `num_runs` of the network."""

    model_config = ConfigDict(frozen=True)

    digest: str
    device: str
    median_ms: float
    p95_ms: float
    num_runs: int
    measured_at: Time


class Entry(BaseModel):
    """`time` is ISO 8601 in UTC, which sorts as text."""

    model_config = ConfigDict(frozen=True)

    time: Time = ""
    actor: str = ""


class AliasEntry(Entry):
    kind: Literal["alias"] = "alias"
    alias: Alias
    dataset: Slug
    digest: Digest | None


class FlagEntry(Entry):
    kind: Flag
    digest: Digest
    value: bool = True


class MeasuredEntry(Entry, Measured):
    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Literal["measured"] = "measured"
    digest: Digest


class LatencyEntry(Entry, Latency):
    kind: Literal["latency"] = "latency"


class CalibrationEntry(Entry):
    kind: Literal["calibration"] = "calibration"
    calibration: Calibration


class DatasetEntry(Entry):
    kind: Literal["dataset"] = "dataset"
    images: str
    label: str


Known = AliasEntry | FlagEntry | MeasuredEntry | LatencyEntry | CalibrationEntry | DatasetEntry
_KNOWN: TypeAdapter[Known] = TypeAdapter(Annotated[Known, Field(discriminator="kind")])
_KINDS = frozenset(kind for one in Known.__args__ for kind in one.model_fields["kind"].annotation.__args__)


class _Kind(BaseModel):
    kind: str


def parsed(line: bytes) -> list[Entry]:
    """The entry of a line; [] for an empty line or an unknown kind. Raises ValidationError."""
    return [_KNOWN.validate_json(line)] if line and _Kind.model_validate_json(line).kind in _KINDS else []


def as_lines(entries: Iterable[Entry]) -> bytes:
    return b"".join(entry.model_dump_json().encode() + b"\n" for entry in entries)


@dataclass(frozen=True)
class Said:
    """What the entries say together. Aliases by alias and data set: each data set has a `stable` of its own."""

    aliases: dict[str, dict[str, str]] = field(default_factory=dict)
    deprecated: frozenset[str] = frozenset()
    staged: frozenset[str] = frozenset()
    deleted: frozenset[str] = frozenset()
    # Published without anybody having measured the accuracy.
    claimed: frozenset[str] = frozenset()
    measured: dict[str, Measured] = field(default_factory=dict)
    # What image sets, as `zoo.catalog.dataset_labels` tells them apart, are called.
    labels: dict[str, str] = field(default_factory=dict)
    # By digest and device.
    latencies: dict[tuple[str, str], float] = field(default_factory=dict)
    # The latest of each data set.
    calibrations: dict[str, Calibration] = field(default_factory=dict)

    def aliases_of(self, digest: str) -> list[str]:
        return [alias for alias, named in self.aliases.items() if digest in named.values()]

    def unnamed(self, digest: str, aliases: Iterable[str]) -> list[Entry]:
        """What takes these aliases from the checkpoint; others' are left alone."""
        return [
            AliasEntry(alias=alias, dataset=dataset, digest=None)
            for alias in aliases
            for dataset, other in self.aliases.get(alias, {}).items()
            if other == digest
        ]

    def flagged(self, digest: str, **flags: bool | None) -> list[Entry]:
        """What makes the flags these; None leaves one as it is."""
        return [
            FlagEntry(kind=kind, digest=digest, value=value)
            for kind, value in flags.items()
            if value is not None and value != (digest in getattr(self, kind))
        ]

    def taken_back_by(self, entry: Entry) -> list[Entry]:
        """What ends that which is said here and, after the entry, is said no longer."""
        match entry:
            case AliasEntry() if self.aliases.get(entry.alias, {}).get(entry.dataset, entry.digest) != entry.digest:
                # Whom it names is no business of that directory, which may not hold it.
                return [AliasEntry(alias=entry.alias, dataset=entry.dataset, digest=None)]
            case FlagEntry(kind="deleted", digest=digest, value=True):
                names = self.unnamed(digest, self.aliases_of(digest))
                return names + self.flagged(digest, deprecated=False, staged=False)
            case FlagEntry(value=False):
                return self.flagged(entry.digest, **{entry.kind: False})
        return []


def together(entries: Iterable[Entry]) -> Said:
    """In the order given."""
    aliases: dict[str, dict[str, str]] = {}
    flags: dict[str, set[str]] = {flag: set() for flag in ("deprecated", "staged", "deleted", "claimed")}
    measured, latencies = {}, {}
    calibrations: dict[str, Calibration] = {}
    labels: dict[str, str] = {}
    for entry in entries:
        match entry:
            case AliasEntry(digest=None):
                aliases.get(entry.alias, {}).pop(entry.dataset, None)
            case AliasEntry(digest=str(digest)):
                aliases.setdefault(entry.alias, {})[entry.dataset] = digest
            case FlagEntry(kind=kind, digest=digest, value=False):
                flags[kind].discard(digest)
            case FlagEntry(kind=kind, digest=digest):
                flags[kind].add(digest)
                if kind == "deleted":  # what was said of it is forgotten, but for what was measured
                    flags["deprecated"].discard(digest)
                    flags["staged"].discard(digest)
                    for named in aliases.values():
                        for dataset in [dataset for dataset, other in named.items() if other == digest]:
                            del named[dataset]
            case MeasuredEntry():
                measured[entry.digest] = Measured(accuracy=entry.accuracy, n=entry.n)
            case LatencyEntry():
                latencies[entry.digest, entry.device] = entry.median_ms
            case CalibrationEntry():
                calibrations[entry.calibration.dataset] = entry.calibration
            case DatasetEntry():
                labels.setdefault(entry.images, entry.label)
    return Said(
        aliases={alias: named for alias, named in aliases.items() if named},
        **{flag: frozenset(digests) for flag, digests in flags.items()},
        measured=measured,
        labels=labels,
        latencies=latencies,
        calibrations=calibrations,
    )
