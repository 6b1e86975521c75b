"""zoo-train distil: checkpoints that are there already, taught by a larger one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from trainer.commands.options import (
    BatchSizeOption,
    DataOption,
    Device,
    DeviceOption,
    FitChoice,
    FitOption,
    Images,
    ImageSizeOption,
    LearningRateOption,
    LicenseOption,
    LimitTrainOption,
    NameOption,
    SkipBadOption,
    TestShareOption,
    ZooOption,
    reported,
    torch_device,
)

if TYPE_CHECKING:
    from trainer.config import RunConfig


def distil(
    students: Annotated[
        list[str], typer.Argument(help="The checkpoints to teach, by the first digits of their digests.", metavar="ID…")
    ],
    data: DataOption,
    zoo: ZooOption,
    epochs: Annotated[int, typer.Option(help="For each.", min=1)],
    teacher: Annotated[
        str | None,
        typer.Option(help="Without it, the best in the zoo for these images.", metavar="ID", show_default=False),
    ] = None,
    batch_size: BatchSizeOption = None,
    learning_rate: LearningRateOption = None,
    limit_train: LimitTrainOption = None,
    image_size: ImageSizeOption = None,
    name: NameOption = None,
    fit: FitOption = FitChoice.crop,
    test_share: TestShareOption = None,
    skip_bad: SkipBadOption = False,
    license_: LicenseOption = None,
    device: DeviceOption = Device.auto,
) -> None:
    """Teach checkpoints what a larger one knows, where nothing but their files is left of their run too.

    DATA are the images that they were trained on, limited and resized as their run had it. A student that gets better
    becomes a new file; the old one stays. The same command again goes on where it was stopped, and does not teach
    again what got better. Prints the SHA-256 digests of these.
    """
    console = Console(stderr=True)
    source = Images(data, limit_train, image_size, fit, test_share, name, skip_bad)
    with reported(console, "goes on from the last whole epoch"):
        from trainer.distil.distil import distil as distil_all
        from trainer.distil.distil import pair
        from trainer.journal.display import Display
        from trainer.recipes.names import run_named
        from trainer.recipes.overrides import Overrides

        overrides = Overrides(
            batch_size=batch_size, learning_rate=learning_rate, distil_epochs=epochs, license=license_
        )
        chosen = torch_device(device)
        images = source.load(console)
        # Students of one teacher together: it answers once for all of them.
        courses: dict[tuple[RunConfig, str], list[str]] = {}
        for student in students:
            descriptor, (taught, teaching) = pair(zoo, images, student, teacher)
            config = run_named(descriptor.lineage.run, replace(overrides, seed=descriptor.lineage.seed))
            courses.setdefault((config, teaching), []).append(taught)
        better: list[str] = []
        with Display(console) as display:
            for (config, teaching), together in courses.items():
                digests = (*dict.fromkeys(together), teaching)
                better += distil_all(config, images, zoo, digests, chosen, display, display.at)
    for digest in better:
        typer.echo(digest)
