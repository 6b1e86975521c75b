"""The report of a zoo: the paper's table, the best within each budget, what it cost, every checkpoint, a picture.

<out>/report.md
<out>/<data set>.svg, .png      accuracy against parameters
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev

from trainer.report import plot
from trainer.report.trials import PAPER, Entry, Milestones, Trial, read_trials
from zoo.checkpoint.descriptor import ExpansionStep, Lineage
from zoo.store.directory import write_atomically

# 62,700 is the mean size of the paper's best networks.
BUDGETS = (5_000, 10_000, 20_000, 40_000, 62_700, 100_000, 150_000)

_NONE = "–"
_AT_LEAST = "≥"
_UNCOUNTED = "the teaching of checkpoints is not counted where the file that they began with is not in this zoo."
# To a type checker float alone says this; to beartype, which checks the tests' calls, it does not.
Number = int | float
_CITED = "Figure 3 of [arXiv 2401.05686](https://arxiv.org/abs/2401.05686)"


def write(zoo: Path, out: Path) -> str:
    """Writes the files and returns the text of report.md; the same zoo gives the same bytes.

    Raises ZooError where there is nothing to report on.
    """
    trials, left_out = read_trials(zoo)
    sections = [f"# The zoo {zoo.resolve().name}"]
    for dataset, members in _grouped(trials, lambda trial: trial.dataset):
        sections.append(_dataset(dataset, members))
        for suffix, picture in plot.draw(dataset, members).items():
            write_atomically(out / f"{dataset}.{suffix}", picture)
    if left_out:
        sections.append("\n".join(["## Left out", "", *(f"- {reason}" for reason in left_out)]))
    text = "\n\n".join(sections) + "\n"
    write_atomically(out / "report.md", text.encode())
    return text


def _dataset(name: str, trials: Sequence[Trial]) -> str:
    runs = _grouped(trials, lambda trial: trial.run)
    is_cifar10 = name == "cifar10"
    parts = [
        f"## {name}",
        f"![{name}: test accuracy against parameters]({name}.svg)",
        "### Parameters at an accuracy",
        "By test accuracy, as in the paper; the first checkpoint by size that reaches it."
        + (f" Paper: {_CITED}, its trials 1 to 5." if is_cifar10 else ""),
        *(_milestones(run, members, PAPER if is_cifar10 else ()) for run, members in runs),
    ]
    if is_cifar10:
        parts += [
            "### Test accuracy within a budget, %",
            "At most so many parameters; chosen by validation accuracy. Mean ± standard deviation over seeds.",
            _budgets(runs),
        ]
    parts += [
        "### Trials",
        "Hypervolume: accuracy × decades of parameters that the trial's test accuracies dominate, up to 10⁶ parameters "
        "and down to accuracy 0. Cost: of the whole run, with what was distilled from it."
        + ("" if not any(trial.uncounted() for trial in trials) else f" {_AT_LEAST}: {_UNCOUNTED}"),
        _trials(runs),
        "### Checkpoints",
    ]
    for trial in trials:
        parts += [f"**{trial.run}, seed {trial.seed}**", _entries(trial)]
    return "\n\n".join(parts)


def _milestones(run: str, trials: Sequence[Trial], paper: Sequence[Milestones]) -> str:
    own = [trial.milestones() for trial in trials]
    header = [f"run {run}", *(f"seed {trial.seed}" for trial in trials), "mean"]
    if paper:
        header += ["paper 1", *map(str, range(2, len(paper) + 1)), "mean"]

    def row(
        label: str, value: Callable[[Milestones], Number | None], show: Callable[[Number], str], missing: str
    ) -> list[str]:
        cells = [label]
        for trial_values in (own, paper) if paper else (own,):
            values = [value(milestones) for milestones in trial_values]
            cells += [missing if found is None else show(found) for found in values]
            cells.append(_mean(values, show))
        return cells

    rows = [
        row("params at 70 %", lambda found: found.params_at_70, _count, "not reached"),
        row("params at 80 %", lambda found: found.params_at_80, _count, "not reached"),
        row("best accuracy, %", lambda found: found.best_accuracy, lambda value: f"{100 * value:.1f}", _NONE),
        row("params at best", lambda found: found.params_at_best, _count, _NONE),
    ]
    return _table(header, rows)


def _mean(values: Iterable[Number | None], show: Callable[[Number], str]) -> str:
    """Over those that there are, and how many these are if not all."""
    values = list(values)
    found = [value for value in values if value is not None]
    if not found:
        return _NONE
    return f"**{show(mean(found))}**" + _of(len(found), len(values))


def _budgets(runs: Sequence[tuple[str, Sequence[Trial]]]) -> str:
    def cell(trials: Sequence[Trial], budget: int) -> str:
        chosen = [trial.within(budget) for trial in trials]
        found = [entry.test_accuracy for entry in chosen if entry is not None and entry.test_accuracy is not None]
        if not found:
            return _NONE
        return _spread([100 * accuracy for accuracy in found], 2) + _of(len(found), len(trials))

    header = ["run", "seeds", *(f"≤ {budget:,}" for budget in BUDGETS)]
    rows = [[run, str(len(trials)), *(cell(trials, budget) for budget in BUDGETS)] for run, trials in runs]
    return _table(header, rows)


def _trials(runs: Sequence[tuple[str, Sequence[Trial]]]) -> str:
    header = ["run", "seed", "checkpoints", "hypervolume", "epochs", "device-seconds", "training FLOPs", "device"]
    rows = []
    for run, trials in runs:
        costs = [trial.cost() for trial in trials]
        for trial, cost in zip(trials, costs, strict=True):
            least = f"{_AT_LEAST} " if trial.uncounted() else ""
            rows.append(
                [
                    run,
                    str(trial.seed),
                    str(len(trial.entries)),
                    f"{trial.hypervolume():.4f}",
                    least + str(cost.epochs),
                    f"{least}{cost.device_seconds:,.1f}",
                    f"{least}{cost.training_flops:.3g}",
                    cost.device,
                ]
            )
        if len(trials) > 1:
            least = f"{_AT_LEAST} " if any(trial.uncounted() for trial in trials) else ""
            rows.append(
                [
                    run,
                    "**mean**",
                    f"{mean(len(trial.entries) for trial in trials):.1f}",
                    _spread([trial.hypervolume() for trial in trials], 4),
                    f"{least}{mean(cost.epochs for cost in costs):.1f}",
                    least + _spread([cost.device_seconds for cost in costs], 1),
                    f"{least}{mean(cost.training_flops for cost in costs):.3g}",
                    "",
                ]
            )
    return _table(header, rows)


def _entries(trial: Trial) -> str:
    header = ["file", "params", "MACs", "validation, %", "test, %", "epoch", "grown by"]
    rows = [
        [
            f"`{entry.digest[:12]}`",
            f"{entry.params:,}",
            f"{entry.header.macs:,}",
            f"{100 * entry.val_accuracy:.2f}",
            _NONE if entry.test_accuracy is None else f"{100 * entry.test_accuracy:.2f}",
            _epochs(entry.descriptor.lineage),
            _reason(entry),
        ]
        for entry in trial.entries
    ]
    return _table(header, rows)


def _epochs(lineage: Lineage) -> str:
    """Of the trunk, and of the branch on which this checkpoint was annealed."""
    return f"{lineage.epoch} + {lineage.anneal_epochs}" if lineage.anneal_epochs else str(lineage.epoch)


def _reason(entry: Entry) -> str:
    """epoch 10: widen block 0 by 8 channels (score 0.31, threshold 0.02), deepen block 2 by a residual layer (score …)

    Steps that did the same in one epoch are taken together, under the score of the first.
    """
    if not entry.steps:
        return _NONE if entry.descriptor.lineage.parent else "the start"
    reasons = []
    for epoch, steps in groupby(entry.steps, lambda step: step.epoch):
        alike = defaultdict(list)
        for step in steps:
            alike[step.kind, step.block, step.layer_kind].append(step)
        reasons.append(f"epoch {epoch}: {', '.join(map(_change, alike.values()))}")
    return "; ".join(reasons)


def _change(steps: Sequence[ExpansionStep]) -> str:
    first, count = steps[0], len(steps)
    if first.kind == "widen":
        amount = f"by {sum(step.channels_added for step in steps)} channels"
    else:
        amount = f"by a {first.layer_kind} layer" if count == 1 else f"by {count} {first.layer_kind} layers"
    return f"{first.kind} block {first.block} {amount} (score {first.score:.3g}, threshold {first.threshold:.3g})"


def _grouped(trials: Sequence[Trial], key: Callable[[Trial], str]) -> list[tuple[str, list[Trial]]]:
    """Trials come sorted by data set, run and seed."""
    return [(name, list(members)) for name, members in groupby(trials, key)]


def _count(value: Number) -> str:
    return f"{value:,.0f}"


def _spread(values: Sequence[Number], digits: int) -> str:
    """Mean ± standard deviation; of one value there is no deviation."""
    spread = f" ± {stdev(values):,.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):,.{digits}f}{spread}"


def _of(found: int, total: int) -> str:
    return "" if found == total else f" ({found} of {total})"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown; words to the left, numbers to the right."""
    words = {header[0], "device", "grown by", "file"}
    marks = [":--" if name in words else "--:" for name in header]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, marks, *rows))
