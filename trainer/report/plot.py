"""Accuracy against parameters, drawn. The only module that imports matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import cycle, groupby
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from trainer.report.trials import PAPER, Entry, Trial
from zoo.choosing.pareto import front

# Okabe and Ito's colours, which stay apart for colour-blind eyes too; black and yellow left out.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_PAPER_COLOR = "#666666"
_INK = "#222222"
# By the kinds of expansion since the checkpoint before: shape, area, name.
_MARKERS = {
    frozenset({"deepen"}): ("^", 46, "deepened"),
    frozenset({"widen"}): ("s", 34, "widened"),
    frozenset({"deepen", "widen"}): ("D", 32, "both"),
    frozenset[str](): ("o", 38, "start, or trained on"),
}
_STYLE: dict[Any, Any] = {
    # Without these two, every SVG has other ids and the time of its drawing.
    "svg.hashsalt": "checkpoint-zoo",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": "#999999",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "grid.color": "#e6e6e6",
}


def draw(dataset: str, trials: Sequence[Trial]) -> dict[str, bytes]:
    """The picture as "svg" and "png"; the same trials give the same bytes. `trials` are sorted by run."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's own matplotlibrc says
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(9, 5.6), layout="constrained")
        axes = figure.add_subplot()
        _frame(axes, dataset)
        runs = [(run, list(members)) for run, members in groupby(trials, lambda trial: trial.run)]
        fronts = [_run(axes, run, members, color) for (run, members), color in zip(runs, cycle(_COLORS), strict=False)]
        marks = _shapes(trials) + ([_paper(axes)] if dataset == "cifar10" else [])
        axes.legend(
            handles=fronts,
            loc="lower right",
            framealpha=0.9,
            edgecolor="none",
            title="Pareto front of",
            alignment="left",
        )
        figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False)
        pictures = {}
        for suffix in ("svg", "png"):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, dpi=160, metadata={"Date": None} if suffix == "svg" else None)
            pictures[suffix] = buffer.getvalue()
    return pictures


def _frame(axes: Axes, dataset: str) -> None:
    axes.set_title(f"{dataset}: every checkpoint by size", loc="left", fontsize=13, fontweight="bold", pad=12)
    axes.set_title("thin lines: from a checkpoint to the next", loc="right", fontsize=9, color="#777777", pad=12)
    axes.set_xscale("log")
    axes.set_xlabel("parameters")
    axes.set_ylabel("test accuracy")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axes.grid(True)
    axes.tick_params(which="both", length=0)
    axes.margins(x=0.06, y=0.08)


def _run(axes: Axes, run: str, trials: Sequence[Trial], color: str) -> Line2D:
    measured = [entry for trial in trials for entry in trial.entries if entry.test_accuracy is not None]
    by_digest = {entry.digest: entry for entry in measured}
    for entry in measured:
        parent = by_digest.get(entry.descriptor.lineage.parent or "")
        if parent is not None:
            _line(axes, [parent, entry], color=color, linewidth=0.8, alpha=0.35)
        marker, size, _ = _MARKERS[_how(entry)]
        axes.scatter(
            entry.params,
            _accuracy(entry),
            marker=marker,
            s=size,
            color=color,
            edgecolors="white",
            linewidths=0.7,
            zorder=3,
        )
    best = front(measured, cost=lambda entry: entry.params, value=_accuracy)
    _line(axes, best, color=color, linewidth=2, drawstyle="steps-post", zorder=2)
    seeds = f"{len(trials)} seeds" if len(trials) > 1 else f"seed {trials[0].seed}"
    return Line2D([], [], color=color, linewidth=2, label=f"{run}, {seeds}")


def _paper(axes: Axes) -> Line2D:
    """Its trials where they reached 70 %, 80 % and their best."""
    groups: list[tuple[str, list[Any]]] = [
        ("70 %", [(trial.params_at_70, 0.7) for trial in PAPER]),
        ("80 %", [(trial.params_at_80, 0.8) for trial in PAPER]),
        ("best", [(trial.params_at_best, trial.best_accuracy) for trial in PAPER]),
    ]
    for label, points in groups:
        axes.plot(*zip(*points, strict=True), "x", color=_PAPER_COLOR, markersize=6, markeredgewidth=1.4, zorder=4)
        corner = max(params for params, _ in points), max(accuracy for _, accuracy in points)
        text = axes.annotate(label, corner, (0, 7), textcoords="offset points", ha="center", color=_PAPER_COLOR)
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])
    name = "the paper's trials: 70 %, 80 %, best"
    return Line2D([], [], color=_PAPER_COLOR, linestyle="", marker="x", label=name)


def _shapes(trials: Sequence[Trial]) -> list[Line2D]:
    """What the shapes of the points mean, as far as they occur."""
    kinds = {_how(entry) for trial in trials for entry in trial.entries if entry.test_accuracy is not None}
    return [
        Line2D([], [], color="#888888", linestyle="", marker=marker, markeredgecolor="white", markersize=7, label=label)
        for kind, (marker, _, label) in _MARKERS.items()
        if kind in kinds
    ]


def _line(axes: Axes, entries: Sequence[Entry], **style: Any) -> None:
    axes.plot([entry.params for entry in entries], [_accuracy(entry) for entry in entries], **style)


def _how(entry: Entry) -> frozenset[str]:
    return frozenset(step.kind for step in entry.steps)


def _accuracy(entry: Entry) -> float:
    assert entry.test_accuracy is not None
    return entry.test_accuracy
