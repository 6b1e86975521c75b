"""What several commands take: a zoo, a budget, a format."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from pydantic import ValidationError

from zoo.catalog.views import CheckpointView
from zoo.choosing.budget import Budget, Preference
from zoo.cli.output import fail
from zoo.cli.source import LocalSource, RemoteSource, Source


class Format(StrEnum):
    safetensors = "safetensors"
    onnx = "onnx"


PreferredBy = StrEnum("PreferredBy", {name: name for name in get_args(Preference)})  # type: ignore[misc]


ZooOption = Annotated[list[Path] | None, typer.Option(help="Zoo directory; give it again for several.", metavar="DIR")]


UrlOption = Annotated[str | None, typer.Option(help="A zoo server, instead of a directory.", metavar="URL")]


TokenOption = Annotated[str | None, typer.Option(help="The server's token.", envvar="ZOO_TOKEN", show_envvar=True)]


PublishTokenOption = Annotated[
    str | None,
    typer.Option(help="The server's token for publishing.", envvar="ZOO_PUBLISH_TOKEN", show_envvar=True),
]


DatasetOption = Annotated[str | None, typer.Option(help="Whose alias or name is meant; the default one without it.")]


SkipBadOption = Annotated[
    bool, typer.Option("--skip-bad", help="With --data: leave out images that cannot be read, as zoo-train does.")
]


FormatOption = Annotated[Format, typer.Option("--format", help="The file, also for --max-bytes.")]


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


Reference = Annotated[
    str | None, typer.Argument(help="Digest, digest prefix, name or alias, instead of a budget.", metavar="ID")
]


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


_PREFER_OPTIONS: dict[str, Any] = {
    "prefer": Annotated[
        PreferredBy | None,
        typer.Option(help="What decides within the budget; else params with --min-acc, accuracy without."),
    ],
    "best": Annotated[bool, typer.Option("--best", help="The most accurate within the budget: --prefer accuracy.")],
}


def with_budget(command: Callable[..., None], *, prefers: bool = True) -> Callable[..., None]:
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


def _budget(options: dict[str, Any]) -> Budget:
    if options.pop("best", False):
        if options["prefer"] not in (None, "accuracy"):
            fail(f"--best is --prefer accuracy: give it or --prefer {options['prefer']}, not both")
        options["prefer"] = "accuracy"
    try:
        return Budget(**options)
    except ValidationError as error:
        fail("; ".join(_option(item) for item in error.errors()))


def _option(item: Any) -> str:
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"--{str(item['loc'][0]).replace('_', '-')}: {message}" if item["loc"] else message


def with_format(budget: Budget, file_format: Format) -> Budget:
    return budget.model_copy(update={"format": file_format.value})


def source_of(zoo: list[Path] | None, url: str | None, token: str | None) -> Source:
    if bool(zoo) == bool(url):
        fail("give either --zoo DIR or --url URL")
    return LocalSource(zoo) if zoo else RemoteSource(str(url), token)


def chosen(source: Source, reference: str | None, budget: Budget) -> CheckpointView:
    if reference is None:
        return source.choose(budget)
    if budget.is_bounded():
        fail(f"{reference} names one checkpoint: give it or a budget, not both")
    return source.show(reference, budget.dataset)
