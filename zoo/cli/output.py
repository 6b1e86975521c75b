"""How commands say things: data on stdout, the rest on stderr."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from zoo.catalog.views import AnsweredBy, CheckpointView
from zoo.choosing.budget import Budget
from zoo.cli import terminal

STDOUT = Path("/dev/stdout")
# How Python has the bytes of a file name that are no UTF-8.
_NO_TEXT = re.compile("[\ud800-\udfff]")


def print_table(table: Table) -> None:
    """Wide enough for a pipe, where rich would otherwise cut lines at 80."""
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def print_json(value: object) -> None:
    typer.echo(as_text(value))


def as_text(value: object, indent: int | None = 2) -> str:
    """JSON as the terminal can have it, models as it shows them; names of files that are no text are escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=not terminal.is_unicode(), default=_as_json)
    return _NO_TEXT.sub(lambda byte: f"\\u{ord(byte[0]):04x}", text)


def _as_json(value: BaseModel) -> dict[str, Any]:
    return value.model_dump(mode="json")


def target_of(output: Path) -> Path:
    """Where -o leads; - is standard output, as elsewhere."""
    return STDOUT if str(output) == "-" else output


def say_written(target: Path) -> None:
    """Where the file is, unless it is on standard output already."""
    if target != STDOUT:
        typer.echo(str(target))


def plain(text: str) -> str:
    """What a file says, for a terminal: escapes in place of what would move its cursor or recolour what follows."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say_why(budget: Budget) -> None:
    """Why the chosen one, or the first of a list, is what it is; in every command and server the same words."""
    typer.echo(f"chosen: {budget.because()}", err=True)


def described(view: CheckpointView | AnsweredBy) -> str:
    accuracy = "unknown accuracy" if view.accuracy is None else f"accuracy {view.accuracy:.4f}"
    return f"{view.name}: {view.params:,} parameters, {accuracy}"


def fail(message: str) -> NoReturn:
    typer.echo(f"zoo: {message}", err=True)
    raise typer.Exit(1)
