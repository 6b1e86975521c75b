"""zoo-train adapt: every size of a grown zoo, fine-tuned on other images."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from trainer.commands.options import (
    DeviceOption,
    Images,
    LicenseOption,
    SeedOption,
    ThreadsOption,
    ZooOption,
    reported,
    say,
    torch_device,
    with_images,
)
from zoo.errors import RunError

if TYPE_CHECKING:
    import torch

    from trainer.config import RunConfig
    from trainer.data.datasets import Data
    from trainer.distil.adapt import Sources
    from trainer.distil.pretrained import PretrainedAnswers
    from trainer.journal.display import Display


@with_images
def adapt(
    zoo: ZooOption,
    images: Images,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="The zoo to begin from; without it the one of photos that comes with this program. Of a file, or the "
            "first digits of a digest in --zoo, that one size.",
            metavar="DIR|FILE|ID",
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(help="For each size.", min=1)] = 40,
    dataset: Annotated[
        str | None, typer.Option(help="Of the zoo to begin from, where it has several.", show_default=False)
    ] = None,
    batch_size: Annotated[int, typer.Option(min=2)] = 128,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="The highest, after the first epoch; without it 0.04 where the classes are others, else 0.02.",
            min=0,
            show_default=False,
        ),
    ] = None,
    license_: LicenseOption = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="A network with ImageNet weights that teaches too: efficientnet-lite0 (extra `teacher`), or "
            "torchvision:resnet18 and the like, where its weights are on this machine.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="In all; in place of --epochs as many as fit, and where those are few, of fewer sizes.",
            min=0,
            show_default=False,
        ),
    ] = None,
    teacher_epochs: Annotated[int, typer.Option(help="For which the teacher is fine-tuned.", min=1)] = 6,
    download: Annotated[bool, typer.Option("--download", help="Fetch the teacher's weights if need be.")] = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
) -> None:
    """Fine-tune every size of a grown zoo on other images: the largest first, which then teaches the rest.

    Of several checkpoints of one size the best is taken. Where the classes are others, each gets a new head. The same
    command again goes on where it was stopped. Prints the SHA-256 digests of the new files.
    """
    started = time.monotonic()
    with reported("goes on from the last whole epoch") as console:
        from trainer.distil.adapt import (
            RATE_OF_KNOWN_CLASSES,
            RATE_OF_OTHER_CLASSES,
            as_they_take,
            begun_with,
            sources,
        )
        from trainer.distil.adapt import adapt as adapt_all
        from trainer.journal import data_file
        from trainer.journal.display import Display
        from trainer.journal.journal import run_directory
        from trainer.loop.step import prepare
        from trainer.recipes.names import run_named
        from trainer.recipes.overrides import Overrides
        from zoo.store.directory import Directory

        rate = RATE_OF_KNOWN_CLASSES if learning_rate is None else learning_rate
        overrides = Overrides(
            learning_rate=rate, seed=seed, distil_epochs=epochs, license=license_, cpu_threads=threads
        )
        config = replace(run_named("grow", overrides), batch_size=batch_size)
        source = from_ or _shipped()
        say(console, f"begins from {source}")
        chosen = torch_device(device)
        with Display(console) as display:
            origins = begun_with(source, zoo, dataset)
            read = images.load(console)
            data = as_they_take(origins, read)
            if data is not read:
                say(console, "gray images, taken as colour ones, which is what the networks take")
            data_file.require_same_images(run_directory(zoo, config, data.name), data)
            prepare(chosen, config)
            found = sources(origins, data, display.at)
            if learning_rate is None and not found.knows_classes:
                config = replace(config, learning_rate=RATE_OF_OTHER_CLASSES)
            run = _Run(console, display, images, data, config, chosen, run_directory(zoo, config, data.name))
            outside = run.answers_of(teacher, teacher_epochs, download) if teacher is not None else None
            if minutes is not None:
                config, found = run.planned(found, started, 60 * minutes)
            sizes = ", ".join(f"{member.params:,}" for member in found.members)
            say(console, f"fine-tunes {sizes} parameters on {data.name}; the largest first")
            there = {digest for digest, _ in Directory(zoo).paths()}
            for digest in adapt_all(config, data, found, zoo, chosen, display, outside, display.at):
                if digest in there:
                    say(console, f"  kept: {digest[:12]} came of the same before; to train it again, delete it")
                typer.echo(digest)


def _shipped() -> Path:
    """Of photos, where that is there."""
    places = [Path(str(files("zoo"))) / "pretrained" / name for name in ("imagenette96", "cifar10")]
    found = next(filter(Path.is_dir, places), None)
    if found is None:
        raise RunError("no zoo comes with this program: name one by --from")
    return found


@dataclass(frozen=True)
class _Run:
    """An adaptation that is about to begin: on these images, with this configuration, kept in `directory`."""

    console: Console
    display: Display
    images: Images
    data: Data
    config: RunConfig
    device: torch.device
    directory: Path

    def answers_of(self, teacher: str, epochs: int, download: bool) -> PretrainedAnswers:
        """Fine-tunes the network from elsewhere and asks it, or reads what the directory keeps. Raises RunError,
        DataError."""
        from trainer.distil import pretrained

        self.display.at(f"reading larger images for {teacher}")
        network = pretrained.load(teacher, len(self.data.classes), download=download)
        larger = self.images.larger(self.data, pretrained.enlargement(self.data.image_shape[1:]))

        def tell(epoch: int, loss: float, accuracy: float) -> None:
            said = f"  fine-tuning {teacher}  epoch {epoch}/{epochs}  loss {loss:.3f}  train {accuracy:.3f}"
            say(self.console, said)
            self.display.at(f"fine-tuning {teacher}")

        self.display.at(f"fine-tuning {teacher}")
        seed, mirror = self.config.seed, self.config.horizontal_flip
        return pretrained.fine_tuned_answers(
            network, larger, epochs, seed, self.device, tell, self.directory, mirror=mirror
        )

    def planned(self, found: Sources, started: float, seconds: float) -> tuple[RunConfig, Sources]:
        """As many epochs, and of as many sizes, as fit into so many seconds since then; as the directory keeps them,
        where it does. Raises RunError."""
        from trainer.distil import plan
        from trainer.distil.growth_plan import compiled_if_long
        from trainer.journal.plans import kept
        from trainer.journal.records import PlanRecord
        from trainer.loop.batches import fitted

        config = compiled_if_long(self.config, seconds, self.device)
        timed = fitted(config, len(self.data.train))

        def make() -> plan.Plan:
            left = started + seconds - time.monotonic()
            return plan.planned(found.members, self.data, timed, self.device, left, self.display.at)

        what = [f"until {seconds:g} s", str(self.device), f"{config.batch_size} at a time"]
        key = [*what, self.data.content.model_dump_json(), *(member.digest for member in found.members)]
        fits = kept(self.directory / "plan.json", key, plan.Plan, make)
        sizes = f"{len(fits.sizes)} of {len(found.members)} sizes"
        self.display(PlanRecord(f"{fits.epochs} epochs of {sizes}: {fits.seconds / 60:.1f} minutes", fits.seconds))
        members = tuple(found.members[place] for place in fits.sizes)
        return replace(config, distil_epochs=fits.epochs), replace(found, members=members)
