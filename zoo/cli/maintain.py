"""zoo reindex, gc: what a directory needs now and then."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo.cli.options import JsonOption, UrlOption, ZooOption, library, store
from zoo.cli.output import fail, print_json
from zoo.store.directory import require_zoo

app = typer.Typer()


@app.command(epilog="Example: zoo reindex --zoo my-zoo")
def reindex(zoo: ZooOption = None, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Rebuild the catalog from the files alone."""
    if url is not None or not zoo:
        fail("reindex works on directories: give --zoo DIR (a server follows its own directories)")
    count = library(zoo).reindex()
    if as_json:
        print_json({"count": count})
    else:
        typer.echo(f"{count} checkpoints")


@app.command(name="gc", epilog="Example: zoo gc --zoo my-zoo --dry-run")
def collect_garbage(
    zoo: ZooOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete the files of deleted checkpoints, and what unfinished writes left more than a day ago."""
    if not zoo:
        fail("give --zoo DIR")
    from zoo.library.upkeep.garbage import collect, damaged, garbage

    for root in zoo:  # without a catalog, for which a full disk may have no room
        require_zoo(root)
    where = store(zoo)
    found = list(garbage(where, zoo)) if dry_run else collect(where, zoo)
    for error in damaged(where):
        typer.echo(f"kept, and in no catalog: {error}", err=True)
    if as_json:
        print_json([{"path": item.place, "bytes": item.size_bytes, "reason": item.reason} for item in found])
    else:
        for item in found:
            typer.echo(f"{item.size_bytes:>12,}  {item.place}  {item.reason}")
