"""zoo-train RUN: one run."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from trainer.commands.options import (
    Device,
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

if TYPE_CHECKING:
    from trainer.recipes.overrides import Overrides


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
    console, started = Console(stderr=True), time.monotonic()
    with reported(console, "with --resume goes on from the last whole epoch"):
        from trainer.config import Limits

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
        seconds = None if minutes is None else 60 * minutes
        for digest in _grow(console, run, overrides, images, zoo, from_, device, resume, started, seconds):
            typer.echo(digest)


def _grow(
    console: Console,
    run: str,
    overrides: Overrides,
    source: Images,
    zoo: Path,
    from_: Path | None,
    device: Device,
    resume: bool,
    started: float,
    seconds: float | None,
) -> tuple[str, ...]:
    """In so many `seconds` since `started` (of `time.monotonic`), if it is to be planned."""
    from trainer.distil.distil import distil
    from trainer.distil.growth_plan import few_epochs
    from trainer.distil.timed_run import TimedRun
    from trainer.grow import grow
    from trainer.journal.display import Display
    from trainer.journal.journal import run_directory
    from trainer.journal.origin import read
    from trainer.loop.parallel import group_of, local_device
    from trainer.recipes.names import run_named

    config = run_named(run, overrides)
    origin = None if from_ is None else read(from_)
    chosen = local_device(torch_device(device))
    with group_of(chosen) as group, Display(console, config.anneal_share) as display:
        console.quiet = not group.writes
        with group.first_alone():  # it downloads, or decodes and keeps, what the others find there
            images = source.load(console)
        say(
            console,
            f"{config.name} on {images.name}: {len(images.train):,} training, {len(images.validation):,} validation, "
            f"{len(images.test):,} test images {images.image_shape}, {len(images.classes)} classes; "
            f"{chosen}; log: {run_directory(zoo, config, images.name)}/log.jsonl",
        )
        epochs = few_epochs(config, len(images.train)) if seconds is None and overrides.epochs is None else None
        if epochs is not None:
            say(
                console,
                f"  few images: {epochs} epochs, not {config.epochs}: as many steps as growth needs; --epochs or "
                "--minutes choose others",
            )
            config = replace(config, epochs=epochs)
        timed = None if seconds is None else TimedRun(images, zoo, chosen, started, seconds, display, display.at)
        if timed is not None:
            config = group.shared(timed.growth(config) if group.writes else config)
        digests = grow(
            config, images, zoo, chosen, resume=resume, observe=display, group=group, origin=origin, at=display.at
        )
        if not group.writes:
            return ()
        if timed is not None:
            config = timed.distillation(config, digests)
        if config.distil_epochs:
            digests += tuple(distil(config, images, zoo, digests, chosen, display, display.at))
        return digests
