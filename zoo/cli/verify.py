"""zoo verify: every checkpoint read whole, run, and measured once more."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo.choosing.budget import Budget
from zoo.cli.options import JsonOption, SkipBadOption, TestShareOption, with_filters, with_zoo
from zoo.cli.output import fail, print_json
from zoo.protocol import Zoo

app = typer.Typer()


@app.command(epilog="Example: zoo verify --zoo my-zoo --data cifar10.tar.gz")
@with_zoo
@with_filters
def verify(
    zoo: Zoo,
    budget: Budget,
    data: Annotated[
        str | None,
        typer.Option(
            help="Measure test accuracy again on these images: a directory, .tar.gz or .zip as zoo-train takes it, or "
            "digits.",
            metavar="PATH|NAME",
        ),
    ] = None,
    skip_bad: SkipBadOption = False,
    test_share: TestShareOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read every checkpoint whole: digest, descriptor, tensors, finite weights, a first answer.

    Without a budget also the files that the catalog leaves out.
    With --data, a checkpoint of that data set must get exactly as many test
    images right as it says; --dataset names the data set if the path does not.
    Exits with 1 if one fails.
    """
    from zoo.library.upkeep.verify import is_of, verified
    from zoo.runtime.measure import HeldOutImages

    images = HeldOutImages(data, skip_bad=skip_bad, test_share=test_share) if data else None
    for finding in images.findings if images else ():
        typer.echo(f"{data}: warning: {finding}", err=True)
    if images and budget.is_bounded() and budget.dataset is None:
        budget = budget.model_copy(update={"dataset": images.name})
    wanted = {view.id for view in zoo.models(**budget.given())} if budget.is_filtered() else None
    results, num_measured = [], 0
    for digest, found in zoo.verified():
        if wanted is not None and digest not in wanted:
            continue
        is_measured = images is not None and is_of(found, budget.dataset, images)
        num_measured += is_measured
        result = verified(digest, found, images if is_measured else None)
        results.append(result)
        if not as_json:
            typer.echo(f"{result['status']:8}{digest[:12]}  {result['detail']}")
    num_ok = sum(result["ok"] for result in results)
    typer.echo(f"{len(results)} checkpoints: {num_ok} ok, {len(results) - num_ok} not", err=True)
    if as_json:
        print_json(results)
    if images and not num_measured:
        fail(f"{data} holds images of {images.name}, and no checkpoint is of that data set; --dataset names another")
    if num_ok < len(results):
        raise typer.Exit(1)
