"""zoo-train distil: checkpoints that are there already, taught by a larger one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.commands.options import (
    DeviceOption,
    Images,
    Training,
    ZooOption,
    reported,
    torch_device,
    with_images,
    with_training,
)

if TYPE_CHECKING:
    from trainer.config import RunConfig


@with_images
@with_training
def distil(
    students: Annotated[
        list[str], typer.Argument(help="The checkpoints to teach, by the first digits of their digests.", metavar="ID…")
    ],
    zoo: ZooOption,
    images: Images,
    training: Training,
    epochs: Annotated[int, typer.Option(help="For each.", min=1)],
    teacher: Annotated[
        str | None,
        typer.Option(help="Without it, the best in the zoo for these images.", metavar="ID", show_default=False),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Teach checkpoints what a larger one knows, where nothing but their files is left of their run too.

    DATA are the images that they were trained on, limited and resized as their run had it. A student that gets better
    becomes a new file; the old one stays. The same command again goes on where it was stopped, and does not teach
    again what got better. Prints the SHA-256 digests of these.
    """
    with reported("goes on from the last whole epoch") as console:
        from trainer.distil.distil import distil as distil_all
        from trainer.distil.distil import pair
        from trainer.journal.display import Display
        from trainer.recipes.names import run_named

        overrides = training.overrides(distil_epochs=epochs)
        chosen = torch_device(device)
        data = images.load(console)
        # Students of one teacher together: it answers once for all of them.
        courses: dict[tuple[RunConfig, str], list[str]] = {}
        for student in students:
            descriptor, (taught, teaching) = pair(zoo, data, student, teacher)
            config = run_named(descriptor.lineage.run, replace(overrides, seed=descriptor.lineage.seed))
            courses.setdefault((config, teaching), []).append(taught)
        better: list[str] = []
        with Display(console) as display:
            for (config, teaching), together in courses.items():
                digests = (*dict.fromkeys(together), teaching)
                better += distil_all(config, data, zoo, digests, chosen, display, display.at)
    for digest in better:
        typer.echo(digest)
