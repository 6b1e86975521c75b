"""How a run trains. Frozen; a named run in `trainer.recipes.runs` is a function that returns one."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Literal, Protocol, runtime_checkable

from trainer.growth.recipe import Recipe
from zoo.checkpoint.descriptor import LICENSE_PATTERN
from zoo.errors import RunError
from zoo.network.families import alexnet, blueprint, resnet, secnn, vgg16
from zoo.network.families.family import Architecture

PaddingMode = Literal["constant", "reflect"]


def refuse_unless(holds: bool, name: str, expected: str, value: object) -> None:
    """Raises RunError unless it holds. Ask for what should be, not for what should not: NaN fails each comparison."""
    if not holds:
        raise RunError(f"{name} should be {expected}, is {value}")


@runtime_checkable
class Start(Protocol):
    """The network that a run begins with, before it is known for which images."""

    def network(self, input_shape: tuple[int, int, int], num_classes: int) -> Architecture:
        """`input_shape` is (channels, height, width). Raises ValidationError or DescriptorError for such images."""


@dataclass(frozen=True)
class StartNet:
    """The network before any growth; defaults from section 3 of the paper."""

    channels: int = 16
    num_blocks: int = 3
    head: Literal["flatten", "average"] = "flatten"
    bottleneck_channels: int = 10
    hidden_features: int = 20
    negative_slope: float = 0.2
    conv_dropout: float = 0.1
    linear_dropout: float = 0.05

    def network(self, input_shape: tuple[int, int, int], num_classes: int) -> Architecture:
        return secnn.start(input_shape=input_shape, num_classes=num_classes, **vars(self))


@dataclass(frozen=True)
class BlueprintStart:
    """The start of a run of blueprint separable networks: channels and layers of each stage."""

    channels: tuple[int, ...] = (16, 24, 24)
    num_layers: tuple[int, ...] = (1, 1, 1)
    # Larger images are pooled in the stem until the larger side is at most one and a half times this.
    max_side: int = 24

    def network(self, input_shape: tuple[int, int, int], num_classes: int) -> Architecture:
        return blueprint.start(input_shape=input_shape, num_classes=num_classes, **vars(self))


_FIXED: dict[str, Callable[..., Architecture]] = {
    "alexnet": alexnet.start,
    "resnet20": resnet.start,
    "resnet56": partial(resnet.start, resnet.Resnet56Architecture),
    "vgg16": vgg16.start,
}


@dataclass(frozen=True)
class FixedStart:
    """A network of a family that does not grow. `channels`: of each stage; for alexnet, of each convolution."""

    family: Literal["alexnet", "resnet20", "resnet56", "vgg16"]
    channels: tuple[int, ...]

    def network(self, input_shape: tuple[int, int, int], num_classes: int) -> Architecture:
        return _FIXED[self.family](input_shape=input_shape, num_classes=num_classes, channels=self.channels)


@dataclass(frozen=True)
class Limits:
    """Where a run stops growing (parameters, multiply-accumulates of one image) or ends (device-seconds)."""

    max_params: int | None = None
    max_macs: int | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_params", "max_macs", "max_seconds"):
            value = getattr(self, name)
            refuse_unless(value is None or 0 < value < inf, name, "a number above 0", value)

    def allow(self, params: int, macs: int) -> bool:
        return (self.max_params is None or params <= self.max_params) and (
            self.max_macs is None or macs <= self.max_macs
        )


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Cutout:
    """A square of each training image is black (DeVries and Taylor, arXiv 1708.04552); not for smaller networks."""

    # Its sides, as a part of the image's.
    part: float
    from_params: int


@dataclass(frozen=True)
class Mixup:
    """Training images are mixed in pairs, labels too (Zhang et al., arXiv 1710.09412); not for smaller networks."""

    # Of Beta(alpha, alpha), from which comes how much there is of each.
    alpha: float
    from_params: int


@dataclass(frozen=True)
class Zoom:
    """A part of each training image is shown, drawn anew each time, as large as the whole: objects come nearer, as in
    random resized crops (Szegedy et al., arXiv 1409.4842). Smaller images are shown whole, and smaller networks see
    all of them whole."""

    # Sides of the smallest part, as a part of the image's.
    part: float
    # Pixels of an image's smaller side.
    from_side: int
    from_params: int


@dataclass(frozen=True)
class RunConfig:
    """Training defaults are those of section 3.3 of the paper."""

    name: str
    recipe: Recipe
    start: Start = StartNet()
    limits: Limits = NO_LIMITS
    seed: int = 0
    epochs: int = 300
    batch_size: int = 512
    # A batch is at most this part of the training images, as a power of two (`trainer.loop.batches`). None: as above.
    batch_share: float | None = 0.125
    learning_rate: float = 2e-3
    # "muon": Muon for 1×1 kernels, AdamW for the rest (trainer.loop.muon).
    optimizer: Literal["adam", "adamw", "muon"] = "adam"
    # Not of "adam"; on matrices and kernels only.
    weight_decay: float = 0.0
    # Of Muon.
    momentum: float = 0.9
    # Muon's rate as a multiple of the learning rate.
    muon_scale: float = 2.0
    beta2: float = 0.999
    # Steps over which the learning rate rises from 0 at the start of the run, and at most this part of all its steps.
    warmup_steps: int = 0
    warmup_share: float = 0.05
    # Nothing grows while validation is not above chance by so many standard errors.
    chance_errors: float = 2.0
    # Halve the learning rate where validation accuracy (or loss) stalls; otherwise it is constant on the trunk.
    plateau: bool = True
    plateau_on: Literal["accuracy", "loss"] = "accuracy"
    lr_factor: float = 0.5
    lr_patience: int = 15
    l1: float = 1e-5
    # Of whole channels (torch's Dropout2d), after the first convolution of each block of a network of family secnn.
    channel_dropout: float = 0.0
    horizontal_flip: bool = True
    # Pixels by which a training image may be shifted in each direction.
    max_shift: int = 0
    # What comes in from outside then: black, or the image mirrored at its border; as of torchvision's RandomCrop.
    padding_mode: PaddingMode = "constant"
    # Smaller networks than this have them shifted less, by the root of their size: they have less to overfit with.
    full_shift_params: int = 1
    zoom: Zoom | None = None
    cutout: Cutout | None = None
    mixup: Mixup | None = None
    # Each checkpoint comes from a branch: the learning rate falls linearly to 0 and the weights are averaged. A branch
    # has this many epochs for each of the trunk's since the last checkpoint, and at least one; the trunk goes on from
    # its end. 0: the checkpoint is the trunk itself.
    anneal_share: float = 0.0
    # Of the exponential moving average of a branch's weights, per step.
    average_decay: float = 0.99
    # Epochs of a last pass in which each smaller checkpoint learns the answers of the best one. 0: none.
    distil_epochs: int = 0
    # Softens both networks' answers, and the share of the loss that is about them (Hinton et al., arXiv 1503.02531).
    distil_temperature: float = 2.0
    distil_weight: float = 0.5
    # Of the weights, an SPDX expression like Apache-2.0, for the checkpoints to say. It changes no number, so an
    # interrupted lesson is not known by it.
    license: str | None = field(default=None, repr=False)
    # bfloat16 for matrix products where the machine has units for it (CUDA, AMX); evaluation is float32 always.
    mixed_precision: bool = False
    # Compile the training step (a CUDA graph on a GPU, C++ on a CPU that has a compiler).
    compile: bool = False
    # Multiply-accumulates of an epoch's forward passes from which that pays: on a CPU it takes 10 to 20 s, and makes an
    # epoch of 45,000 CIFAR-10 images with 640,000 each (3e10) several seconds shorter.
    worth_compiling: float = 1e10
    # Threads on a CPU; None: as many as torch takes. Networks of a few thousand parameters gain nothing from a second,
    # and lose a factor of ten where another process wants the core (docs/log.md).
    cpu_threads: int | None = None

    def __post_init__(self) -> None:
        """Raises RunError for numbers that no run can have."""
        refuse_unless(self.seed >= 0, "seed", "a number from 0 on", self.seed)
        refuse_unless(self.epochs >= 1, "epochs", "1 or more", self.epochs)
        refuse_unless(self.distil_epochs >= 0, "distil_epochs", "0 or more", self.distil_epochs)
        expected = "an SPDX expression like Apache-2.0"
        is_one = self.license is None or re.match(LICENSE_PATTERN, self.license) is not None
        refuse_unless(is_one, "license", expected, repr(self.license))
        refuse_unless(self.batch_size >= 2, "batch_size", "2 or more, for batch norm", self.batch_size)
        refuse_unless(0 < self.learning_rate < inf, "learning_rate", "a number above 0", self.learning_rate)
