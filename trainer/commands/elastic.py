"""zoo-train elastic, zoo-train digits-elastic: several sizes of a network, one within the next, in one file."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from trainer.commands.options import (
    DataOption,
    DeviceOption,
    Images,
    ResumeOption,
    SeedOption,
    Training,
    ZooOption,
    reported,
    say,
    torch_device,
    with_images,
    with_training,
)

# 25 s of one core.
_DIGITS_EPOCHS = 40


@with_images
@with_training
def elastic(
    from_: Annotated[
        str,
        typer.Option(
            "--from",
            help="Begin with this checkpoint: a file, or the first digits of a digest in the zoo. Or with random "
            "weights: the name of a run, which also says how to train.",
            metavar="ID|FILE|RUN",
        ),
    ],
    zoo: ZooOption,
    images: Images,
    training: Training,
    epochs: Annotated[int, typer.Option(help="Of all levels together; with --freeze of each.", min=1)],
    levels: Annotated[
        str | None,
        typer.Option(
            help="Sizes of 2 to 5 levels, smallest first, like 7k,16k,34k; 7k is what rounds to it. Without it the "
            "run's own; of a checkpoint that grew four sizes that it had; else a quarter, half and three quarters of "
            "all widths and all of them.",
            show_default=False,
        ),
    ] = None,
    levels_by: Annotated[
        Literal["params", "macs", "memory"],
        typer.Option(help="What --levels counts; memory: the most bytes of one image's activations."),
    ] = "params",
    cut: Annotated[
        Literal["growth", "widths"],
        typer.Option(
            help="How a checkpoint becomes smaller. growth: as it was while it grew, if it did; widths: all alike."
        ),
    ] = "growth",
    teacher: Annotated[
        str | None,
        typer.Option(help="A checkpoint in the zoo that teaches the largest level.", metavar="ID", show_default=False),
    ] = None,
    largest_weight: Annotated[
        float, typer.Option(help="How many times as much as another level's the largest's loss counts.", min=0.01)
    ] = 1.0,
    freeze: Annotated[
        bool,
        typer.Option("--freeze", help="Smallest first; each larger level trains only what it adds (arXiv 2505.11569)."),
    ] = False,
    ranking: Annotated[
        bool, typer.Option(help="Let smaller levels have the most important channels of the checkpoint.")
    ] = True,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    resume: ResumeOption = False,
) -> None:
    """Train several sizes of one network together, each within the next, and save them in one file.

    Every step runs every level. The largest learns the labels, the others also what the next larger one answers. Prints
    the SHA-256 digests of the levels' own files, smallest first; the file that holds them is in the zoo.
    """
    with reported("with --resume goes on from the last whole epoch") as console:
        from trainer.distil.distil import checkpoint_of, descriptors_of
        from trainer.elastic.elastic import train_elastic
        from trainer.elastic.levels import budgets_of, levels_of
        from trainer.elastic.start import named, start_of
        from trainer.journal.display import Display
        from trainer.loop.parallel import group_of, local_device
        from zoo.network.cost import num_params
        from zoo.store.directory import Directory

        budgets = None if levels is None else budgets_of(levels)
        run, start = start_of(from_, zoo, training.overrides(epochs=epochs, seed=seed))
        config = named(run, freeze=freeze)
        taught_by = None if teacher is None else checkpoint_of(teacher, zoo)
        chosen = local_device(torch_device(device))
        with group_of(chosen) as group, Display(console) as display:
            console.quiet = not group.writes
            with group.first_alone():  # it downloads, or decodes and keeps, what the others find there
                data = images.load(console)
            beside = descriptors_of(Directory(zoo)).values() if zoo.is_dir() else ()
            trained = levels_of(start, data.image_shape, len(data.classes), budgets, levels_by, cut, beside)
            sizes = ", ".join(f"{num_params(one.graph()):,}" for one in trained.architectures)
            say(console, f"{config.name} on {data.name}: levels of {sizes} parameters; {chosen}")
            made = train_elastic(
                config,
                trained,
                data,
                zoo,
                chosen,
                resume=resume,
                observe=display,
                group=group,
                freeze=freeze,
                rank=ranking,
                teacher=taught_by,
                largest_weight=largest_weight,
            )
            if not group.writes:
                return
            say(console, f"  in one file: {made.file}")
    for digest in made.levels:
        typer.echo(digest)


def digits_elastic(
    data: DataOption, zoo: ZooOption, device: DeviceOption = "auto", seed: SeedOption = 0, resume: ResumeOption = False
) -> None:
    """Three sizes of one network in one file, in well under a minute on two cores."""
    elastic(from_="digits", data=data, zoo=zoo, epochs=_DIGITS_EPOCHS, device=device, seed=seed, resume=resume)
