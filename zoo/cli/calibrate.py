"""zoo calibrate: latencies here, and cascades."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from zoo.choosing.budget import ALL_DATASETS, Budget
from zoo.cli.options import JsonOption, SkipBadOption, TestShareOption, UrlOption, ZooOption, followed
from zoo.cli.output import fail, print_json, print_table
from zoo.library.upkeep.device import device_name

if TYPE_CHECKING:  # of an extra
    from zoo.catalog.rows import CheckpointRow
    from zoo.choosing.cascade import Calibration
    from zoo.library.local import LocalZoo

app = typer.Typer()


@app.command(epilog="Examples: zoo calibrate --zoo my-zoo; zoo calibrate --zoo my-zoo --data cifar10.tar.gz")
def calibrate(
    data: Annotated[
        str | None,
        typer.Option(
            help="Find cascades, with the validation images among these: a directory, .tar.gz or .zip as zoo-train "
            "takes it, or digits.",
            metavar="PATH|NAME",
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Only this data set; with --data where the path does not name it.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Without --data: turns of ten images for each checkpoint.")] = 50,
    skip_bad: SkipBadOption = False,
    test_share: TestShareOption = None,
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
        fail("calibrate works on directories: give --zoo DIR, as to zoo-serve (a server follows within a second)")
    local = followed(zoo)
    if data is None:
        _calibrate_latencies(local, dataset, rounds, as_json=as_json)
    else:
        found = find_cascades(local, data, dataset, skip_bad=skip_bad, test_share=test_share)
        _show_cascades(found, local.chooser.rows(Budget(dataset=found.dataset, min_acc=0.0)), as_json=as_json)


def find_cascades(
    zoo: LocalZoo, data: str, dataset: str | None, *, skip_bad: bool = False, test_share: float | None = None
) -> Calibration:
    from zoo.images.folder import name_of
    from zoo.library.upkeep import calibrate

    def observe(line: str) -> None:
        typer.echo(line, err=True)

    name = dataset or name_of(Path(data))
    return calibrate.find_cascades(zoo, data, name, observe, keep=True, skip_bad=skip_bad, test_share=test_share)


def _calibrate_latencies(zoo: LocalZoo, dataset: str | None, rounds: int, *, as_json: bool) -> None:
    from zoo.library.upkeep.calibrate import measure_latencies

    rows = zoo.chooser.rows(Budget(dataset=dataset or ALL_DATASETS, prefer="params"))
    if not rows:
        fail(f"no checkpoint of data set {dataset}" if dataset else "the zoo holds no checkpoint")
    latencies = measure_latencies(zoo, [row.digest for row in rows], rounds)
    if as_json:
        print_json(latencies)
        return
    typer.echo(f"{device_name()}; one image, {latencies[0].num_runs} runs each", err=True)
    table = Table("id", "name", "params", "MACs", "median ms", "95 % within ms", box=None)
    for row, latency in zip(rows, latencies, strict=True):
        costs = (f"{row.params:,}", f"{row.macs:,}", f"{latency.median_ms:.3f}", f"{latency.p95_ms:.3f}")
        table.add_row(row.digest[:12], row.name, *costs)
    print_table(table)


def _show_cascades(calibration: Calibration, rows: list[CheckpointRow], *, as_json: bool) -> None:
    """What each whole percent of accuracy costs: the cheapest checkpoint that reaches it, and the cheapest cascade."""
    if as_json:
        print_json(calibration)
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
    print_table(table)
