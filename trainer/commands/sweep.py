"""zoo-train sweep: many runs."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from functools import partial
from typing import Annotated

import typer

from trainer.commands.options import (
    EpochsOption,
    Images,
    MaxParamsOption,
    RunArgument,
    Training,
    ZooOption,
    refuse,
    reported,
    say,
    with_images,
    with_training,
)
from zoo.errors import RunError


@with_images
@with_training
def sweep(
    run: RunArgument,
    zoo: ZooOption,
    images: Images,
    training: Training,
    seeds: Annotated[str, typer.Option(help="Like 0-4, or 0,2,5-7.")] = "0-4",
    taus: Annotated[
        str | None, typer.Option(help="Each with every seed, like 1,1.5,2: runs RUN-tau1, RUN-tau1.5, …")
    ] = None,
    thresholds: Annotated[str | None, typer.Option(help="Each with every seed: runs RUN-threshold0.5, …")] = None,
    epochs: EpochsOption = None,
    max_params: MaxParamsOption = None,
    cpus_per_run: Annotated[float, typer.Option(help="As many runs at once as that allows.", min=0.01)] = 1.0,
    gpus_per_run: Annotated[
        float | None,
        typer.Option(help="0.25: four runs share one. Default: 1 where there are any.", min=0, show_default=False),
    ] = None,
    address: Annotated[str, typer.Option(help="A Ray cluster: auto, or HOST:PORT. local: this machine.")] = "local",
) -> None:
    """Many runs into one zoo, on the cores and GPUs of this machine or of a Ray cluster (the extra `ray`).

    The same command again goes on with the runs that were begun. Prints the checkpoints' SHA-256 digests, run by run.
    """
    with reported("goes on from the last whole epoch of each run") as console:
        from trainer.commands.ray_runs import Share, numbers_of, plan, seeds_of
        from trainer.commands.ray_runs import sweep as run_all
        from trainer.config import Limits
        from trainer.recipes.names import run_named

        limits = Limits(max_params=max_params)
        configs = plan(
            partial(run_named, run),
            training.overrides(epochs=epochs, limits=limits),
            seeds_of(seeds),
            taus=numbers_of("--taus", taus),
            thresholds=numbers_of("--thresholds", thresholds),
        )
        data = images.load(console)
        say(console, f"{len(configs)} runs on {data.name} with {address}; logs: {zoo}/runs/")
        outcomes = []
        # Ray prints what became of its workers; standard output is for digests.
        with redirect_stdout(sys.stderr):
            for outcome in run_all(configs, data, zoo, Share(cpus_per_run, gpus_per_run), address):
                outcomes.append(outcome)
                say(console, f"  {len(outcomes)}/{len(configs)}  {outcome}")
    outcomes.sort(key=lambda outcome: configs.index(outcome.config))
    for outcome in outcomes:
        for digest in outcome.digests:
            typer.echo(digest)
    failed = [outcome for outcome in outcomes if outcome.error]
    if failed:
        lines = "\n".join(map(str, failed))
        refuse(console, RunError(f"{len(failed)} of {len(outcomes)} runs failed, the others are done\n{lines}"))
