"""Within each budget of parameters: how accurate are this project's checkpoints, the paper's networks, and others?

    python benchmarks/frontier.py my-zoo other-zoo --references references.json    # as references.py --out wrote it

Without arguments: zoo/pretrained/cifar10, and every references-*.json of results/. Nothing is trained. Zoo and
references show the test accuracy of what one would choose by validation accuracy; the paper's points are the 70 %,
the 80 % and the best one of each of its five trials (Figure 3 of arXiv 2401.05686), chosen by test accuracy.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from machine import spread

from trainer.report.report import BUDGETS
from trainer.report.trials import MAX_PARAMS, PAPER, Milestones, hypervolume, read_trials
from zoo.errors import ZooError

HERE = Path(__file__).parent
PRETRAINED = HERE.parent / "zoo" / "pretrained" / "cifar10"
# Test accuracies that this project sets itself on CIFAR-10.
FLOORS = dict(zip(BUDGETS, (0.767, 0.815, 0.864, 0.888, 0.898, 0.906, 0.913), strict=True))
GOALS = dict(zip(BUDGETS, (0.80, 0.85, 0.885, 0.91, 0.925, 0.935, 0.945), strict=True))


@dataclass(frozen=True)
class Point:
    """`choice` is the accuracy that one chooses by."""

    params: int
    test: float
    choice: float


@dataclass(frozen=True)
class Column:
    """One way to come by networks: the points of each of its trials."""

    title: str
    trials: tuple[tuple[Point, ...], ...]

    def within(self, budget: int) -> list[float]:
        """Test accuracies, one for each trial that has a network so small."""
        affordable = [[point for point in trial if point.params <= budget] for trial in self.trials]
        return [max(points, key=lambda point: point.choice).test for points in affordable if points]

    def hypervolumes(self) -> list[float]:
        return [hypervolume((point.params, point.test) for point in trial) for trial in self.trials]


def paper() -> Column:
    def points(trial: Milestones) -> tuple[Point, ...]:
        assert trial.params_at_70 and trial.params_at_80 and trial.params_at_best and trial.best_accuracy
        reached = ((trial.params_at_70, 0.7), (trial.params_at_80, 0.8), (trial.params_at_best, trial.best_accuracy))
        return tuple(Point(params, accuracy, accuracy) for params, accuracy in reached)

    return Column("paper", tuple(points(trial) for trial in PAPER))


def grown(zoo: Path, dataset: str) -> list[Column]:
    """One column for each named run in the zoo."""
    trials, left_out = read_trials(zoo)
    for reason in left_out:
        print(f"left out: {reason}", file=sys.stderr)
    if others := sorted({trial.dataset for trial in trials} - {dataset}):
        print(f"left out: runs on {', '.join(others)} in {zoo}: see --dataset", file=sys.stderr)
    by_run = defaultdict(list)
    for trial in trials:
        if trial.dataset == dataset:
            by_run[trial.run].append(
                tuple(
                    Point(entry.params, entry.test_accuracy, entry.val_accuracy)
                    for entry in trial.entries
                    if entry.test_accuracy is not None
                )
            )
    return [Column(f"{zoo.name}: {run}", tuple(members)) for run, members in by_run.items()]


def references(file: Path, dataset: str) -> list[Column]:
    """One column for each network; of fewer than 40,000 training images or 100 epochs the title says so."""
    record = json.loads(file.read_text())
    if record["dataset"]["name"] != dataset:
        print(f"left out: {file} is of {record['dataset']['name']}, not {dataset}", file=sys.stderr)
        return []
    num_train, epochs = record["dataset"]["num_train"], record["epochs"]
    reduced = f" ({num_train:,} images, {epochs} epochs)" if num_train < 40_000 or epochs < 100 else ""
    return [
        Column(
            name + reduced,
            tuple((Point(network["params"], run["test"], run["validation"]),) for run in network["seeds"]),
        )
        for name, network in record["networks"].items()
    ]


def table(columns: list[Column], aims: dict[str, dict[int, float]]) -> list[list[str]]:
    """A row for each budget. `aims` are columns too, by title; a cell has a star for each that it reaches."""
    return [
        ["parameters", *aims, *(column.title for column in columns)],
        *(
            [
                f"≤ {budget:,}",
                *(f"{100 * aim[budget]:g}" for aim in aims.values()),
                *(_cell(column, budget, aims) for column in columns),
            ]
            for budget in BUDGETS
        ),
        [
            "hypervolume",
            *(f"{hypervolume(aim.items()):.4f}" for aim in aims.values()),
            *(spread(column.hypervolumes(), 4) for column in columns),
        ],
        ["trials", *("" for _ in aims), *(str(len(column.trials)) for column in columns)],
    ]


def _cell(column: Column, budget: int, aims: dict[str, dict[int, float]]) -> str:
    found = column.within(budget)
    if not found:
        return "–"
    reached = sum(aim[budget] <= mean(found) for aim in aims.values())
    mark = " " + "*" * reached if reached else ""
    of = "" if len(found) == len(column.trials) else f" ({len(found)} of {len(column.trials)})"
    return spread([100 * accuracy for accuracy in found], 2) + of + mark


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoos", nargs="*", type=Path, default=[PRETRAINED] if PRETRAINED.is_dir() else [])
    parser.add_argument(
        "--references", nargs="*", type=Path, default=sorted((HERE / "results").glob("references-*.json"))
    )
    parser.add_argument("--dataset", default="cifar10")
    options = parser.parse_args()
    is_cifar10 = options.dataset == "cifar10"
    columns = [paper()] if is_cifar10 else []
    try:
        for zoo in options.zoos:
            columns += grown(zoo, options.dataset)
    except ZooError as error:
        sys.exit(f"frontier: {error}")
    for file in options.references:
        columns += references(file, options.dataset)
    print(f"{options.dataset}: test accuracy within a budget, %; mean ± standard deviation over trials (seeds)")
    print(f"* floor reached, ** goal reached; hypervolume: accuracy × decades of parameters, up to {MAX_PARAMS:,}\n")
    rows = table(columns, {"floor": FLOORS, "goal": GOALS} if is_cifar10 else {})
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


if __name__ == "__main__":
    main()
