"""zoo verify: every checkpoint read whole, run, and measured once more."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import numpy as np
import typer

from zoo.checkpoint.file import Checkpoint
from zoo.choosing.budget import ALL_DATASETS, Budget
from zoo.cli.options import JsonOption, SkipBadOption, with_filters, with_zoo
from zoo.cli.output import fail, print_json
from zoo.errors import CheckpointError, ZooError
from zoo.network.cost import num_params
from zoo.protocol import Zoo
from zoo.runtime import onnx_model
from zoo.runtime.measure import HeldOutImages, measure
from zoo.runtime.predictor import Predictor

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
            help="Measure test accuracy again on these images: a directory or .tar.gz of "
            "{train,test}/<class>/<image>, or digits.",
            metavar="PATH|NAME",
        ),
    ] = None,
    skip_bad: SkipBadOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read every checkpoint whole: digest, descriptor, tensors, finite weights, a first answer.

    Without a budget also the files that the catalog leaves out.
    With --data, a checkpoint of that data set must get exactly as many test
    images right as it says; --dataset names the data set if the path does not.
    Exits with 1 if one fails.
    """
    images = HeldOutImages(data, skip_bad=skip_bad) if data else None
    for finding in images.findings if images else ():
        typer.echo(f"{data}: warning: {finding}", err=True)
    if images and budget.is_bounded() and budget.dataset is None:
        budget = budget.model_copy(update={"dataset": images.name})
    wanted = {view.id for view in zoo.models(**budget.given())} if budget.is_filtered() else None
    results, num_measured = [], 0
    for digest, found in zoo.verified():
        if wanted is not None and digest not in wanted:
            continue
        is_measured = images is not None and _is_of(found, budget.dataset, images)
        num_measured += is_measured
        result = _verified(digest, found, images if is_measured else None)
        results.append(result)
        if not as_json:
            typer.echo(f"{result['status']:8}{digest[:12]}  {result['detail']}")
    if as_json:
        print_json(results)
    if images and not num_measured:
        fail(f"{data} holds images of {images.name}, and no checkpoint is of that data set; --dataset names another")
    if not all(result["ok"] for result in results):
        raise typer.Exit(1)


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
