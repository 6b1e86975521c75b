"""zoo: what a person does with a zoo. Data goes to stdout, the rest to stderr."""

from __future__ import annotations

import filecmp
import inspect
import json
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from enum import StrEnum
from functools import partial, wraps
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NoReturn, get_args

import numpy as np
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from zoo.catalog.rows import CheckpointRow
from zoo.catalog.views import CheckpointDetail, CheckpointView
from zoo.checkpoint.descriptor import ExpansionStep
from zoo.checkpoint.file import Checkpoint
from zoo.choosing.budget import ALL_DATASETS, Budget, FileFormat, Preference
from zoo.choosing.cascade import Calibration
from zoo.cli import image_arguments, terminal
from zoo.cli.image_arguments import Answer
from zoo.cli.source import LocalSource, RemoteSource, Source
from zoo.errors import CheckpointError, RemoteError, ZooError
from zoo.images.folder import name_of
from zoo.library import audit
from zoo.library.calibrate import calibrate_cascades, measure_latencies
from zoo.library.garbage import collect, garbage
from zoo.library.local import LocalZoo
from zoo.network.cost import num_params
from zoo.runtime import onnx_model
from zoo.runtime.device import device_name
from zoo.runtime.measure import HeldOutImages, measure
from zoo.runtime.predictor import Predictor
from zoo.store.directory import is_special

EPILOG = """
[bold]Examples[/bold]

zoo list --zoo my-zoo --min-acc 0.8

zoo datasets --zoo my-zoo

zoo show best --url http://127.0.0.1:8000

zoo get --zoo my-zoo --min-acc 0.8 -o small.safetensors

zoo get --zoo my-zoo --max-params 20000 --format onnx -o best-of-20000.onnx

zoo predict frog.png cat.jpg --zoo my-zoo --min-acc 0.8

zoo predict frog.png --zoo my-zoo --min-acc 0.8 --policy cascade

zoo verify --zoo my-zoo --data cifar10.tar.gz

zoo calibrate --zoo my-zoo
zoo publish mine.safetensors --url http://127.0.0.1:8000
"""

# What fits on a line.
_MAX_CLASSES = 10

app = typer.Typer(
    cls=terminal.Group,
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog=EPILOG,
)


@app.callback()
def zoo_(version: terminal.VersionOption = False) -> None:
    """What a person does with a zoo: a directory of checkpoints, or a server."""


class Format(StrEnum):
    safetensors = "safetensors"
    onnx = "onnx"


class Policy(StrEnum):
    single = "single"
    cascade = "cascade"


PreferredBy = StrEnum("PreferredBy", {name: name for name in get_args(Preference)})  # type: ignore[misc]


