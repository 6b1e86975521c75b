"""What a checkpoint says about itself: architecture, preprocessing, classes, lineage, metrics, cost.

The descriptor is written into the safetensors metadata as one JSON string, so that a file alone says
everything; docs/descriptor-format.md gives it byte by byte. Models are frozen and refuse unknown keys:
a file of a later format is an error, not a guess.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from zoo.errors import DescriptorError
from zoo.network.cost import MAX_COUNT, num_params
from zoo.network.families.registry import AnyArchitecture

FORMAT_VERSION = 1

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
# One path segment of a URL: the name of a checkpoint is made of these.
SLUG = r"^[a-z0-9][a-z0-9._-]{0,63}$"
Slug = Annotated[str, Field(pattern=SLUG)]
# One too, longer: a name that slugs were joined to.
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]


LICENSE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9.+() -]{0,199}$"
License = Annotated[str, Field(pattern=LICENSE_PATTERN)]

# Of fields that were added to the format: left out where they are None, so that a file written before keeps its bytes.
ADDED_LATER: Any = Field(default=None, exclude_if=lambda value: value is None)


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Preprocessing(Frozen):
    """From image file to network input; the caller of a prediction has no say in it.

    Decode, convert to `color`, resize to the architecture's input size where it differs, then per channel
    (pixel / 255 - mean) / std. Of an image of another shape `crop` cuts out the middle;
    None ignores the aspect ratio, as in files written before there was a choice.
    """

    color: Literal["rgb", "gray"]
    resize: Literal["bilinear"] = "bilinear"
    fit: Literal["crop"] | None = ADDED_LATER
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]


class ExpansionStep(Frozen):
    """One growth step: what was done to the network, when, and the score that decided it."""

    epoch: Count
    kind: Literal["deepen", "widen"]
    block: Count
    layer_kind: Literal["conv", "residual"] | None = None
    channels_added: Count = 0
    params_before: Count
    params_after: Count
    score: float
    threshold: float
    exact: bool


class PretrainedTeacher(Frozen):
    """A network from elsewhere, fine-tuned on the data set, that taught and was not kept."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    # SHA-256 of the file that it began with.
    weights: Digest


class Lineage(Frozen):
    run: Slug
    seed: Count
    parent: Digest | None
    num_expansions: Count
    expansions: tuple[ExpansionStep, ...]
    # Of the trunk, whose growth goes on; the checkpoint was then annealed for `anneal_epochs` more, on a branch.
    epoch: Count
    anneal_epochs: Count = 0
    # The checkpoint whose answers this one then learned; `parent` is what it was before.
    distilled_from: Digest | None = None
    pretrained_teacher: PretrainedTeacher | None = ADDED_LATER
    # The larger checkpoint of whose channels this one kept the best; `parent` is the same.
    pruned_from: Digest | None = ADDED_LATER
    code_version: str

    @model_validator(mode="after")
    def _counts_agree(self) -> Lineage:
        if self.num_expansions != len(self.expansions):
            raise ValueError(f"num_expansions is {self.num_expansions}, {len(self.expansions)} are listed")
        return self


class Accuracy(Frozen):
    """Top-1 over n images of one split; `per_class` in the order of the classes, None where a class has none."""

    accuracy: Fraction
    n: Annotated[int, Field(ge=1, le=MAX_COUNT)]
    per_class: tuple[Fraction | None, ...]


# A matrix for 50 classes takes some 5 kB of a file, which a network of 4,000 parameters has 16 kB of.
MAX_CONFUSION_CLASSES = 50


class Metrics(Frozen):
    """`confusion`: how many test images of each class (row) were taken for each class (column)."""

    validation: Accuracy
    test: Accuracy | None
    confusion: tuple[tuple[Count, ...], ...] | None = ADDED_LATER

    @model_validator(mode="after")
    def _confusion_agrees(self) -> Metrics:
        if self.confusion is None:
            return self
        size = len(self.confusion)
        if size > MAX_CONFUSION_CLASSES or any(len(row) != size for row in self.confusion):
            raise ValueError(f"confusion is a square matrix of at most {MAX_CONFUSION_CLASSES} classes")
        total, correct = sum(map(sum, self.confusion)), sum(row[place] for place, row in enumerate(self.confusion))
        if self.test is None or total != self.test.n or correct != round(self.test.accuracy * self.test.n):
            raise ValueError(f"confusion counts {correct} right of {total} images, which the test accuracy does not")
        return self

    def confused(self, num_pairs: int) -> list[tuple[int, int, int]]:
        """The pairs most often confused: a class, what it was taken for, how often. The worst first."""
        pairs = (
            (count, row, column)
            for row, counts in enumerate(self.confusion or ())
            for column, count in enumerate(counts)
            if count and row != column
        )
        return [(row, column, count) for count, row, column in sorted(pairs, key=lambda pair: -pair[0])[:num_pairs]]


