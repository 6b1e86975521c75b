"""`zoo-train check`: what would be read of a folder of images, and what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.commands.options import MAX_IMAGE_SIZE, refuse
from zoo.errors import DataError

if TYPE_CHECKING:
    from zoo.images.check import Report

_SPLITS = ("train", "validation", "test")


def check_folder(
    data: Annotated[Path, typer.Argument(help="A directory or an archive of images.", metavar="DIR")],
    test_share: Annotated[
        float | None, typer.Option(help="Of a folder without test images; without it 0.2.", min=0, max=1)
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="As the run would have it.", min=8, max=MAX_IMAGE_SIZE)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, all names, as JSON.")] = False,
) -> None:
    """Look at a folder of images before training on it: counts, sizes, what is left out, damaged files, duplicates.

    Exits with 1 where something is wrong: nothing that can be read, damaged files, test images among the training
    images, a class without images for training or for the test.
    """
    from zoo.images.check import check  # with Pillow, for which --help need not wait

    try:
        report = check(data, test_share=test_share, image_size=image_size)
    except (DataError, OSError) as error:
        if not as_json:
            refuse(Console(stderr=True), error)
        typer.echo(json.dumps({"problems": [str(error)]}))
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps(asdict(report), ensure_ascii=False, indent=2))
    else:
        _show(Console(), report)
    raise typer.Exit(1 if report.problems else 0)


def _show(console: Console, report: Report) -> None:
    table = Table(title=report.name, title_justify="left")
    table.add_column("class")
    for split in _SPLITS:
        table.add_column(split, justify="right")
    for label, counts in report.counts.items():
        table.add_row(Text(label), *(f"{counts[split]:,}" for split in _SPLITS))
    totals = (sum(counts[split] for counts in report.counts.values()) for split in _SPLITS)
    table.add_section()
    table.add_row("all", *(f"{total:,}" for total in totals))
    console.print(table)
    for style, sentences in (
        ("", (report.summary, report.sizes)),
        ("yellow", report.remarks),
        ("red", report.problems),
    ):
        for sentence in sentences:
            console.print(Text(sentence, style=style), soft_wrap=True)
    console.print("something is wrong" if report.problems else "nothing is wrong")