ZooOption = Annotated[list[Path] | None, typer.Option(help="Zoo directory; give it again for several.", metavar="DIR")]
UrlOption = Annotated[str | None, typer.Option(help="A zoo server, instead of a directory.", metavar="URL")]
TokenOption = Annotated[str | None, typer.Option(help="The server's token.", envvar="ZOO_TOKEN", show_envvar=True)]
SkipBadOption = Annotated[
    bool, typer.Option("--skip-bad", help="With --data: leave out images that cannot be read, as zoo-train does.")
]
FormatOption = Annotated[Format, typer.Option("--format", help="The file, also for --max-bytes.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_BUDGET_OPTIONS: dict[str, Any] = {
    "min_acc": Annotated[float | None, typer.Option(help="Least test accuracy, a fraction: 0.8.")],
    "max_params": Annotated[int | None, typer.Option(help="Most parameters.")],
    "max_macs": Annotated[int | None, typer.Option(help="Most multiply-accumulates for one image.")],
    "max_bytes": Annotated[int | None, typer.Option(help="Largest file, in the format.")],
    "max_latency_ms": Annotated[float | None, typer.Option(help="Longest measured time for one image.")],
    "dataset": Annotated[str | None, typer.Option(help="Data set; without it the default one; '*' for all.")],
    "family": Annotated[str | None, typer.Option(help="Architecture family.")],
    "confidence": Annotated[float | None, typer.Option(help="How sure --min-acc must be, like 0.95.")],
}
PublishTokenOption = Annotated[
    str | None,
    typer.Option(help="The server's token for publishing.", envvar="ZOO_PUBLISH_TOKEN", show_envvar=True),
]
DatasetOption = Annotated[str | None, typer.Option(help="Whose alias or name is meant; the default one without it.")]
Named = Annotated[str, typer.Argument(help="Digest, digest prefix, name or alias.", metavar="ID")]
Whole = Annotated[
    str, typer.Argument(help="The whole digest: a name may be another's the next time.", metavar="DIGEST")
]
_PREFER_OPTIONS: dict[str, Any] = {
    "prefer": Annotated[
        PreferredBy | None,
        typer.Option(help="What decides within the budget; else params with --min-acc, accuracy without."),
    ],
    "best": Annotated[bool, typer.Option("--best", help="The most accurate within the budget: --prefer accuracy.")],
}
Reference = Annotated[
    str | None, typer.Argument(help="Digest, digest prefix, name or alias, instead of a budget.", metavar="ID")
]


def _with_budget(command: Callable[..., None], *, prefers: bool = True) -> Callable[..., None]:
    """Gives a command the options of a budget, which it receives as its parameter `budget`."""
    options = _BUDGET_OPTIONS | (_PREFER_OPTIONS if prefers else {})

    @wraps(command)
    def wrapped(**given: Any) -> None:
        budget = _budget({name: given.pop(name, None) for name in options})
        command(budget=budget, **given)

    own = inspect.signature(command, eval_str=True)
    parameters = [parameter for name, parameter in own.parameters.items() if name != "budget"]
    parameters += [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=False if name == "best" else None,
            annotation=option,
        )
        for name, option in options.items()
    ]
    # What typer reads: the signature for names and defaults, the annotations for types.
    wrapped.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapped


@app.command(name="list", epilog="Example: zoo list --zoo my-zoo --min-acc 0.8 --json")
@_with_budget
def list_(
    budget: Budget,
    file_format: FormatOption = Format.safetensors,
    zoo: ZooOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the checkpoints within a budget: the one that would be chosen first.

    That is the smallest with --min-acc, else the most accurate; --prefer
    says otherwise.
    """
    source = _source(zoo, url, token)
    budget = _with_format(budget, file_format)
    views = source.models(budget)
    if as_json:
        _print_json([view.model_dump(mode="json") for view in views])
    if not views and budget.is_filtered():
        source.choose(budget)  # raises: says what is nearest
    if not as_json:
        _print_table(_table(views, file_format))
        if views:
            _say_why(budget)


def _table(views: list[CheckpointView], file_format: Format) -> Table:
    table = Table("id", "name", "params", "MACs", "bytes", "ms", "accuracy", "95 % interval", "distilled", box=None)
    for view in views:
        interval = "–".join(f"{end:.3f}" for end in view.accuracy_ci95 or ())
        accuracy = "" if view.accuracy is None else f"{view.accuracy:.4f}"
        latency = "" if view.latency_ms is None else f"{view.latency_ms:.3f}"
        size_bytes = view.bytes if file_format is Format.safetensors else view.onnx_bytes
        costs = (f"{view.params:,}", f"{view.macs:,}", "" if size_bytes is None else f"{size_bytes:,}", latency)
        distilled = "" if view.distilled_from is None else f"by {view.distilled_from[:8]}"
        table.add_row(view.id[:12], view.name, *costs, accuracy, interval, distilled)
    return table


def _say_why(budget: Budget) -> None:
    """Why the chosen one, or the first of a list, is what it is; in every command and server the same words."""
    typer.echo(f"chosen: {budget.because()}", err=True)


@app.command(epilog="Example: zoo datasets --zoo my-zoo")
def datasets(
    zoo: ZooOption = None, url: UrlOption = None, token: TokenOption = None, as_json: JsonOption = False
) -> None:
    """List the data sets of which there is a checkpoint to choose."""
    views = _source(zoo, url, token).datasets()
    if as_json:
        _print_json([view.model_dump(mode="json") for view in views])
        return
    table = Table("data set", "checkpoints", "classes", "best accuracy", "", box=None)
    for view in views:
        accuracy = "" if view.best_accuracy is None else f"{view.best_accuracy:.4f}"
        table.add_row(view.name, f"{view.checkpoints:,}", f"{view.classes:,}", accuracy, "default" * view.default)
    _print_table(table)


@app.command(epilog="Example: zoo show best --zoo my-zoo")
@_with_budget
def show(
    budget: Budget,
    reference: Reference = None,
    file_format: FormatOption = Format.safetensors,
    zoo: ZooOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the checkpoint that a budget chooses, or the one named; with --json its whole descriptor too."""
    source = _source(zoo, url, token)
    budget = _with_format(budget, file_format)
    detail = source.show(_choose(source, reference, budget).id, None)
    if reference is None:
        _say_why(budget)
    if as_json:
        _print_json(detail.model_dump(mode="json"))
        return
    for name, value in _facts(detail):
        typer.echo(f"{name:13}  {value}")


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
        ("images", f"{size}, {descriptor.preprocessing.color}"),
        ("classes", f"{len(detail.classes)}: {_some(detail.classes)}"),
        ("params", f"{detail.params:,}"),
        ("MACs", f"{detail.macs:,}"),
        ("bytes", f"{detail.bytes:,}" + ("" if detail.onnx_bytes is None else f", {detail.onnx_bytes:,} as ONNX")),
        ("memory", "unknown" if detail.ram_bytes is None else f"{detail.ram_bytes:,} bytes for one image, estimated"),
        ("ms", unmeasured if detail.latency_ms is None else f"{detail.latency_ms:.3f}"),
        ("accuracy", _accuracy(detail)),
        ("95 % interval", "–".join(f"{end:.4f}" for end in detail.accuracy_ci95 or ()) or "unknown"),
        ("validation", f"{metrics.validation.accuracy:.4f} of {metrics.validation.n:,} images"),
        ("run", f"{lineage.run}, seed {lineage.seed}, epoch {lineage.epoch}{annealed}"),
        ("expansions", _expansions(lineage.expansions)),
        ("trained", f"{descriptor.cost.device_seconds:,.0f} s on {descriptor.cost.device}"),
        ("parent", detail.parent or "none"),
        ("distilled", "no" if detail.distilled_from is None else f"by {detail.distilled_from}"),
        ("aliases", ", ".join(detail.aliases) or "none"),
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


@app.command(epilog="Example: zoo get --zoo my-zoo --min-acc 0.8 -o small.onnx --format onnx")
@_with_budget
def get(
    budget: Budget,
    reference: Reference = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to; without it the checkpoint's name.", metavar="FILE")
    ] = None,
    file_format: FormatOption = Format.safetensors,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is another one.")] = False,
    zoo: ZooOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the checkpoint that a budget chooses, or the one named, to a file.

    With --min-acc that is the smallest that reaches it, else the most accurate
    one within the bounds; --prefer says otherwise.
    """
    source = _source(zoo, url, token)
    budget = _with_format(budget, file_format)
    view = _choose(source, reference, budget)
    target = output or Path(f"{view.name}.{file_format}")
    try:
        size_bytes = _fetch(source, view, file_format.value, target, force=force)
    except OSError as error:
        _fail(f"{target} cannot be written: {error}")
    if as_json:
        why = {"because": budget.because()} if reference is None else {}
        _print_json({**view.model_dump(mode="json"), **why, "output": str(target)})
    else:
        typer.echo(str(target))
        typer.echo(f"{_described(view)}, {size_bytes:,} bytes", err=True)
    if reference is None:
        _say_why(budget)


@app.command(epilog="Example: zoo predict frog.png --zoo my-zoo --min-acc 0.8")
@_with_budget
def predict(
    budget: Budget,
    images: Annotated[
        list[str], typer.Argument(help="Image files, folders of them, or - for standard input.", metavar="IMAGE…")
    ],
    model: Annotated[str | None, typer.Option(help="Digest, name or alias, instead of a budget.", metavar="ID")] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Classes to name for each image.")] = 5,
    policy: Annotated[
        Policy, typer.Option(help="cascade: a small checkpoint first, a larger one where it is unsure.")
    ] = Policy.single,
    zoo: ZooOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Classify images with the checkpoint that a budget chooses, or with the one named.

    With --min-acc the smallest that reaches it is chosen, else the most
    accurate one within the bounds; --prefer says otherwise.
    With --policy cascade, which takes --min-acc alone: small checkpoints first,
    for fewer MACs at that accuracy. `zoo calibrate --data` finds the cascades.
    A file that is no image is named, the others are answered; exits with 1.
    """
    source = _source(zoo, url, token)
    if policy is Policy.cascade:
        _refuse_more_than_accuracy(model, budget)
    view = None if policy is Policy.cascade else _choose(source, model, budget)
    names = image_arguments.paths(images, lambda line: typer.echo(line, err=True))
    if view is None:
        facts: dict[str, Any] = {"policy": policy.value}
        who = f"a cascade with accuracy {budget.min_acc} or more"
        answers = image_arguments.answers(names, lambda files: source.predict_by_cascade(budget, files, top_k))
    else:
        facts = {"model": {"id": view.id, "name": view.name, "params": view.params, "accuracy": view.accuracy}}
        facts |= {"because": budget.because() if model is None else None}
        who = _described(view) + (f"\nchosen: {budget.because()}" if model is None else "")
        answers = image_arguments.answers(names, lambda files: source.predict(view.id, files, top_k))
    if not (_predictions_as_json(facts, answers) if as_json else _predictions_as_lines(who, answers)):
        raise typer.Exit(1)


def _predictions_as_lines(who: str, answers: Iterable[Answer]) -> bool:
    """As they come: those on stdout, `who` answers and files without any on stderr. Whether all have some."""
    answered = failed = 0
    for answer in answers:
        if answer.predictions is None:
            failed += 1
            typer.echo(f"zoo: {answer.name}: {answer.error}", err=True)
        else:
            if not answered:
                typer.echo(who, err=True)
            answered += 1
            typer.echo(f"{answer.name}  " + "  ".join(f"{item.label} {item.score:.3f}" for item in answer.predictions))
    return not failed


def _predictions_as_json(facts: dict[str, Any], answers: Iterable[Answer]) -> bool:
    """One object, written as its parts come; `files` names the images of `predictions`, in their order."""
    files: list[str] = []
    failed: list[dict[str, str]] = []
    typer.echo(_json(facts).removesuffix("\n}") + ',\n  "predictions": [', nl=False)
    for answer in answers:
        if answer.predictions is None:
            failed.append({"file": answer.name, "error": answer.error})
            typer.echo(f"zoo: {answer.name}: {answer.error}", err=True)
        else:
            row = _json([item.model_dump() for item in answer.predictions], indent=None)
            typer.echo(f"{',' if files else ''}\n    {row}", nl=False)
            files.append(answer.name)
    rest = _json({"files": files, "failed": failed}).removeprefix("{")
    typer.echo(f"\n  ],{rest}")
    return not failed


def _refuse_more_than_accuracy(model: str | None, budget: Budget) -> None:
    """Cascades were found for one question only."""
    if model is not None or budget.bounds() != {"min_acc"} or budget.dataset == ALL_DATASETS:
        _fail("--policy cascade takes --min-acc, and --dataset if it is not the default one; nothing else")


@app.command(epilog="Example: zoo verify --zoo my-zoo --data cifar10.tar.gz")
@partial(_with_budget, prefers=False)
def verify(
    budget: Budget,
    data: Annotated[
        str | None,
        typer.Option(
            help="Measure test accuracy again on these images: a directory or .tar.gz of "
            "{train,test}/<class>/<image>, or digits.",
            metavar="PATH|NAME",
        ),
    ] = None,
    skip_bad: SkipBadOption = False,
    zoo: ZooOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read every checkpoint whole: digest, descriptor, tensors, finite weights, a first answer.

    Without a budget also the files that the catalog leaves out.
    With --data, a checkpoint of that data set must get exactly as many test
    images right as it says; --dataset names the data set if the path does not.
    Exits with 1 if one fails.
    """
    source = _source(zoo, url, token)
    images = HeldOutImages(data, skip_bad=skip_bad) if data else None
    for finding in images.findings if images else ():
        typer.echo(f"{data}: warning: {finding}", err=True)
    if images and budget.is_bounded() and budget.dataset is None:
        budget = budget.model_copy(update={"dataset": images.name})
    wanted = {view.id for view in source.models(budget)} if budget.is_filtered() else None
    results, num_measured = [], 0
    for digest, found in source.verified():
        if wanted is not None and digest not in wanted:
            continue
        is_measured = images is not None and _is_of(found, budget.dataset, images)
        num_measured += is_measured
        result = _verified(digest, found, images if is_measured else None)
        results.append(result)
        if not as_json:
            typer.echo(f"{result['status']:8}{digest[:12]}  {result['detail']}")
    if as_json:
        _print_json(results)
    if images and not num_measured:
        _fail(f"{data} holds images of {images.name}, and no checkpoint is of that data set; --dataset names another")
    if not all(result["ok"] for result in results):
        raise typer.Exit(1)


@app.command(epilog="Example: zoo reindex --zoo my-zoo")
def reindex(zoo: ZooOption = None, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Rebuild the catalog from the files alone."""
    if url is not None or not zoo:
        _fail("reindex works on directories: give --zoo DIR (a server follows its own directories)")
    count = LocalZoo(zoo).reindex()
    if as_json:
        _print_json({"count": count})
    else:
        typer.echo(f"{count} checkpoints")


@app.command(epilog="Examples: zoo calibrate --zoo my-zoo; zoo calibrate --zoo my-zoo --data cifar10.tar.gz")
def calibrate(
    data: Annotated[
        str | None,
        typer.Option(
            help="Find cascades, with the validation images among these: a directory or .tar.gz of "
            "{train,test}/<class>/<image>, or digits.",
            metavar="PATH|NAME",
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Only this data set; with --data where the path does not name it.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Without --data: turns of ten images for each checkpoint.")] = 50,
    skip_bad: SkipBadOption = False,
    zoo: ZooOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how long each checkpoint takes here, for --max-latency-ms; or, with --data, find cascades.

    A cascade asks a small checkpoint first, and a larger one where it is
    unsure: a server's policy=cascade, same accuracy for fewer MACs.
    Give the directories that zoo-serve is given, in the same order; a running
    server follows within a second. Latencies count on this machine only.
    """
    if url is not None or not zoo:
        _fail("calibrate works on directories: give --zoo DIR, as to zoo-serve (a server follows within a second)")
    local = LocalZoo(zoo)
    local.sync()
    if data is None:
        _calibrate_latencies(local, dataset, rounds, as_json=as_json)
    else:
        found = _find_cascades(local, data, dataset, skip_bad=skip_bad)
        _show_cascades(found, local.rows(Budget(dataset=found.dataset, min_acc=0.0)), as_json=as_json)


def _find_cascades(zoo: LocalZoo, data: str, dataset: str | None, *, skip_bad: bool = False) -> Calibration:
    name = dataset or name_of(Path(data))
    return calibrate_cascades(zoo, data, name, observe=lambda line: typer.echo(line, err=True), skip_bad=skip_bad)


def _calibrate_latencies(zoo: LocalZoo, dataset: str | None, rounds: int, *, as_json: bool) -> None:
    rows = zoo.rows(Budget(dataset=dataset or ALL_DATASETS, prefer="params"))
    if not rows:
        _fail(f"no checkpoint of data set {dataset}" if dataset else "the zoo holds no checkpoint")
    latencies = measure_latencies(zoo, [row.digest for row in rows], rounds)
    if as_json:
        _print_json([latency.model_dump() for latency in latencies])
        return
    typer.echo(f"{device_name()}; one image, {latencies[0].num_runs} runs each", err=True)
    table = Table("id", "name", "params", "MACs", "median ms", "95 % within ms", box=None)
    for row, latency in zip(rows, latencies, strict=True):
        costs = (f"{row.params:,}", f"{row.macs:,}", f"{latency.median_ms:.3f}", f"{latency.p95_ms:.3f}")
        table.add_row(row.digest[:12], row.name, *costs)
    _print_table(table)


def _show_cascades(calibration: Calibration, rows: list[CheckpointRow], *, as_json: bool) -> None:
    """What each whole percent of accuracy costs: the cheapest checkpoint that reaches it, and the cheapest cascade."""
    if as_json:
        _print_json(calibration.model_dump())
        return
    cascades = calibration.cascades
    typer.echo(
        f"{len(cascades)} cascades of data set {calibration.dataset}, found on {calibration.num_images:,} "
        "validation images",
        err=True,
    )
    params = {row.digest: row.params for row in rows}
    table = Table("accuracy", "MACs alone", "mean MACs", "saved", "parameters of the stages (threshold)", box=None)
    for percent in range(101):
        wanted = percent / 100
        if not cascades[0].accuracy <= wanted <= cascades[-1].accuracy:
            continue
        best = next(cascade for cascade in cascades if cascade.accuracy >= wanted)
        # None where a cascade is better than the best checkpoint.
        alone = min((row.macs for row in rows if (row.accuracy or 0.0) >= wanted), default=None)
        compared = ("", "") if alone is None else (f"{alone:,}", f"{1 - best.macs / alone:.0%}")
        table.add_row(f"{wanted:.2f}", compared[0], f"{best.macs:,.0f}", compared[1], best.described(params))
    _print_table(table)


@app.command(name="publish", epilog="Example: zoo publish mine.safetensors --url http://127.0.0.1:8000")
def publish_(
    files: Annotated[list[Path], typer.Argument(help="Checkpoint files.", metavar="FILE…")],
    zoo: ZooOption = None,
    url: UrlOption = None,
    token: PublishTokenOption = None,
    stage: Annotated[bool, typer.Option("--stage", help="Found by digest alone, until `zoo promote`.")] = False,
    data: Annotated[
        str | None,
        typer.Option(help="Then find cascades with these images, as calibrate --data does.", metavar="PATH|NAME"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Add checkpoints to a zoo, once they are found to be whole and valid."""
    source = _source(zoo, url, token)
    if data is not None and not isinstance(source, LocalSource):
        _fail("--data finds cascades in directories: give --zoo DIR, or run calibrate beside the server")
    views = [source.publish(_checkpoint_file(file), stage) for file in files]
    if data is not None:
        assert isinstance(source, LocalSource)
        for dataset in sorted({view.dataset for view in views}):
            _find_cascades(source.zoo, data, dataset)
    if as_json:
        _print_json([view.model_dump(mode="json") for view in views])
    else:
        for view in views:
            typer.echo(f"{view.id}  {view.name}")


def _checkpoint_file(path: Path) -> bytes:
    """Its bytes, which are checked where they are published; what is something else altogether is named here."""
    if path.is_dir():
        _fail(f"{path} is a folder: give the checkpoints in it, {path}/checkpoints/*.safetensors")
    data = path.read_bytes()
    if data[8:9] != b"{":
        kind = "an ONNX file, which is made from a checkpoint" if path.suffix == ".onnx" else f"{len(data):,} bytes"
        _fail(f"{path}: a checkpoint is a safetensors file, not {kind}")
    return data


@app.command(epilog="Examples: zoo alias stable 7d2431d99a4e --zoo my-zoo; zoo alias stable --remove --zoo my-zoo")
def alias(
    name: Annotated[str, typer.Argument(help="The alias.", metavar="ALIAS")],
    reference: Annotated[str | None, typer.Argument(help="Digest, digest prefix, name or alias.", metavar="ID")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the alias away.")] = False,
    dataset: DatasetOption = None,
    zoo: ZooOption = None,
    url: UrlOption = None,
    token: PublishTokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Name a checkpoint; in the same step no other of its data set has the alias any longer."""
    if remove == (reference is not None):
        _fail("give the ID of the checkpoint to name, or --remove")
    source = _source(zoo, url, token)
    if reference is None:
        source.zoo.unalias(name, dataset=dataset)
    else:
        _show_changed(source.zoo.alias(name, reference, dataset=dataset), as_json=as_json)


@app.command(epilog="Example: zoo deprecate 7d2431d99a4e --zoo my-zoo")
def deprecate(
    reference: Named,
    dataset: DatasetOption = None,
    zoo: ZooOption = None,
    url: UrlOption = None,
    token: PublishTokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a checkpoint found by name, but chosen by no budget and no computed alias."""
    _show_changed(_source(zoo, url, token).zoo.deprecate(reference, dataset=dataset), as_json=as_json)


@app.command(epilog="Example: zoo undeprecate 7d2431d99a4e --zoo my-zoo")
def undeprecate(
    reference: Named,
    dataset: DatasetOption = None,
    zoo: ZooOption = None,
    url: UrlOption = None,
    token: PublishTokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a deprecated checkpoint chosen again."""
    _show_changed(_source(zoo, url, token).zoo.undeprecate(reference, dataset=dataset), as_json=as_json)


@app.command(epilog="Example: zoo stage 7d2431d99a4e --zoo my-zoo")
def stage(
    reference: Named,
    dataset: DatasetOption = None,
    zoo: ZooOption = None,
    url: UrlOption = None,
    token: PublishTokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a checkpoint found by its digest alone, until it is promoted; `zoo publish --stage` begins so."""
    _show_changed(_source(zoo, url, token).zoo.stage(reference, dataset=dataset), as_json=as_json)


@app.command(epilog="Example: zoo promote 7d2431d99a4e --zoo my-zoo")
def promote(
    reference: Named,
    dataset: DatasetOption = None,
    zoo: ZooOption = None,
    url: UrlOption = None,
    token: PublishTokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a staged checkpoint chosen by budgets and found by name."""
    _show_changed(_source(zoo, url, token).zoo.promote(reference, dataset=dataset), as_json=as_json)


@app.command(epilog="Example: zoo delete <digest> --zoo my-zoo")
def delete(digest: Whole, zoo: ZooOption = None, url: UrlOption = None, token: PublishTokenOption = None) -> None:
    """Take a checkpoint out of the zoo; its file stays until `zoo gc`, `zoo undelete` brings it back until then."""
    _source(zoo, url, token).zoo.delete(digest)


@app.command(epilog="Example: zoo undelete <digest> --zoo my-zoo")
def undelete(
    digest: Whole,
    zoo: ZooOption = None,
    url: UrlOption = None,
    token: PublishTokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a deleted checkpoint back, as long as `zoo gc` has not deleted its file."""
    _show_changed(_source(zoo, url, token).zoo.undelete(digest), as_json=as_json)


def _show_changed(view: CheckpointView, *, as_json: bool) -> None:
    if as_json:
        _print_json(view.model_dump(mode="json"))
    else:
        typer.echo(f"{view.id}  {view.name}")


@app.command(name="gc", epilog="Example: zoo gc --zoo my-zoo --dry-run")
def collect_garbage(
    zoo: ZooOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete the files of deleted checkpoints, and what unfinished writes left more than a day ago."""
    if not zoo:
        _fail("give --zoo DIR")
    for root in zoo:  # without a catalog, for which a full disk may have no room
        if not root.is_dir():
            _fail(f"{root}: no such zoo directory")
    found = list(garbage(zoo)) if dry_run else collect(zoo)
    if as_json:
        _print_json([{"path": str(item.path), "bytes": item.size_bytes, "reason": item.reason} for item in found])
    else:
        for item in found:
            typer.echo(f"{item.size_bytes:>12,}  {item.path}  {item.reason}")


def _is_of(found: Checkpoint | ZooError, dataset: str | None, images: HeldOutImages) -> bool:
    """Whether to measure it: all of the data set that is asked for, else those whose data set is called as the images.

    Of one that is kept apart from another of its name, files do not know what it is called here.
    """
    is_asked_for = dataset not in (None, ALL_DATASETS)
    return isinstance(found, Checkpoint) and (is_asked_for or found.descriptor.dataset.name == images.name)


def _verified(digest: str, found: Checkpoint | ZooError, images: HeldOutImages | None) -> dict[str, Any]:
    """`images`: what to measure its test accuracy on."""
    try:
        if isinstance(found, ZooError):
            raise found
        return {"id": digest, "ok": True, "status": "ok", **_checked(found, images)}
    except ZooError as error:
        return {"id": digest, "ok": False, "status": "FAILED", "detail": str(error)}


def _checked(checkpoint: Checkpoint, images: HeldOutImages | None) -> dict[str, Any]:
    """Raises ZooError where it is not what it should be."""
    name = checkpoint.descriptor.name
    predictor = Predictor(checkpoint)
    scores = predictor.probabilities(np.full((1, *predictor.image_shape), 128, dtype=np.uint8))
    if not np.isfinite(scores).all():
        raise CheckpointError(f"{name}: scores are not finite")
    if images is None:
        params = num_params(checkpoint.descriptor.architecture.graph())
        return {"detail": f"{name}: {params:,} parameters, {len(onnx_model.build(checkpoint)):,} bytes as ONNX"}
    measurement = measure(checkpoint, images)
    differs = {}
    if measurement.same_images is False:
        differs = {"ok": False, "status": "other"}
    elif not measurement.agrees:
        differs = {"ok": False, "status": "differs"}
    return {**differs, "detail": f"{name}: {measurement}", "measured": asdict(measurement)}


def _source(zoo: list[Path] | None, url: str | None, token: str | None) -> Source:
    if bool(zoo) == bool(url):
        _fail("give either --zoo DIR or --url URL")
    return LocalSource(zoo) if zoo else RemoteSource(str(url), token)


def _fetch(source: Source, view: CheckpointView, file_format: FileFormat, target: Path, *, force: bool) -> int:
    """Writes the file, with a bar for who watches, and returns its size. Raises OSError where it cannot be written.

    Without `force` it replaces no other file.
    """
    terminal = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as bar:
        task = bar.add_task(view.name, total=None)

        size_bytes = 0

        def show_progress(received: int, total: int | None) -> None:
            nonlocal size_bytes
            size_bytes = received
            bar.update(task, completed=received, total=total)

        # An empty one is where > file -o /dev/stdout leads.
        if not force and target.is_file() and target.stat().st_size > 0:
            with TemporaryDirectory() as folder:
                source.download(view.id, whole := Path(folder) / view.id, file_format, show_progress)
                if not filecmp.cmp(whole, target, shallow=False):
                    _fail(f"{target} is there already, and another file: --force replaces it, -o names another")
                return size_bytes
        # What a link leads to is replaced, not the link; of /dev/stdout or a pipe there is no such place.
        source.download(view.id, target if is_special(target) else target.resolve(), file_format, show_progress)
        return size_bytes or target.stat().st_size


def _choose(source: Source, reference: str | None, budget: Budget) -> CheckpointView:
    if reference is None:
        return source.choose(budget)
    if budget.is_bounded():
        _fail(f"{reference} names one checkpoint: give it or a budget, not both")
    return source.show(reference, budget.dataset)


def _described(view: CheckpointView) -> str:
    accuracy = "unknown accuracy" if view.accuracy is None else f"accuracy {view.accuracy:.4f}"
    return f"{view.name}: {view.params:,} parameters, {accuracy}"


def _with_format(budget: Budget, file_format: Format) -> Budget:
    return budget.model_copy(update={"format": file_format.value})


def _budget(options: dict[str, Any]) -> Budget:
    if options.pop("best", False):
        if options["prefer"] not in (None, "accuracy"):
            _fail(f"--best is --prefer accuracy: give it or --prefer {options['prefer']}, not both")
        options["prefer"] = "accuracy"
    try:
        return Budget(**options)
    except ValidationError as error:
        _fail("; ".join(_option(item) for item in error.errors()))


def _option(item: Any) -> str:
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"--{str(item['loc'][0]).replace('_', '-')}: {message}" if item["loc"] else message


def _print_table(table: Table) -> None:
    """Wide enough for a pipe, where rich would otherwise cut lines at 80."""
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _print_json(value: object) -> None:
    typer.echo(_json(value))


def _json(value: object, indent: int | None = 2) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=not terminal.is_unicode())


def _fail(message: str) -> NoReturn:
    typer.echo(f"zoo: {message}", err=True)
    raise typer.Exit(1)


def main() -> None:
    """The installed command: an error of the zoo is one line on stderr, as is each change of a zoo."""
    audit_log = logging.StreamHandler()
    audit_log.setFormatter(audit.Formatter())
    logging.getLogger("zoo.audit").addHandler(audit_log)
    logging.getLogger("zoo.audit").setLevel(logging.INFO)
    try:
        app()
    except (ZooError, OSError, SQLAlchemyError) as error:
        wanted = isinstance(error, RemoteError) and error.status == HTTPStatus.UNAUTHORIZED
        hint = "; give it with --token, or in ZOO_TOKEN (to publish: ZOO_PUBLISH_TOKEN)" if wanted else ""
        typer.echo(f"zoo: {error}{hint}", err=True)
        sys.exit(1)