class Cost(Frozen):
    """What it took to get here, from the start of the run."""

    epochs: Count
    device: str
    device_seconds: Annotated[float, Field(ge=0)]
    training_flops: Count


def join_devices(*names: str) -> str:
    """Of what ran on several, or on several in turn: each device once, in that order, as `Cost.device` has them."""
    return "; ".join(dict.fromkeys(device for name in names for device in name.split("; ") if device))


class Content(Frozen):
    """The images and labels behind a data set's name (content.py), and which of the training images validate."""

    train: Digest
    validation: Digest
    test: Digest
    split: Digest


class Dataset(Frozen):
    """`content` None: unknown, as in files written before it was recorded."""

    name: Slug
    num_train: Count
    num_validation: Count
    num_test: Count
    content: Content | None = ADDED_LATER

    def is_other_than(self, other: Dataset) -> bool:
        """Whether these are known to be other images; what is unknown is not."""
        counted = {"num_train", "num_validation", "num_test"}
        if self.model_dump(include=counted) != other.model_dump(include=counted):
            return True
        return self.content is not None and other.content is not None and self.content != other.content


class Descriptor(Frozen):
    format_version: Literal[1] = 1
    dataset: Dataset
    architecture: AnyArchitecture
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    lineage: Lineage
    metrics: Metrics
    cost: Cost
    created_at: datetime
    # Of the weights, an SPDX expression like Apache-2.0. None: not stated.
    license: License | None = ADDED_LATER

    @field_validator("created_at")
    @classmethod
    def _in_utc(cls, value: datetime) -> datetime:
        offset = value.utcoffset()
        if offset is None or offset.total_seconds() != 0:
            raise ValueError("created_at must be in UTC, like 2026-11-21T02:00:00Z")
        return value

    @model_validator(mode="after")
    def _parts_agree(self) -> Descriptor:
        channels = self.architecture.input_channels
        wanted = {"rgb": 3, "gray": 1}[self.preprocessing.color]
        if channels != wanted:
            raise ValueError(f"{self.preprocessing.color} images have {wanted} channels, the input has {channels}")
        for name in ("mean", "std"):
            if len(getattr(self.preprocessing, name)) != channels:
                raise ValueError(f"{name} needs one number per channel, {channels}")
        if len(self.classes) != self.architecture.num_classes:
            raise ValueError(f"{len(self.classes)} classes named, the network has {self.architecture.num_classes}")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("class names repeat")
        for split in (self.metrics.validation, self.metrics.test):
            if split is not None and len(split.per_class) != len(self.classes):
                raise ValueError(f"per_class needs one entry per class, {len(self.classes)}")
        confusion = self.metrics.confusion
        if confusion is not None and len(confusion) != len(self.classes):
            raise ValueError(f"confusion needs a row for each class, {len(self.classes)}")
        return self

    @property
    def name(self) -> str:
        """For people: data set, run, seed, size. Two runs of one recipe share names; digests are unique."""
        params = num_params(self.architecture.graph())
        return f"{self.dataset.name}-{self.lineage.run}-s{self.lineage.seed}-{params}"

    def confused(self, num_pairs: int) -> list[str]:
        """The classes most often confused, the worst first, as `cat taken for dog: 12 of 100`; of the test images."""
        matrix = self.metrics.confusion or ()
        return [
            f"{self.classes[row]} taken for {self.classes[column]}: {count:,} of {sum(matrix[row]):,}"
            for row, column, count in self.metrics.confused(num_pairs)
        ]

    def to_json(self) -> str:
        return self.model_dump_json()


_VERSION = TypeAdapter(dict[str, Any])


def parse(text: str | bytes) -> Descriptor:
    """Raises DescriptorError for JSON that is not a descriptor of this format or no possible network."""
    try:
        version = _VERSION.validate_json(text).get("format_version")
        if version != FORMAT_VERSION:
            elastic = ": it has several levels, extract one of them (`zoo extract`)" if version == 2 else ""
            raise DescriptorError(f"format_version is {version!r}, this version reads {FORMAT_VERSION}{elastic}")
        descriptor = Descriptor.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "descriptor"
        raise DescriptorError(f"{place}: {first['msg']}") from error
    descriptor.architecture.graph()
    return descriptor
