"""zoo list, datasets, show, card: what there is."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from rich.table import Table

from zoo.catalog.model_card import model_card
from zoo.catalog.views import CheckpointDetail, CheckpointView
from zoo.checkpoint.descriptor import Descriptor, ExpansionStep
from zoo.choosing.budget import Budget, FileFormat
from zoo.cli.options import JsonOption, Reference, chosen, with_budget_and_format, with_zoo
from zoo.cli.output import plain, print_json, print_table, say_why
from zoo.protocol import Zoo

app = typer.Typer()
# What fits on a line.
_FITS = {"crop": "the middle of other shapes", None: "other shapes squeezed"}
_MAX_CLASSES = 10


@app.command(name="list", epilog="Example: zoo list --zoo my-zoo --min-acc 0.8 --json")
@with_zoo
@with_budget_and_format
def list_(zoo: Zoo, budget: Budget, as_json: JsonOption = False) -> None:
    """List the checkpoints within a budget: the one that would be chosen first.

    That is the smallest with --min-acc, else the most accurate; --prefer
    says otherwise.
    """
    views = list(zoo.models(**budget.given()))
    if as_json:
        print_json(views)
    if not views and budget.is_filtered():
        zoo.choose(**budget.given())  # raises: says what is nearest
    if not as_json:
        print_table(_table(views, budget.format))
        if views:
            say_why(budget)


def _table(views: list[CheckpointView], file_format: FileFormat) -> Table:
    table = Table("id", "name", "params", "MACs", "bytes", "ms", "accuracy", "95 % interval", "distilled", box=None)
    for view in views:
        interval = "–".join(f"{end:.3f}" for end in view.accuracy_ci95 or ())
        accuracy = "" if view.accuracy is None else f"{view.accuracy:.4f}"
        latency = "" if view.latency_ms is None else f"{view.latency_ms:.3f}"
        size_bytes = view.bytes if file_format == "safetensors" else view.onnx_bytes
        costs = (f"{view.params:,}", f"{view.macs:,}", "" if size_bytes is None else f"{size_bytes:,}", latency)
        distilled = "" if view.distilled_from is None else f"by {view.distilled_from[:8]}"
        table.add_row(view.id[:12], view.name, *costs, accuracy, interval, distilled)
    return table


@app.command(epilog="Example: zoo datasets --zoo my-zoo")
@with_zoo
def datasets(zoo: Zoo, as_json: JsonOption = False) -> None:
    """List the data sets of which there is a checkpoint to choose."""
    views = zoo.datasets()
    if as_json:
        print_json(views)
        return
    table = Table("data set", "checkpoints", "classes", "best accuracy", "", box=None)
    for view in views:
        accuracy = "" if view.best_accuracy is None else f"{view.best_accuracy:.4f}"
        table.add_row(view.name, f"{view.checkpoints:,}", f"{view.classes:,}", accuracy, "default" * view.default)
    print_table(table)


@app.command(epilog="Example: zoo show best --zoo my-zoo")
@with_zoo
@with_budget_and_format
def show(zoo: Zoo, budget: Budget, reference: Reference = None, as_json: JsonOption = False) -> None:
    """Show the checkpoint that a budget chooses, or the one named; with --json its whole descriptor too."""
    detail = zoo.show(chosen(zoo, reference, budget).id)
    if reference is None:
        say_why(budget)
    if as_json:
        print_json(detail)
        return
    for name, value in _facts(detail):
        typer.echo(f"{name:13}  {plain(value)}")


@app.command(epilog="Example: zoo card best --zoo my-zoo > README.md")
@with_zoo
@with_budget_and_format
def card(zoo: Zoo, budget: Budget, reference: Reference = None) -> None:
    """Print the model card, as Markdown: data, accuracy, cost, lineage, limits, licence."""
    detail = zoo.show(chosen(zoo, reference, budget).id)
    typer.echo(model_card(detail.descriptor, detail.id), nl=False)


def _facts(detail: CheckpointDetail) -> list[tuple[str, str]]:
    """What people choose by, and where it comes from."""
    descriptor = detail.descriptor
    architecture, lineage, metrics = descriptor.architecture, descriptor.lineage, descriptor.metrics
    size = f"{architecture.input_height}×{architecture.input_width}"
    unmeasured = "not measured: `zoo calibrate` does"
    annealed = f", then {lineage.anneal_epochs} annealed" if lineage.anneal_epochs else ""
    facts = [
        ("id", detail.id),
        ("name", detail.name),
        ("dataset", detail.dataset),
        ("family", detail.family),
        ("images", f"{size}, {descriptor.preprocessing.color}, {_FITS[descriptor.preprocessing.fit]}"),
        ("classes", f"{len(detail.classes)}: {_some(detail.classes)}"),
        ("params", f"{detail.params:,}"),
        ("MACs", f"{detail.macs:,}"),
        ("bytes", f"{detail.bytes:,}" + ("" if detail.onnx_bytes is None else f", {detail.onnx_bytes:,} as ONNX")),
        ("memory", "unknown" if detail.ram_bytes is None else f"{detail.ram_bytes:,} bytes for one image, estimated"),
        ("ms", unmeasured if detail.latency_ms is None else f"{detail.latency_ms:.3f}"),
        ("accuracy", _accuracy(detail)),
        ("95 % interval", "–".join(f"{end:.4f}" for end in detail.accuracy_ci95 or ()) or "unknown"),
        ("confused", _confused(descriptor)),
        ("validation", f"{metrics.validation.accuracy:.4f} of {metrics.validation.n:,} images"),
        ("run", f"{lineage.run}, seed {lineage.seed}, epoch {lineage.epoch}{annealed}"),
        ("expansions", _expansions(lineage.expansions)),
        ("trained", f"{descriptor.cost.device_seconds:,.0f} s on {descriptor.cost.device}"),
        ("parent", detail.parent or "none"),
        ("distilled", "no" if detail.distilled_from is None else f"by {detail.distilled_from}"),
        ("aliases", ", ".join(detail.aliases) or "none"),
        ("licence", descriptor.license or "not stated"),
        ("created", f"{detail.created_at:%Y-%m-%d %H:%M:%S} UTC"),
    ]
    if detail.deprecated:
        facts.append(("deprecated", "yes: found by name, chosen by no budget"))
    if detail.staged:
        facts.append(("staged", "yes: found by its digest alone, until `zoo promote`"))
    return facts


def _accuracy(detail: CheckpointDetail) -> str:
    if detail.accuracy is None:
        return "unknown"
    known = f"{detail.accuracy:.4f} of {detail.accuracy_n:,} test images"
    claim = detail.descriptor.metrics.test
    if detail.accuracy_source != "measured" or claim is None:
        return known
    return f"{known}, measured by the zoo; its file says {claim.accuracy:.4f}"


def _confused(descriptor: Descriptor) -> str:
    if descriptor.metrics.confusion is None:
        return "unknown: an older file, or many classes"
    return "; ".join(descriptor.confused(3)) or "never"


def _some(classes: Sequence[str]) -> str:
    shown = ", ".join(classes[:_MAX_CLASSES])
    return f"{shown}, …" if len(classes) > _MAX_CLASSES else shown


def _expansions(steps: Sequence[ExpansionStep]) -> str:
    if not steps:
        return "none: as it started"
    last = steps[-1]
    how = f"widened by {last.channels_added}" if last.kind == "widen" else "deepened"
    start = f"{steps[0].params_before:,} params"
    return f"{len(steps)}, from {start}; the last in epoch {last.epoch}: block {last.block} {how}"
