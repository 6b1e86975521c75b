"""zoo-train: grows a zoo. Torch is imported by the run itself, so that --help answers at once."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trainer.runs import RUNS
from zoo.errors import RunError, ZooError


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


EPILOG = """
[bold]Examples[/bold]

zoo-train digits --data digits --zoo my-zoo

zoo-train paper --data cifar10.tar.gz --zoo my-zoo --epochs 60 --limit-train 10000 --device cpu

zoo-train paper --data photos/ --zoo my-zoo --seed 1 --resume

DATA is a directory or .tar.gz of {train,test}/<class>/*.{png,jpg}, or one of: digits, cifar10, cifar100,
fashion_mnist (the last three are downloaded).
"""

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command(epilog=EPILOG)
def train(
    run: Annotated[str, typer.Argument(help=f"A named run: {', '.join(RUNS)}.", metavar="RUN")],
    data: Annotated[str, typer.Option(help="Images: a path or a name, see below.", metavar="PATH|NAME")],
    zoo: Annotated[Path, typer.Option(help="Directory that receives the checkpoints.", metavar="DIR")],
    epochs: Annotated[int | None, typer.Option(help="Instead of the run's own number.", min=1)] = None,
    limit_train: Annotated[
        int | None, typer.Option(help="Use this many training images, equally many of each class.", min=4)
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Resize the images of a directory or archive to this square.", min=8)
    ] = None,
    tau: Annotated[float | None, typer.Option(help="Threshold of the paper's ratio rule (paper: 2).", min=0)] = None,
    threshold: Annotated[float | None, typer.Option(help="Threshold of the gain rule.", min=0)] = None,
    device: Annotated[Device, typer.Option(help="auto: the GPU if there is one.")] = Device.auto,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with this run if it was begun.")] = False,
) -> None:
    """Grow a network on images and save a checkpoint at every expansion.

    Prints the checkpoints' SHA-256 digests, first to last.
    """
    console = Console(stderr=True)
    try:
        digests = _grow(console, run, data, zoo, epochs, limit_train, image_size, tau, threshold, device, seed, resume)
    except (ZooError, OSError) as error:
        console.print(f"zoo-train: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        console.print("zoo-train: stopped; the same command with --resume goes on from the last whole epoch")
        raise typer.Exit(130) from None
    for digest in digests:
        typer.echo(digest)


def _grow(
    console: Console,
    run: str,
    source: str,
    zoo: Path,
    epochs: int | None,
    limit_train: int | None,
    image_size: int | None,
    tau: float | None,
    threshold: float | None,
    device: Device,
    seed: int,
    resume: bool,
) -> tuple[str, ...]:
    # Threads that wait for each other should not keep a core busy that someone else needs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if run not in RUNS:
        raise RunError(f"no run is named {run!r}; there are: {', '.join(RUNS)}")

    import torch

    from trainer import data
    from trainer.display import Display
    from trainer.grow import grow, run_directory, with_overrides

    config = with_overrides(RUNS[run](), epochs=epochs, seed=seed, tau=tau, threshold=threshold)
    cuda = torch.cuda.is_available()
    if device is Device.cuda and not cuda:
        raise RunError("--device cuda: torch finds no CUDA device here; use --device cpu or auto")
    chosen = torch.device("cuda" if cuda and device is not Device.cpu else "cpu")
    with Display(console) as display:
        images = data.load(source, limit_train=limit_train, image_size=image_size)
        console.print(
            f"{config.name} on {images.name}: {len(images.train):,} training, {len(images.validation):,} validation, "
            f"{len(images.test):,} test images {images.image_shape}, {len(images.classes)} classes; "
            f"{chosen}; log: {run_directory(zoo, config, images.name)}/log.jsonl",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        return grow(config, images, zoo, chosen, resume=resume, observe=display)


if __name__ == "__main__":
    app()
