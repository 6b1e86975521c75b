"""zoo-train report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

from trainer.commands.options import refuse, say
from zoo.errors import RunError, ZooError


def report(
    zoo: Annotated[Path, typer.Argument(help="Directory that holds the checkpoints.", metavar="ZOO")],
    out: Annotated[
        Path | None, typer.Option(help="Where to; without it ZOO/report.", metavar="DIR", show_default=False)
    ] = None,
) -> None:
    """Report on a zoo: the paper's table, budgets, cost, every checkpoint, and accuracy drawn against parameters.

    Writes report.md, a PNG and an SVG for each data set, and prints the report.
    """
    console = Console(stderr=True)
    target = out or zoo / "report"
    try:
        from trainer.report.report import write

        text = write(zoo, target)
    except (ZooError, OSError) as error:
        refuse(console, error)
    except ImportError as error:
        refuse(console, RunError(f"reports are drawn with matplotlib, of the extra `train`: {error}"))
    if sys.stdout.isatty():
        Console().print(Markdown(text))
    else:
        typer.echo(text, nl=False)
    say(console, f"written to {target}")
