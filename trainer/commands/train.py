"""zoo-train RUN: one run."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from trainer.commands.options import (
    DeviceOption,
    EpochsOption,
    Images,
    MaxParamsOption,
    ResumeOption,
    RunArgument,
    SeedOption,
    Training,
    ZooOption,
    reported,
    say,
    torch_device,
    whole_numbers,
    with_images,
    with_training,
)
from zoo.errors import RunError


@with_images
@with_training
def train(
    run: RunArgument,
    zoo: ZooOption,
    images: Images,
    training: Training,
    epochs: EpochsOption = None,
    tau: Annotated[float | None, typer.Option(help="Threshold of the paper's ratio rule (paper: 2).", min=0)] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Gain, relative to the loss, that a change must promise.", min=0)
    ] = None,
    grow_for: Annotated[
        Literal["params", "macs", "both"] | None,
        typer.Option(help="What a gain is divided by to rank it.", show_default=False),
    ] = None,
    widths: Annotated[
        str | None,
        typer.Option(
            help="Channels of each stage of a network that does not grow (alexnet: convolution), like 16,32,64.",
            show_default=False,
        ),
    ] = None,
    max_params: MaxParamsOption = None,
    max_macs: Annotated[
        int | None, typer.Option(help="Grow to at most this many multiply-accumulates an image.", min=1)
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="End growth, with a last checkpoint, within this time.", min=1)
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="In all, distillation included: sizes and epochs are chosen to fit, by epochs that are timed first.",
            min=0,
            show_default=False,
        ),
    ] = None,
    distil: Annotated[
        int | None,
        typer.Option(
            help="Then teach each smaller checkpoint what the best one knows, for EPOCHS.", metavar="EPOCHS", min=0
        ),
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Begin with this checkpoint of the same run and seed; --epochs counts those it has behind it.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    resume: ResumeOption = False,
) -> None:
    """Grow a network on images and save a checkpoint at every expansion.

    Prints the checkpoints' SHA-256 digests, first to last.
    """
    started = time.monotonic()
    with reported("with --resume goes on from the last whole epoch") as console:
        from trainer.config import Limits
        from trainer.distil.distil import distil as distil_all
        from trainer.distil.growth_plan import few_epochs, has_few_images
        from trainer.distil.timed_run import TimedRun
        from trainer.grow import grow
        from trainer.journal.display import Display
        from trainer.journal.journal import run_directory
        from trainer.journal.origin import read
        from trainer.loop.parallel import group_of, local_device
        from trainer.recipes.names import run_named

        overrides = training.overrides(
            epochs=epochs,
            seed=seed,
            tau=tau,
            threshold=threshold,
            grow_for=grow_for,
            limits=Limits(max_params, max_macs, max_seconds),
            distil_epochs=distil,
            widths=None if widths is None else whole_numbers(widths, "--widths"),
        )
        if minutes is not None and (epochs, distil, max_seconds, from_) != (None, None, None, None):
            raise RunError("--minutes chooses epochs itself, so no --epochs, --distil, --max-seconds or --from")
        config = run_named(run, overrides)
        origin = None if from_ is None else read(from_)
        chosen = local_device(torch_device(device))
        with group_of(chosen) as group, Display(console, config.anneal_share) as display:
            console.quiet = not group.writes
            with group.first_alone():  # it downloads, or decodes and keeps, what the others find there
                data = images.load(console)
            say(
                console,
                f"{config.name} on {data.name}: {len(data.train):,} training, {len(data.validation):,} validation, "
                f"{len(data.test):,} test images {data.image_shape}, {len(data.classes)} classes; "
                f"{chosen}; log: {run_directory(zoo, config, data.name)}/log.jsonl",
            )
            if has_few_images(config, len(data.train)) and data.image_shape[0] == 3:  # as the zoos that ship have them
                say(console, "  on so few photos `zoo-train adapt` is more accurate: it begins with a zoo that ships")
            fewer = few_epochs(config, len(data.train)) if minutes is None and epochs is None else None
            if fewer is not None:
                say(
                    console,
                    f"  few images: {fewer} epochs, not {config.epochs}: as many steps as growth needs; --epochs or "
                    "--minutes choose others",
                )
                config = replace(config, epochs=fewer)
            timed = None
            if minutes is not None:
                timed = TimedRun(data, zoo, chosen, started, 60 * minutes, display, display.at)
                config = group.shared(timed.growth(config) if group.writes else config)
            digests = grow(
                config, data, zoo, chosen, resume=resume, observe=display, group=group, origin=origin, at=display.at
            )
            if not group.writes:
                return
            if timed is not None:
                config = timed.distillation(config, digests)
            if config.distil_epochs:
                digests += tuple(distil_all(config, data, zoo, digests, chosen, display, display.at))
    for digest in digests:
        typer.echo(digest)
