"""zoo get, predict: a checkpoint as a file, and asked about images."""

from __future__ import annotations

import filecmp
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from zoo.catalog.levels import first_level, require_beginning
from zoo.catalog.views import AnsweredBy, CheckpointView
from zoo.choosing.budget import Budget, FileFormat
from zoo.choosing.policy import MAX_TOP_K, check
from zoo.cli import image_arguments
from zoo.cli.image_arguments import Answer
from zoo.cli.options import JsonOption, Reference, chosen, with_budget, with_budget_and_format, with_zoo
from zoo.cli.output import STDOUT, as_text, described, fail, plain, print_json, say_why, say_written, target_of
from zoo.protocol import Policy, PredictOptions, Zoo
from zoo.store.directory import is_special

app = typer.Typer()


@app.command(epilog="Example: zoo get --zoo my-zoo --min-acc 0.8 -o small.onnx --format onnx")
@with_zoo
@with_budget_and_format
def get(
    zoo: Zoo,
    budget: Budget,
    reference: Reference = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Where to: a file, a folder, or -; without it here, under the checkpoint's name."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is another one.")] = False,
    upgradable: Annotated[
        bool, typer.Option("--upgradable", help="The beginning of its elastic file, for `zoo upgrade`.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the checkpoint that a budget chooses, or the one named, to a file.

    With --min-acc that is the smallest that reaches it, else the most accurate
    one within the bounds; --prefer says otherwise.
    """
    view = chosen(zoo, reference, budget)
    if upgradable and reference is None:  # of levels the first that the budget allows
        view = first_level(zoo.models(**budget.given()), budget) or view
        require_beginning(view, budget)
    name = f"{view.name}.{budget.format}"
    target = Path(name) if output is None else output / name if output.is_dir() else target_of(output)
    if as_json and target == STDOUT:
        fail("give either --json or -o -: both would go to standard output")
    try:
        size_bytes = _fetch(zoo, view, budget.format, target, force=force, upgradable=upgradable)
    except OSError as error:
        fail(f"{target} cannot be written: {error}")
    if as_json:
        why = {"because": budget.because()} if reference is None else {}
        print_json({**view.model_dump(mode="json"), **why, "output": str(target)})
    else:
        say_written(target)
        typer.echo(f"{described(view)}, {size_bytes:,} bytes", err=True)
    if reference is None:
        say_why(budget)


def _fetch(
    zoo: Zoo, view: CheckpointView, file_format: FileFormat, target: Path, *, force: bool, upgradable: bool
) -> int:
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

        def fetch(to: Path) -> None:
            zoo.download(view.id, to, file_format=file_format, upgradable=upgradable, progress=show_progress)

        # An empty one is where > file -o /dev/stdout leads.
        if not force and target.is_file() and target.stat().st_size > 0:
            with TemporaryDirectory() as folder:
                fetch(whole := Path(folder) / view.id)
                if not filecmp.cmp(whole, target, shallow=False):
                    fail(f"{target} is there already, and another file: --force replaces it, -o names another")
                return size_bytes
        # What a link leads to is replaced, not the link; of /dev/stdout or a pipe there is no such place.
        fetch(target if is_special(target) else target.resolve())
        return size_bytes or target.stat().st_size


@app.command(epilog="Example: zoo predict frog.png --zoo my-zoo --min-acc 0.8")
@with_zoo
@with_budget
def predict(
    zoo: Zoo,
    budget: Budget,
    images: Annotated[
        list[str], typer.Argument(help="Image files, folders of them, or - for standard input.", metavar="IMAGE…")
    ],
    model: Annotated[
        str | None, typer.Option(help="Digest, name or alias: this one, which must meet the budget.", metavar="ID")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, max=MAX_TOP_K, help="Classes to name for each image.")] = 5,
    policy: Annotated[
        Policy,
        typer.Option(
            help="cascade: a small checkpoint first, a larger one where it is unsure. adaptive: the most accurate one "
            "that meets --deadline-ms."
        ),
    ] = "single",
    deadline_ms: Annotated[
        float | None, typer.Option(help="With --policy adaptive: in how many ms a request should be answered.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Classify images with the checkpoint that a budget chooses, or with the one named.

    With --min-acc the smallest that reaches it is chosen, else the most
    accurate one within the bounds; --prefer says otherwise.
    With --policy cascade, which takes --min-acc alone: small checkpoints first,
    for fewer MACs at that accuracy. `zoo calibrate --data` finds the cascades.
    With --policy adaptive --deadline-ms 20: the most accurate one within the
    bounds that answers in time, under the server's load or as measured here.
    A file that is no image is named, the others are answered; exits with 1.
    """
    try:
        check(policy, deadline_ms, budget, is_named=model is not None)
    except ValueError as error:
        fail(str(error))
    options: PredictOptions = {"top_k": top_k, "policy": policy, **budget.given()}
    facts: dict[str, Any] = {"policy": policy}
    told = _Told(is_shown=not as_json)
    reference, who = None, f"a cascade with accuracy {budget.min_acc} or more"
    if deadline_ms is not None:
        facts["deadline_ms"] = options["deadline_ms"] = deadline_ms
        options["told"] = told.add
        who = ""
    elif policy == "single":
        view = chosen(zoo, model, budget if model is None else Budget(dataset=budget.dataset))
        because = budget.because(model) if model is None or budget.is_bounded() else None
        named = {"id": view.id, "name": view.name, "params": view.params, "accuracy": view.accuracy}
        facts = {"model": named, "because": because}
        reference, who = view.id, described(view) + ("" if because is None else f"\nchosen: {because}")
        if model is None:
            options = {"top_k": top_k}
    names = image_arguments.paths(images, lambda line: typer.echo(line, err=True))
    answers = image_arguments.answers(names, lambda files: zoo.predict(files, reference, **options))
    if not (_predictions_as_json(facts, answers, told) if as_json else _predictions_as_lines(who, answers)):
        raise typer.Exit(1)


class _Told:
    """Which checkpoints answered with --policy adaptive, and why, batch by batch."""

    def __init__(self, *, is_shown: bool) -> None:
        self._is_shown = is_shown
        self.answered_by: list[AnsweredBy] = []

    def add(self, who: AnsweredBy) -> None:
        if who in self.answered_by[-1:]:
            return
        self.answered_by.append(who)
        if self._is_shown:
            typer.echo(f"{described(who)}\nchosen: {who.because}", err=True)


def _predictions_as_lines(who: str, answers: Iterable[Answer]) -> bool:
    """As they come: those on stdout, `who` answers and files without any on stderr. Whether all have some."""
    answered = failed = 0
    for answer in answers:
        if answer.predictions is None:
            failed += 1
            typer.echo(f"zoo: {answer.name}: {answer.error}", err=True)
        else:
            if not answered and who:
                typer.echo(who, err=True)
            answered += 1
            typer.echo(
                f"{answer.name}  " + "  ".join(f"{plain(item.label)} {item.score:.3f}" for item in answer.predictions)
            )
    return not failed


def _predictions_as_json(facts: dict[str, Any], answers: Iterable[Answer], told: _Told) -> bool:
    """One object, written as its parts come; `files` names the images of `predictions`, in their order."""
    files: list[str] = []
    failed: list[dict[str, str]] = []
    answers = iter(answers)
    first = list(islice(answers, 1))  # before anything is written: it may fail
    typer.echo(as_text(facts).removesuffix("\n}") + ',\n  "predictions": [', nl=False)
    for answer in chain(first, answers):
        if answer.predictions is None:
            failed.append({"file": answer.name, "error": answer.error})
            typer.echo(f"zoo: {answer.name}: {answer.error}", err=True)
        else:
            row = as_text(answer.predictions, indent=None)
            typer.echo(f"{',' if files else ''}\n    {row}", nl=False)
            files.append(answer.name)
    answered_by = {"answered_by": told.answered_by} if told.answered_by else {}
    rest = as_text({"files": files, **answered_by, "failed": failed}).removeprefix("{")
    typer.echo(f"\n  ],{rest}")
    return not failed
