"""What the commands of zoo-train share: options, images, a device, and errors in one line.

A command has the options of images by `@with_images` and a parameter `images: Images`, those of training by
`@with_training` and `training: Training`, each a value made of what was given.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console

from zoo.cli.terminal import directory, made_of, options_of
from zoo.errors import RunError, ZooError

if TYPE_CHECKING:
    import torch

    from trainer.data.datasets import Data, Split
    from trainer.recipes.overrides import Overrides

# The epochs of each run. `trainer.recipes.runs` has them; to import it takes as long as torch does.
RUN_EPOCHS = {
    "alexnet": 80,
    "digits": 100,
    "grow": 540,
    "paper": 300,
    "paper-code": 300,
    "resnet20": 80,
    "resnet56": 80,
    "vgg16": 80,
}
RUN_NAMES = ", ".join(RUN_EPOCHS)

# What comes with the extra `train`.
_TRAIN_EXTRA = {"torch", "torchvision", "jaxtyping", "sklearn"}


Device = Literal["auto", "cpu", "cuda"]
RunArgument = Annotated[str, typer.Argument(help=f"A named run: {RUN_NAMES}.", metavar="RUN")]
DataOption = Annotated[str, typer.Option(help="Images: a path or a name, see zoo-train --help.", metavar="PATH|NAME")]
ZooOption = Annotated[
    Path, typer.Option(help="Directory that receives the checkpoints.", metavar="DIR", parser=directory)
]
EpochsOption = Annotated[
    int | None,
    typer.Option(
        help="Of the trunk, instead of the run's own number: "
        + ", ".join(f"{name} {number}" for name, number in RUN_EPOCHS.items())
        + ". grow trains half as many more, in branches, and chooses fewer on few images.",
        min=1,
    ),
]
MaxParamsOption = Annotated[int | None, typer.Option(help="Grow to at most this many parameters.", min=1)]
DeviceOption = Annotated[Device, typer.Option(help="auto: the GPU if there is one.")]
LicenseOption = Annotated[
    str | None,
    typer.Option(
        "--license", help="Of the weights, an SPDX expression: Apache-2.0.", metavar="SPDX", show_default=False
    ),
]
SeedOption = Annotated[int, typer.Option(min=0)]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        help="On a CPU; without it as many as torch takes. Where other programs use the cores, 1 is much faster.",
        min=1,
        show_default=False,
    ),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with this run if it was begun.")]


# Of a side: a batch of larger ones takes more memory than machines have, and these networks see no more in them.
MAX_IMAGE_SIZE = 1024


@dataclass(frozen=True)
class Images:
    """The images that the command's options select."""

    data: DataOption
    limit_train: Annotated[
        int | None, typer.Option(help="Use this many training images, of each class its share.", min=4)
    ] = None
    image_size: Annotated[
        int | None,
        typer.Option(help="Resize the images to this square; without it, to at most 96×96.", min=8, max=MAX_IMAGE_SIZE),
    ] = None
    name: Annotated[
        str | None, typer.Option(help="What to call the data set, instead of its last folder.", show_default=False)
    ] = None
    fit: Annotated[
        Literal["crop", "squeeze"],
        typer.Option(help="How images of another shape become squares: the middle cut out, or squeezed."),
    ] = "crop"
    test_share: Annotated[
        float | None,
        typer.Option(help="Set aside for the test, of each class, where there is no test folder; without it 0.2."),
    ] = None
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Leave out images that cannot be read, instead of naming them and ending."),
    ] = False

    def load(self, console: Console) -> Data:
        """Says what is odd about them. Raises DataError."""
        images = self._load(self.image_size)
        for sentence in images.about:
            say(console, f"{images.name}: {sentence}")
        for finding in images.findings:
            say(console, f"{images.name}: warning: {finding}", style="yellow")
        return images

    def larger(self, data: Data, factor: int) -> Split:
        """The training images upscaled by `factor`: decoded again at that size from files, else interpolated."""
        from torch.nn import functional as F

        from trainer.data.datasets import NAMED, Split

        channels, height, width = data.image_shape
        if factor == 1:
            return data.train
        if self.data not in NAMED and height == width:
            larger = self._load(factor * height)
            return (larger.in_colour() if larger.image_shape[0] < channels else larger).train
        images = F.interpolate(data.train.images.float(), scale_factor=factor, mode="bilinear", antialias=True)
        return Split(images.round().byte(), data.train.labels)

    def _load(self, image_size: int | None) -> Data:
        from trainer.data.datasets import load

        return load(
            self.data,
            limit_train=self.limit_train,
            image_size=image_size,
            fit=self.fit,
            test_share=self.test_share,
            name=self.name,
            skip_bad=self.skip_bad,
        )


@dataclass(frozen=True)
class Training:
    """Training settings given as options; None keeps the default of the named run."""

    batch_size: Annotated[
        int | None,
        typer.Option(
            help="As it is. Without it the run's own, and of few images at most an eighth.", min=2, show_default=False
        ),
    ] = None
    learning_rate: Annotated[
        float | None, typer.Option(help="The highest; without it the run's own.", min=0, show_default=False)
    ] = None
    license: LicenseOption = None
    cpu_threads: ThreadsOption = None

    def overrides(self, **others: Any) -> Overrides:
        """`others`: fields of Overrides."""
        from trainer.recipes.overrides import Overrides

        return Overrides(**vars(self), **others)


with_images = made_of("images", options_of(Images), Images)
with_training = made_of("training", options_of(Training), Training)


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """Of "16,32,64". Raises RunError."""
    try:
        return tuple(map(int, text.split(",")))
    except ValueError:
        raise RunError(f"{option} should be whole numbers like 16,32,64, is {text}") from None


def say(console: Console, line: str, style: str | None = None) -> None:
    """Prints a line without interpreting markup, as names may look like it."""
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def torch_device(device: Device) -> torch.device:
    """Raises RunError where CUDA is wanted and there is none."""
    import torch

    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise RunError("--device cuda: torch finds no CUDA device here; use --device cpu or auto")
    return torch.device("cuda" if cuda and device != "cpu" else "cpu")


def refuse(console: Console, error: Exception) -> NoReturn:
    """Ends the command with the error in a line."""
    say(console, f"zoo-train: {error}", style="red")
    raise typer.Exit(1) from error


@contextmanager
def reported(goes_on: str) -> Iterator[Console]:
    """Yields the console, on stderr, where errors are told in one line without a traceback.

    On Ctrl-C it is told that the same command `goes_on`.
    """
    console = Console(stderr=True)
    # Where torch was built for CUDA and there is none, it says so in the middle of the display.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        yield console
    except (ZooError, OSError) as error:
        refuse(console, error)
    except ModuleNotFoundError as error:
        if error.name not in _TRAIN_EXTRA:
            raise
        refuse(console, RunError(f"training needs the extra `train`: pip install 'checkpoint-zoo[train]' ({error})"))
    except KeyboardInterrupt:
        console.print(f"zoo-train: stopped; the same command {goes_on}", soft_wrap=True)
        raise typer.Exit(130) from None
