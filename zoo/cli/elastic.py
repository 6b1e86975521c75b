"""zoo upgrade, extract, pack: elastic files, which hold several sizes of one network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.options import JsonOption, budget_of, with_remote_or_local_zoo
from zoo.cli.output import described, fail, print_json, say_written, target_of
from zoo.protocol import Zoo
from zoo.store.directory import write_atomically

app = typer.Typer()

ElasticFile = Annotated[Path, typer.Argument(help="An elastic file.", metavar="FILE")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Where to; - is standard output.", metavar="FILE")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is another one.")]


@app.command(epilog="Example: zoo upgrade net.safetensors --url http://127.0.0.1:8000 --min-acc 0.86")
@with_remote_or_local_zoo
def upgrade(
    zoo: Zoo,
    file: ElasticFile,
    min_acc: Annotated[
        float | None, typer.Option(help="Up to the smallest level with this accuracy; without it all of them.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch the next levels of a file that `zoo get --upgradable` wrote; only what is missing, checked."""
    budget_of(min_acc=min_acc)
    before = file.read_bytes()
    view = zoo.upgrade(file, min_acc=min_acc)
    after = file.read_bytes()
    added = len(after) - len(before)
    if as_json:
        print_json({**view.model_dump(mode="json"), "output": str(file), "bytes_added": added})
    else:
        typer.echo(str(file))
        if after == before:
            told = ": is there"
        else:
            told = f"; {added:,} bytes added" if after.startswith(before) else "; fetched again, as it was damaged"
        typer.echo(f"{described(view)}{told}", err=True)


@app.command(epilog="Example: zoo extract net.safetensors --level 1 -o small.safetensors")
def extract(
    file: ElasticFile,
    level: Annotated[int, typer.Option(help="Which size, from 0, the smallest.")],
    output: Output,
    force: Force = False,
) -> None:
    """Write one level of an elastic file as the ordinary checkpoint that it is.

    The beginning of a file will do, if it holds the level; `zoo list --file` lists those.
    """
    from zoo.checkpoint.elastic import ElasticFile as Opened

    with file.open("rb") as opened:
        _write(output, Opened(opened, file.name).extract(level), force=force)


@app.command(epilog="Example: zoo pack small.safetensors large.safetensors -o net.safetensors")
def pack(
    files: Annotated[list[Path], typer.Argument(help="Checkpoint files, the smallest first.", metavar="FILE…")],
    output: Output,
    force: Force = False,
) -> None:
    """Put checkpoints of which each lies within the next into one elastic file; refused where they do not."""
    from zoo.checkpoint.elastic import pack as packed

    _write(output, packed([file.read_bytes() for file in files]), force=force)


def _write(output: Path, data: bytes, *, force: bool) -> None:
    target = target_of(output)
    if not force and target.is_file() and target.read_bytes() not in (b"", data):
        fail(f"{target} is there already, and another file: --force replaces it, -o names another")
    write_atomically(target, data)
    say_written(target)
    typer.echo(f"{len(data):,} bytes", err=True)
