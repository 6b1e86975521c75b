"""What a zoo's files say about the runs that made them. A trial is one run with one seed on one data set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log10
from pathlib import Path

from zoo.checkpoint.descriptor import Cost, Descriptor, ExpansionStep, join_devices
from zoo.checkpoint.elastic import headers_of
from zoo.checkpoint.file import Header
from zoo.choosing.pareto import front
from zoo.errors import CheckpointError, ZooError
from zoo.store.directory import Directory

# Where `hypervolume` ends: beyond every network of this project, so that the largest of them counts too.
MAX_PARAMS = 1_000_000


@dataclass(frozen=True)
class Entry:
    """One checkpoint; `steps` are the expansions since the one that the run saved before it."""

    digest: str
    header: Header
    steps: tuple[ExpansionStep, ...]

    @property
    def descriptor(self) -> Descriptor:
        return self.header.descriptor

    @property
    def params(self) -> int:
        return self.header.params

    @property
    def val_accuracy(self) -> float:
        return self.descriptor.metrics.validation.accuracy

    @property
    def test_accuracy(self) -> float | None:
        test = self.descriptor.metrics.test
        return test.accuracy if test else None


@dataclass(frozen=True)
class Milestones:
    """The columns of the paper's Figure 3; None where a trial did not get there."""

    params_at_70: int | None
    params_at_80: int | None
    best_accuracy: float | None
    params_at_best: int | None


# Figure 3 of arXiv 2401.05686, its five trials on CIFAR-10.
PAPER = (
    Milestones(13_696, 27_852, 0.834, 74_564),
    Milestones(11_360, 51_880, 0.846, 73_720),
    Milestones(11_360, 22_636, 0.846, 57_808),
    Milestones(11_360, 37_320, 0.845, 66_440),
    Milestones(9_024, 28_588, 0.832, 40_960),
)


@dataclass(frozen=True)
class Trial:
    """Its checkpoints, fewest parameters first; of equally large ones the earlier first."""

    dataset: str
    run: str
    seed: int
    entries: tuple[Entry, ...]

    def milestones(self) -> Milestones:
        """By test accuracy, as in the paper."""
        measured = _measured(self.entries)
        best_params, best_accuracy = max(measured, key=lambda point: point[1], default=(None, None))
        return Milestones(
            params_at_70=next((params for params, accuracy in measured if accuracy >= 0.7), None),
            params_at_80=next((params for params, accuracy in measured if accuracy >= 0.8), None),
            best_accuracy=best_accuracy,
            params_at_best=best_params,
        )

    def within(self, max_params: int) -> Entry | None:
        """The entry that one would choose with that many parameters to spend: the best by validation accuracy.

        Of equally good ones the smallest; test accuracy has no say in it.
        """
        affordable = [entry for entry in self.entries if entry.params <= max_params]
        return max(affordable, key=lambda entry: entry.val_accuracy, default=None)

    def cost(self) -> Cost:
        """Of the whole run, and of what was distilled from it; without what `uncounted` says.

        Passes that made no student better are in no file, and not counted.
        """
        by_digest = {entry.digest: entry.descriptor for entry in self.entries}
        total = self._base().descriptor.cost
        for descriptor in by_digest.values():
            student = by_digest.get(descriptor.lineage.parent or "")
            if descriptor.lineage.distilled_from and student is not None:
                changes = {
                    name: getattr(total, name) + getattr(descriptor.cost, name) - getattr(student.cost, name)
                    for name in ("epochs", "device_seconds", "training_flops")
                }
                devices = join_devices(total.device, descriptor.cost.device)
                total = total.model_copy(update={**changes, "device": devices})
        return total

    def uncounted(self) -> int:
        """Of how many distilled checkpoints the teaching is not in `cost`, as the file they began with is not there."""
        there, base = {entry.digest for entry in self.entries}, self._base()
        lineages = [entry.descriptor.lineage for entry in self.entries if entry is not base]
        return sum(lineage.distilled_from is not None and lineage.parent not in there for lineage in lineages)

    def _base(self) -> Entry:
        """The one that was grown for longest; where all were distilled, of these."""
        grown = [entry for entry in self.entries if not entry.descriptor.lineage.distilled_from]
        return max(grown or self.entries, key=lambda entry: entry.descriptor.cost.epochs)

    def hypervolume(self) -> float:
        """Of its test accuracies, see `hypervolume`."""
        return hypervolume(_measured(self.entries))


def hypervolume(points: Iterable[tuple[int, float]]) -> float:
    """The area that points of (parameters, accuracy) dominate, in accuracy times decades of parameters.

    It is bounded by the reference point (10^6 parameters, accuracy 0), with parameters on a log10 scale: the integral
    of f(x) from x = -∞ to 6, where f(x) is the best accuracy among points of at most 10^x parameters, 0 where there
    is none. Over the front p_1 < p_2 < … < p_n < p_(n+1) = 10^6, that is Σ a_i · (log10 p_(i+1) − log10 p_i).
    Another point never makes it smaller. An accuracy of 0.8 with 10,000 parameters has 1.6.
    """
    best = front(
        (point for point in points if 0 < point[0] < MAX_PARAMS),
        cost=lambda point: point[0],
        value=lambda point: point[1],
    )
    ends = [*best, (MAX_PARAMS, 0.0)]
    return sum((accuracy * log10(end / params) for (params, accuracy), (end, _) in pairwise(ends)), start=0.0)


def read_trials(zoo: Path) -> tuple[list[Trial], list[str]]:
    """Every trial by (data set, run, seed), and why files were left out. Raises ZooError where there is no trial."""
    if not zoo.is_dir():
        raise ZooError(f"{zoo}: no such zoo directory")
    headers: dict[str, Header] = {}
    left_out = []
    for _, path in sorted(Directory(zoo).paths()):
        try:
            headers |= headers_of(path)
        except CheckpointError as error:
            left_out.append(str(error))
    if not headers:
        raise ZooError("; ".join([f"{zoo} holds no checkpoint to report on", *left_out]))
    members = defaultdict(list)
    for digest, header in headers.items():
        lineage = header.descriptor.lineage
        key = (header.descriptor.dataset.name, lineage.run, lineage.seed)
        members[key].append(Entry(digest, header, _steps(header, headers.get(lineage.parent or ""))))
    trials = [
        Trial(*key, tuple(sorted(entries, key=lambda entry: (entry.params, entry.descriptor.lineage.epoch))))
        for key, entries in sorted(members.items())
    ]
    return trials, left_out


def _steps(header: Header, parent: Header | None) -> tuple[ExpansionStep, ...]:
    """Without the parent's file, the last step: what came before that is not known."""
    lineage = header.descriptor.lineage
    if parent is not None:
        return lineage.expansions[parent.descriptor.lineage.num_expansions :]
    return lineage.expansions[-1:] if lineage.parent else lineage.expansions


def _measured(entries: Sequence[Entry]) -> list[tuple[int, float]]:
    """(parameters, test accuracy) of those that have one, in order."""
    return [(entry.params, entry.test_accuracy) for entry in entries if entry.test_accuracy is not None]
